//! Which address comes next.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use weft_ipam::{Policy, Range, RangeSet, Requestable, Taken, next};

/// The addresses that are taken, and how often somebody asked.
#[derive(Default)]
struct Leases {
    taken: BTreeSet<IpAddr>,
    questions: usize,
}

impl Taken for Leases {
    type Error = Infallible;

    fn first_free(&mut self, first: IpAddr, last: IpAddr) -> Result<Option<IpAddr>, Infallible> {
        self.questions += 1;
        let mut free = first;
        for taken in self.taken.range(first..=last) {
            if *taken != free {
                break;
            }
            match next(free) {
                Some(following) if free < last => free = following,
                _ => return Ok(None),
            }
        }
        Ok(Some(free))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(text: &str) -> BTreeSet<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

fn set(ranges: &[(&str, &str, &str)]) -> RangeSet {
    let end = |text: &str| (!text.is_empty()).then(|| ip(text));
    let make = |(subnet, first, last): &(&str, &str, &str)| {
        Range::new(subnet.parse().unwrap(), end(first), end(last), None).unwrap()
    };
    RangeSet::new(ranges.iter().map(make).collect()).unwrap()
}

fn subnets(text: &str) -> RangeSet {
    set(&text.split_whitespace().map(|subnet| (subnet, "", "")).collect::<Vec<_>>())
}

fn pick(set: &RangeSet, last: &str, leases: &mut Leases, policy: &Policy) -> Option<String> {
    let last = (!last.is_empty()).then(|| ip(last));
    set.next(last, policy, leases).unwrap().map(|choice| choice.address.ip().to_string())
}

#[test]
fn the_reference_allocators_round_robin_table() {
    for (sets, taken, last, expected) in [
        ("10.0.0.0/29", "", "", "10.0.0.2"),
        ("2001:db8:1::/64", "", "", "2001:db8:1::2"),
        ("10.0.0.0/30", "", "", "10.0.0.2"),
        ("10.0.0.0/29", "10.0.0.2", "", "10.0.0.3"),
        // after the last one
        ("10.0.0.0/29", "", "10.0.0.5", "10.0.0.6"),
        ("10.0.0.0/29", "10.0.0.4 10.0.0.5", "10.0.0.3", "10.0.0.6"),
        // around to the beginning
        ("10.0.0.0/29", "10.0.0.6", "10.0.0.5", "10.0.0.2"),
        // the last one is not of this set
        ("10.0.0.0/29", "10.0.0.2", "10.0.0.128", "10.0.0.3"),
        // nothing but the last one is left
        ("10.0.0.0/29", "10.0.0.2 10.0.0.4 10.0.0.5 10.0.0.6", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.0/30 10.0.1.0/30", "", "", "10.0.0.2"),
        ("10.0.0.0/30 10.0.1.0/30", "", "10.0.0.2", "10.0.1.2"),
        ("10.0.0.0/30 10.0.1.0/30 10.0.2.0/30", "", "10.0.2.2", "10.0.0.2"),
    ] {
        let mut leases = Leases { taken: ips(taken), questions: 0 };
        let got = pick(&subnets(sets), last, &mut leases, &Policy::default());
        assert_eq!(got.as_deref(), Some(expected), "{sets} after {last:?}");
    }
}

#[test]
fn a_full_set_has_nothing() {
    let mut leases = Leases { taken: ips("10.0.0.2"), questions: 0 };
    for last in ["", "10.0.0.2", "10.0.0.1"] {
        assert_eq!(pick(&subnets("10.0.0.0/30"), last, &mut leases, &Policy::default()), None);
    }
}

#[test]
fn given_ends_are_inclusive_and_may_be_the_subnets_edges() {
    let mut leases = Leases::default();
    let whole = set(&[("10.0.0.0/30", "10.0.0.0", "10.0.0.3")]);
    let mut last = String::new();
    let mut seen = Vec::new();
    while let Some(got) = pick(&whole, &last, &mut leases, &Policy::default()) {
        leases.taken.insert(ip(&got));
        seen.push(got.clone());
        last = got;
    }
    assert_eq!(seen, ["10.0.0.0", "10.0.0.2", "10.0.0.3"]);
}

#[test]
fn a_nearly_full_network_costs_few_questions() {
    let set = subnets("10.0.0.0/16");
    let mut leases = Leases::default();
    leases.taken.extend((2..65_534_u32).map(|host| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + host))));
    let (got, _) = (pick(&set, "10.0.0.77", &mut leases, &Policy::default()), &leases);
    assert_eq!(got.as_deref(), Some("10.0.255.254"));
    assert!(leases.questions <= 3, "{}", leases.questions);
}

#[test]
fn avoided_addresses_come_last_and_reserved_ones_never() {
    let set = subnets("10.0.0.0/29");
    let policy = Policy {
        reserved: ips("10.0.0.4 10.9.9.9"),
        avoid: ips("10.0.0.2 10.0.0.4 10.0.0.6"),
        ..Policy::default()
    };
    let mut leases = Leases::default();
    let mut seen = Vec::new();
    while let Some(got) = pick(&set, seen.last().map_or("", |last: &String| last), &mut leases, &policy) {
        leases.taken.insert(ip(&got));
        seen.push(got);
    }
    assert_eq!(seen, ["10.0.0.3", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
}

#[test]
fn the_end_of_the_address_space_is_no_trap() {
    let four = set(&[("255.255.255.252/30", "", "255.255.255.255")]);
    let six = set(&[("ffff:ffff:ffff:ffff::/64", "", "")]);
    let policy = Policy {
        reserved: ips("255.255.255.255 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ..Policy::default()
    };
    let mut leases = Leases::default();
    assert_eq!(pick(&four, "255.255.255.254", &mut leases, &policy).as_deref(), Some("255.255.255.254"));
    assert_eq!(pick(&four, "255.255.255.255", &mut leases, &policy).as_deref(), Some("255.255.255.254"));
    let almost = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
    assert_eq!(pick(&six, almost, &mut leases, &policy).as_deref(), Some("ffff:ffff:ffff:ffff::2"));
}

#[test]
fn requests() {
    let narrow = set(&[("10.0.0.0/24", "10.0.0.100", "10.0.0.110")]);
    let range = Policy { reserved: ips("10.0.0.105"), ..Policy::default() };
    let subnet = Policy { requestable: Requestable::Subnet, ..range.clone() };
    let ask = |text: &str, policy: &Policy| match narrow.request(ip(text), policy) {
        Ok(choice) => choice.address.to_string(),
        Err(error) => error.to_string(),
    };
    assert_eq!(ask("10.0.0.100", &range), "10.0.0.100/24");
    assert_eq!(ask("10.0.0.99", &range), "10.0.0.99 not in range set 10.0.0.100-10.0.0.110");
    assert_eq!(ask("10.0.0.105", &range), "requested IP address 10.0.0.105 is reserved");
    assert_eq!(ask("10.0.0.99", &subnet), "10.0.0.99/24");
    assert_eq!(ask("10.0.0.1", &subnet), "requested ip 10.0.0.1 is subnet's gateway");
    assert_eq!(
        ask("10.0.0.255", &subnet),
        "requested IP address 10.0.0.255 is the network or broadcast address of 10.0.0.0/24"
    );
    assert_eq!(ask("10.0.1.7", &subnet), "10.0.1.7 not in range set 10.0.0.100-10.0.0.110");
    assert_eq!(ask("::1", &subnet), "::1 not in range set 10.0.0.100-10.0.0.110");
    assert!(narrow.is_asked_for(ip("10.0.0.99"), &subnet) && !narrow.is_asked_for(ip("10.0.0.99"), &range));
}

/// A range set of one to three small subnets, IPv4 or IPv6, with given or default ends.
fn any_set() -> impl Strategy<Value = RangeSet> {
    let range = (0..=4_u128, any::<(u16, u16)>(), any::<bool>());
    (prop::collection::vec(range, 1..4), any::<bool>()).prop_map(|(ranges, four)| {
        let make = |(index, (bits, (one, two), whole)): (usize, (u128, (u16, u16), bool))| {
            let (base, length, kind) =
                if four { (0x0a00_0000, 32, ip("0.0.0.0")) } else { (0xfd00_u128 << 112, 128, ip("::")) };
            let size = 4 << bits;
            let network = base + (index as u128) * 256;
            let at = |number: u128| match kind {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap())),
                IpAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::from(number)),
            };
            let (one, two) = (u128::from(one) % (size - 2) + 1, u128::from(two) % (size - 2) + 1);
            let (first, last) = (network + one.min(two), network + one.max(two));
            let subnet = format!("{}/{}", at(network), length - 2 - bits).parse().unwrap();
            let ends = if whole { (None, None) } else { (Some(at(first)), Some(at(last))) };
            Range::new(subnet, ends.0, ends.1, None).unwrap()
        };
        RangeSet::new(ranges.into_iter().enumerate().map(make).collect()).unwrap()
    })
}

/// Every address of a set that may be handed out.
fn usable(set: &RangeSet, policy: &Policy) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::new();
    for range in set.ranges() {
        let mut at = Some(range.start());
        while let Some(ip) = at.filter(|ip| *ip <= range.end()) {
            all.insert(ip);
            at = next(ip);
        }
    }
    all.retain(|ip| !policy.reserved.contains(ip) && set.ranges().iter().all(|range| range.gateway() != *ip));
    all
}

