use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lease(holder: u64, address: &str) -> Lease {
    Lease { holder, address: ip(address), boot: 7, written: 9 }
}

fn sorted(mut leases: Vec<Lease>) -> Vec<Lease> {
    leases.sort_by_key(|lease| (lease.address, lease.holder));
    leases
}

#[test]
fn an_index_survives_being_saved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases");
    let leases = [lease(11, "10.0.0.2"), lease(11, "2001:db8::2"), lease(12, "10.0.0.3")];
    let state = State { inode: 1, seconds: -2, nanos: 3, boot: 4 };
    Index::new(&leases).save(&path, &state).unwrap();

    let (mut index, found) = Index::open(&path).unwrap();
    assert_eq!(found, state);
    assert_eq!(sorted(index.of_holder(11).unwrap()), [leases[0], leases[1]]);
    assert_eq!(index.first_free(ip("10.0.0.2"), ip("10.0.0.9")).unwrap(), Some(ip("10.0.0.4")));
    index.remove(11, ip("10.0.0.2")).unwrap();
    index.insert(&lease(13, "10.0.0.4")).unwrap();
    index.save(&path, &State { seconds: 5, ..state }).unwrap();

    let (index, found) = Index::open(&path).unwrap();
    assert_eq!(found.seconds, 5);
    assert_eq!(sorted(index.leases().unwrap()), [leases[2], lease(13, "10.0.0.4"), leases[1]]);
    assert_eq!(index.first_free(ip("10.0.0.2"), ip("10.0.0.9")).unwrap(), Some(ip("10.0.0.2")));
    assert_eq!(index.first_free(ip("10.0.0.3"), ip("10.0.0.4")).unwrap(), None);
}

#[test]
fn a_damaged_file_is_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases");
    assert!(Index::open(&path).is_none());
    Index::new(&[lease(11, "10.0.0.2")]).save(&path, &State::default()).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut other_magic = good.clone();
    other_magic[0] ^= 1;
    let mut odd_size = good.clone();
    odd_size[40] = 100;
    let mut overfull = good.clone();
    overfull[45] = 255;
    for bad in [&good[..0], &good[..63], &good[..good.len() - 1], &other_magic, &odd_size, &overfull] {
        atomic::write(&path, bad, Durability::Boot, 0o600).unwrap();
        assert!(Index::open(&path).is_none());
    }
}

#[test]
fn holders_with_neighbouring_numbers_do_not_mix() {
    // All of these belong into the last slots of the smallest table, so that searches wrap around.
    let mut index = Index::new(&[]);
    let holder = |number: u64| 127 + 128 * (number + 1);
    for number in 0..60 {
        index.insert(&lease(holder(number), &format!("10.0.0.{number}"))).unwrap();
    }
    for number in (0..60).step_by(2) {
        index.remove(holder(number), ip(&format!("10.0.0.{number}"))).unwrap();
    }
    for number in 0..60 {
        assert_eq!(index.of_holder(holder(number)).unwrap().len(), usize::from(number % 2 == 1), "{number}");
    }
    for number in (0..60).step_by(2) {
        index.insert(&lease(holder(number), &format!("10.0.1.{number}"))).unwrap();
    }
    assert_eq!(index.slots.used, 60, "slots that were given up are used again");
}

#[test]
fn coming_and_going_does_not_wear_an_index_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leases");
    Index::new(&[]).save(&path, &State::default()).unwrap();
    let (mut index, _) = Index::open(&path).unwrap();
    for round in 0..5000_u32 {
        let address = IpAddr::from(Ipv6Addr::from(u128::from(round) << 40));
        let holder = mix(u64::from(round)).max(3);
        index.insert(&Lease { holder, address, boot: 1, written: 1 }).unwrap();
        assert_eq!(index.of_holder(holder).unwrap().len(), 1);
        index.remove(holder, address).unwrap();
        assert!(index.of_holder(holder).unwrap().is_empty());
    }
    assert_eq!((index.slots.entries, index.blocks.entries), (128, 32));
    assert!(index.leases().unwrap().is_empty());
}

#[test]
fn runs_cross_blocks_and_end_with_the_family() {
    let taken = (0..2000_u32).map(|host| Lease {
        holder: 5,
        address: std::net::Ipv4Addr::from(0x0a00_0100 + host).into(),
        boot: 0,
        written: 0,
    });
    let index = Index::new(&taken.collect::<Vec<_>>());
    assert_eq!(index.first_free(ip("10.0.1.0"), ip("10.0.255.255")).unwrap(), Some(ip("10.0.8.208")));
    assert_eq!(index.first_free(ip("10.0.1.0"), ip("10.0.8.207")).unwrap(), None);
    assert_eq!(index.first_free(ip("10.0.0.255"), ip("10.0.8.207")).unwrap(), Some(ip("10.0.0.255")));
    let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let index = Index::new(&[lease(5, end), lease(6, "255.255.255.255")]);
    assert_eq!(index.first_free(ip(end), ip(end)).unwrap(), None);
    assert_eq!(index.first_free(ip("255.255.255.255"), ip("255.255.255.255")).unwrap(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u16),
    Remove(u64, u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let pair = || (3..9_u64, 0..1500_u16);
    prop_oneof![
        3 => pair().prop_map(|(holder, address)| Step::Insert(holder, address)),
        2 => pair().prop_map(|(holder, address)| Step::Remove(holder, address)),
    ]
}

proptest! {
    #[test]
    fn an_index_is_a_map(steps in prop::collection::vec(any_step(), 0..400), on_disk in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut index = Index::new(&[]);
        if on_disk {
            index.save(&path, &State::default()).unwrap();
            index = Index::open(&path).unwrap().0;
        }
        let at = |number: u16| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + u32::from(number)));
        let mut model: HashMap<u16, u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(holder, number) => {
                    if let std::collections::hash_map::Entry::Vacant(free) = model.entry(number) {
                        free.insert(holder);
                        index.insert(&Lease { holder, address: at(number), boot: 1, written: 2 }).unwrap();
                    }
                }
                Step::Remove(holder, number) => {
                    if model.get(&number) == Some(&holder) {
                        model.remove(&number);
                    }
                    if !model.contains_key(&number) {
                        index.remove(holder, at(number)).unwrap();
                    }
                }
            }
        }
        for holder in 3..9 {
            let mut found: Vec<IpAddr> = index.of_holder(holder).unwrap().iter().map(|lease| lease.address).collect();
            found.sort();
            let mut wanted: Vec<IpAddr> = model.iter().filter(|(_, one)| **one == holder).map(|(number, _)| at(*number)).collect();
            wanted.sort();
            prop_assert_eq!(found, wanted);
        }
        for number in (0..1500).step_by(37) {
            let wanted = (number..1500).find(|number| !model.contains_key(number)).map(at);
            prop_assert_eq!(index.first_free(at(number), at(1499)).unwrap(), wanted);
        }
    }
}
