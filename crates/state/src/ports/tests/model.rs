//! What may be claimed, tried at random against a list.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Publish(u8, Vec<Publication>),
    Killed(u8, Vec<Publication>),
    Unpublish(u8),
}

fn publications() -> impl Strategy<Value = Vec<Publication>> {
    let hosts = prop_oneof![Just("0.0.0.0"), Just("127.0.0.1"), Just("192.0.2.1"), Just("::"), Just("::1")];
    let ports = (250_u16..270, prop_oneof![3 => Just(0_u16), 1 => 1_u16..300]);
    let one = (hosts, ports)
        .prop_map(|(host, (first, more))| publication(host, &format!("{first}-{}", first + more)));
    prop::collection::vec(one, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4, publications()).prop_map(|(who, list)| Step::Publish(who, list)),
        1 => (0_u8..4, publications()).prop_map(|(who, list)| Step::Killed(who, list)),
        2 => (0_u8..4).prop_map(Step::Unpublish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_port_has_one_holder(steps in prop::collection::vec(step(), 1..24)) {
        let (_dir, books) = books();
        let mut held: [Vec<Publication>; 4] = Default::default();
        for step in steps {
            match step {
                Step::Publish(who, list) => {
                    let name = format!("c{who}");
                    let mut change = books.change(&endpoint(&name)).unwrap();
                    change.settle().unwrap();
                    let outcome = change.claim(wanted(&name, &list), &[], &mut |_, _, _| true);
                    let collides = |one: &Publication| {
                        held.iter().enumerate().any(|(other, theirs)| {
                            other != usize::from(who) && theirs.iter().any(|their| their.collides(one))
                        })
                    };
                    let twice = (1..list.len()).any(|i| list[..i].iter().any(|one| one.collides(&list[i])));
                    prop_assert_eq!(outcome.is_err(), twice || list.iter().any(collides), "{:?}", outcome);
                    if let Ok(claimed) = outcome {
                        change.confirm(&claimed).unwrap();
                        held[usize::from(who)] = list;
                    }
                }
                Step::Killed(who, list) => {
                    let name = format!("c{who}");
                    let mut change = books.change(&endpoint(&name)).unwrap();
                    change.settle().unwrap();
                    drop(change.claim(wanted(&name, &list), &[], &mut |_, _, _| true));
                }
                Step::Unpublish(who) => {
                    unpublish(&books, &format!("c{who}"));
                    held[usize::from(who)].clear();
                }
            }
            for (who, list) in held.iter().enumerate() {
                let owner = books.owner(&format!("c{who}").parse().unwrap(), &"eth0".parse().unwrap());
                let known = owner.map(|owner| owner.publications).unwrap_or_default();
                prop_assert_eq!(&known, list, "c{}", who);
            }
            let standing = books.standing().unwrap();
            for (owner, claims) in standing {
                prop_assert_eq!(claims, owner.claims(), "everything confirmed is claimed");
            }
        }
        for who in 0..4 {
            unpublish(&books, &format!("c{who}"));
        }
        prop_assert_eq!(files(&books), BTreeSet::new());
    }
}