/// A policy and taken addresses that hit the set more often than not.
fn any_case() -> impl Strategy<Value = (RangeSet, Policy, BTreeSet<IpAddr>, Option<IpAddr>)> {
    any_set().prop_flat_map(|set| {
        let mut all: Vec<IpAddr> = set.ranges().iter().map(Range::gateway).collect();
        all.extend(usable(&set, &Policy::default()));
        let some = |most: usize| {
            prop::collection::btree_set(prop::sample::select(all.clone()), 0..=most.min(all.len()))
        };
        let last = prop::option::of(prop::sample::select(all.clone()));
        (Just(set), some(4), some(6), some(usize::MAX), last).prop_map(
            |(set, reserved, avoid, taken, last)| {
                (set, Policy { reserved, avoid, requestable: Requestable::Range }, taken, last)
            },
        )
    })
}

proptest! {
    #[test]
    fn what_is_handed_out_is_free_and_allowed((set, policy, taken, last) in any_case()) {
        let mut leases = Leases { taken: taken.clone(), questions: 0 };
        let free: BTreeSet<IpAddr> = usable(&set, &policy).difference(&taken).copied().collect();
        match set.next(last, &policy, &mut leases).unwrap() {
            None => prop_assert!(free.is_empty(), "{free:?} were free"),
            Some(choice) => {
                let got = choice.address.ip();
                prop_assert!(free.contains(&got));
                let range = set.ranges().iter().find(|range| range.contains(got)).unwrap();
                prop_assert_eq!(choice.address.prefix(), range.subnet().prefix());
                prop_assert_eq!(choice.gateway, range.gateway());
                prop_assert!(!range.is_edge(got));
                if policy.avoid.contains(&got) {
                    prop_assert!(free.is_subset(&policy.avoid), "{got} before {free:?}");
                }
                prop_assert!(set.request(got, &policy).is_ok());
            }
        }
    }

    #[test]
    fn a_round_visits_each_address_once((set, policy, taken, last) in any_case()) {
        let free: BTreeSet<IpAddr> = usable(&set, &policy).difference(&taken).copied().collect();
        let mut leases = Leases { taken, questions: 0 };
        let mut last = last;
        let mut seen = BTreeSet::new();
        while let Some(choice) = set.next(last, &policy, &mut leases).unwrap() {
            let got = choice.address.ip();
            prop_assert!(seen.insert(got), "{got} twice");
            leases.taken.insert(got);
            last = Some(got);
        }
        prop_assert_eq!(seen, free);
    }

    #[test]
    fn an_address_that_came_back_rests_for_a_round(set in any_set()) {
        let all = usable(&set, &Policy::default());
        let mut leases = Leases::default();
        let mut last = None;
        let mut seen = BTreeSet::new();
        // Each is given back at once, and still every other one comes first.
        for _ in 0..all.len() {
            let got = set.next(last, &Policy::default(), &mut leases).unwrap().unwrap().address.ip();
            prop_assert!(seen.insert(got));
            last = Some(got);
        }
        prop_assert_eq!(seen, all);
    }
}
