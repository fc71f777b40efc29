use proptest::prelude::*;

use super::*;
use crate::ids::NetworkId;
use crate::records::{Egress, Encryption, Pool};

const LENGTHS: BlockLength = BlockLength { v4: 26, v6: 122 };
const DAY: u64 = 24 * 3600 * 1000;

fn host(number: u8) -> HostId {
    HostId::new([number; 16])
}

fn network(name: &str, subnets: &[&str]) -> Network {
    Network {
        id: NetworkId::new([name.as_bytes()[0]; 16]),
        name: name.parse().unwrap(),
        generation: 1,
        vni: 4096.try_into().unwrap(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        encryption: Encryption::None,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: Default::default(),
        options: Default::default(),
        created: String::new(),
    }
}

fn block(cidr: &str, of: u8, state: BlockState) -> Block {
    Block { network: NetworkId::new([1; 16]), cidr: cidr.parse().unwrap(), host: host(of), epoch: 1, state }
}

fn claimer(of: u8, start: u64) -> Claimer {
    Claimer { host: host(of), now: 10 * DAY, quarantine: 24 * 3600, start }
}

fn chosen(known: &[Block], claimer: Claimer) -> Vec<String> {
    let subnet = "10.1.0.0/24".parse().unwrap();
    candidates(subnet, 26, known, claimer, 9).iter().map(ToString::to_string).collect()
}

#[test]
fn a_subnet_is_cut_from_wherever_the_search_begins() {
    assert_eq!(chosen(&[], claimer(1, 2)), ["10.1.0.128/26", "10.1.0.192/26", "10.1.0.0/26", "10.1.0.64/26"]);
    let six: IpNetwork = "2001:db8::/64".parse().unwrap();
    let first = candidates(six, length_in(six, LENGTHS), &[], claimer(1, 1), 1);
    assert_eq!(first[0].to_string(), "2001:db8::40/122");
    let small: IpNetwork = "10.1.0.0/28".parse().unwrap();
    assert_eq!(candidates(small, length_in(small, LENGTHS), &[], claimer(1, 5), 9), [small]);
}

#[test]
fn what_one_had_comes_first_and_what_others_had_last() {
    let known = [
        block("10.1.0.0/26", 2, BlockState::Quarantine { since: 8 * DAY }),
        block("10.1.0.64/26", 3, BlockState::Quarantine { since: 7 * DAY }),
        block("10.1.0.128/26", 4, BlockState::Active),
    ];
    assert_eq!(chosen(&known, claimer(9, 0)), ["10.1.0.192/26", "10.1.0.64/26", "10.1.0.0/26"]);
    assert_eq!(chosen(&known, claimer(2, 0)), ["10.1.0.0/26", "10.1.0.192/26", "10.1.0.64/26"]);
}

#[test]
fn a_quarantine_has_to_be_over() {
    let since = |since| [block("10.1.0.0/26", 2, BlockState::Quarantine { since })];
    assert!(!chosen(&since(9 * DAY + 1), claimer(9, 0)).contains(&"10.1.0.0/26".into()));
    assert!(chosen(&since(9 * DAY), claimer(9, 0)).contains(&"10.1.0.0/26".into()));
    // A clock that is far ahead does not make a sum overflow.
    assert!(!chosen(&since(u64::MAX), claimer(9, 0)).contains(&"10.1.0.0/26".into()));
}

#[test]
fn a_block_of_another_length_is_not_overlapped() {
    let known = [block("10.1.0.64/27", 2, BlockState::Active)];
    assert_eq!(chosen(&known, claimer(1, 0)), ["10.1.0.0/26", "10.1.0.128/26", "10.1.0.192/26"]);
    let wide = [block("10.1.0.0/25", 2, BlockState::Reserved)];
    assert_eq!(chosen(&wide, claimer(1, 0)), ["10.1.0.128/26", "10.1.0.192/26"]);
}

#[test]
fn a_block_has_a_next_hop_and_a_gateway() {
    let block: IpNetwork = "10.1.0.64/26".parse().unwrap();
    assert_eq!(next_hop(block).to_string(), "10.1.0.64");
    assert_eq!(gateway(block).unwrap().to_string(), "10.1.0.65");
    assert_eq!(gateway("10.1.0.1/32".parse().unwrap()), None);
    assert_eq!(gateway("255.255.255.255/32".parse().unwrap()), None);
}

#[test]
fn an_address_is_borrowed_out_of_nobodys_block() {
    let blue = network("blue", &["10.1.0.0/24"]);
    let known = [block("10.1.0.0/26", 1, BlockState::Active), block("10.1.0.64/26", 2, BlockState::Reserved)];
    let borrows = [Borrow {
        network: blue.id,
        address: "10.1.0.70".parse().unwrap(),
        host: host(2),
        holder: "db".into(),
        epoch: 1,
        state: BorrowState::Active,
    }];
    let way = |address: &str, of: u8| {
        let address = address.parse().unwrap();
        way_to(&blue, address, host(of), LENGTHS, &known, &borrows).map_err(|error| error.to_string())
    };
    let lend = |block: &str| Ok(Way::Borrow { block: block.parse().unwrap() });
    assert_eq!(way("10.1.0.9", 1), Ok(Way::Own));
    assert_eq!(way("10.1.0.200", 1), lend("10.1.0.192/26"));
    assert_eq!(way("10.1.0.71", 1), lend("10.1.0.64/26"));
    assert_eq!(way("10.1.0.70", 2), Ok(Way::Own), "it has it already");
    let ask = Way::Ask { block: "10.1.0.0/26".parse().unwrap(), owner: host(1) };
    assert_eq!(way("10.1.0.9", 2), Ok(ask));
    for (address, of, words) in [
        (
            "10.1.0.1",
            2,
            "10.1.0.1 is the first, the last or the gateway's of 10.1.0.0/26, a block of host 0101",
        ),
        ("10.1.0.63", 2, "10.1.0.63 is the first, the last or the gateway's"),
        ("10.1.0.70", 1, "host 02020202020202020202020202020202 has 10.1.0.70 already, for db"),
        ("10.2.0.1", 1, "10.2.0.1 is in no subnet of network blue"),
        ("10.1.0.0", 1, "10.1.0.0 is the first or last address of 10.1.0.0/24"),
        ("10.1.0.255", 1, "10.1.0.255 is the first or last address of 10.1.0.0/24"),
    ] {
        let error = way(address, of).unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn an_address_that_is_asked_for_is_nobody_elses_until_that_is_refused() {
    let blue = network("blue", &["10.1.0.0/24"]);
    let known = [
        block("10.1.0.0/26", 1, BlockState::Active),
        block("10.1.0.64/26", 1, BlockState::Quarantine { since: 1 }),
    ];
    let way = |address: &str, of: u8, state: BorrowState| {
        let borrow = Borrow {
            network: blue.id,
            address: "10.1.0.9".parse().unwrap(),
            host: host(2),
            holder: "db".into(),
            epoch: 1,
            state,
        };
        way_to(&blue, address.parse().unwrap(), host(of), LENGTHS, &known, &[borrow])
    };
    let ask = Ok(Way::Ask { block: "10.1.0.0/26".parse().unwrap(), owner: host(1) });
    assert_eq!(way("10.1.0.9", 2, BorrowState::Asked), ask);
    assert!(matches!(way("10.1.0.9", 3, BorrowState::Asked), Err(Taken::Borrowed { .. })));
    assert!(matches!(way("10.1.0.9", 1, BorrowState::Active), Err(Taken::Borrowed { .. })));
    assert_eq!(way("10.1.0.9", 3, BorrowState::Refused { why: "no".into() }), ask);
    assert!(matches!(way("10.1.0.99", 2, BorrowState::Active), Err(Taken::Quarantined { .. })));
}

#[test]
fn subnets_are_apart() {
    let red = network("red", &["10.2.0.0/16", "2001:db8:2::/64"]);
    let check = |subnets: &[&str], isolated: bool, other_isolated: bool| {
        let new = Network { isolated, ..network("blue", subnets) };
        let red = Network { isolated: other_isolated, ..red.clone() };
        let underlays = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        check_subnets(&new, LENGTHS, [&red], underlays).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["10.1.0.0/16", "2001:db8:1::/64"], false, false), Ok(()));
    assert_eq!(check(&["10.2.0.0/16"], true, true), Ok(()));
    for (subnets, words) in [
        (&["10.2.3.0/24"][..], "subnet 10.2.3.0/24 overlaps 10.2.0.0/16 of network red"),
        (&["10.0.0.0/8"], "subnet 10.0.0.0/8 overlaps 10.2.0.0/16 of network red"),
        (&["2001:db8:2::/80"], "subnet 2001:db8:2::/80 overlaps 2001:db8:2::/64 of network red"),
        (&["192.0.0.0/16"], "subnet 192.0.0.0/16 overlaps 192.0.2.1/32 of a host's underlay"),
        (&["10.1.0.0/16", "10.1.2.0/24"], "subnet 10.1.2.0/24 overlaps 10.1.0.0/16 of the same network"),
        (&["10.1.0.0/31"], "subnet 10.1.0.0/31 is too small"),
    ] {
        let error = check(subnets, false, true).unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn a_pool_gives_the_first_free_subnet() {
    let pools = [Pool { base: "10.0.0.0/14".parse().unwrap(), size: 16 }];
    let red = network("red", &["10.0.0.0/15"]);
    let free = |others: &[Network], underlay: &str| {
        free_subnet(&pools, others, [underlay.parse().unwrap()]).map(|subnet| subnet.to_string())
    };
    assert_eq!(free(&[], "192.0.2.1").as_deref(), Some("10.0.0.0/16"));
    assert_eq!(free(std::slice::from_ref(&red), "192.0.2.1").as_deref(), Some("10.2.0.0/16"));
    assert_eq!(free(std::slice::from_ref(&red), "10.2.0.1").as_deref(), Some("10.3.0.0/16"));
    let all = [red, network("green", &["10.2.0.0/15"])];
    assert_eq!(free(&all, "192.0.2.1"), None);
}

proptest! {
    /// Whatever has been claimed: no candidate overlaps an active block, and all lie in the subnet.
    #[test]
    fn candidates_never_overlap(
        taken in proptest::collection::vec((0u32..256, 24u8..=30, any::<bool>()), 0..30),
        start in any::<u64>(),
    ) {
        let subnet: IpNetwork = "10.1.0.0/20".parse().unwrap();
        // A store has one record of a block.
        let known: std::collections::BTreeMap<IpNetwork, Block> = taken.iter().map(|(sixteenth, length, active)| {
            let address = std::net::Ipv4Addr::from(0x0a01_0000 + sixteenth * 16);
            let exact = IpNetwork::new(address.into(), *length).unwrap();
            let state = if *active { BlockState::Active } else { BlockState::Quarantine { since: 0 } };
            let block = block(&format!("{}/{length}", exact.network()), 2, state);
            (block.cidr, block)
        }).collect();
        let known: Vec<Block> = known.into_values().collect();
        for candidate in candidates(subnet, 26, &known, claimer(1, start), 64) {
            prop_assert!(subnet.contains(candidate.network()) && candidate.prefix() == 26);
            let other = known.iter().find(|block| {
                overlap(block.cidr, candidate) && (block.state == BlockState::Active || block.cidr != candidate)
            });
            prop_assert!(other.is_none(), "{} overlaps {:?}", candidate, other);
        }
    }
}
