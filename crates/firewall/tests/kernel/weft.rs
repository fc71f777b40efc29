//! Our own table: made once, shared by networks, restored when broken.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use weft_firewall::{Backend, Change, Firewall, FirewallError, Fragment, ensure, observe, remove};
use weft_netns::isolate;
use weft_nft::{Family, Key, Set, Socket, Table, Transaction, Type};

use crate::lab::{attachment, claims, endpoint, has, is_documented, loads, network, ruleset, sh};

const TABLE: Table = Table::new(Family::Inet, "weft");

fn on(network: &str, subnets: &[&str]) -> Fragment {
    attachment(Backend::Weft, &endpoint(network, "c1", "eth0"), subnets)
}

fn is_masqueraded(subnet: &str) -> bool {
    let (address, len) = subnet.split_once('/').unwrap();
    let address: IpAddr = address.parse().unwrap();
    let (family, key): (_, &'static [Type]) = match address {
        IpAddr::V4(_) => (4, &[Type::Ipv4Addr, Type::Ipv4Addr]),
        IpAddr::V6(_) => (6, &[Type::Ipv6Addr, Type::Ipv6Addr]),
    };
    let set = Set::new(TABLE, format!("masq{family}_{len}"), key);
    let found = Socket::open().unwrap().element(&set, &Key::new().addr(address).addr(address)).unwrap();
    found.is_some_and(|element| element.expires.is_none())
}

fn rule_counts() -> [usize; 3] {
    let mut socket = Socket::open().unwrap();
    ["postrouting", "same_subnet", "from_ours"].map(|chain| socket.rules(TABLE, chain).unwrap().len())
}

#[test]
fn the_table_reads_as_documented() {
    isolate().unwrap();
    ensure(&on("n1", &["10.1.2.0/24", "fd00:1::/64"])).unwrap();
    ensure(&on("n2", &["10.2.0.0/16"])).unwrap();
    is_documented("table inet weft");
    loads();
}

#[test]
fn the_second_time_nothing_changes() {
    isolate().unwrap();
    let fragment = on("n1", &["10.1.2.3/24", "fd00:1::1/64"]);
    assert_eq!(ensure(&fragment).unwrap(), Change::Made);
    let generation = Socket::open().unwrap().generation().unwrap();
    assert_eq!(ensure(&fragment).unwrap(), Change::AlreadyThere);
    assert_eq!(ensure(&on("n2", &["10.1.2.0/24"])).unwrap(), Change::Made, "a claim to take back");
    assert_eq!(ensure(&on("n2", &["10.1.2.9/24"])).unwrap(), Change::AlreadyThere, "host bits do not count");
    assert_eq!(Socket::open().unwrap().generation().unwrap(), generation, "not one transaction");
}

#[test]
fn many_processes_at_once_make_every_rule_once() {
    isolate().unwrap();
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for i in 0..16 {
                    let len = 16 + i % 4;
                    let own = format!("10.{worker}.{i}.0/24");
                    ensure(&on(&format!("n{worker}"), &["172.16.0.0/12", &own])).unwrap();
                    ensure(&on(&format!("n{worker}"), &[&format!("11.{worker}.0.0/{len}")])).unwrap();
                }
            });
        }
    });
    // The lengths /12, /24 and /16 to /19.
    assert_eq!(rule_counts(), [2, 6, 6]);
    assert_eq!(observe(&on("n3", &["172.16.0.0/12", "10.3.15.0/24"])).unwrap(), Vec::<String>::new());
}

#[test]
fn a_subnet_goes_with_the_last_network_that_wants_it() {
    isolate().unwrap();
    ensure(&on("n1", &["10.1.0.0/16", "10.7.0.0/16"])).unwrap();
    ensure(&on("n2", &["10.1.0.0/16"])).unwrap();

    remove(&network("n1")).unwrap();
    assert!(is_masqueraded("10.1.0.0/16"), "n2 wants it");
    assert!(!is_masqueraded("10.7.0.0/16"));
    remove(&network("n1")).unwrap();
    assert!(is_masqueraded("10.1.0.0/16"), "removing twice is removing once");

    remove(&network("n2")).unwrap();
    assert!(!is_masqueraded("10.1.0.0/16"));
    ensure(&on("n2", &["10.1.0.0/16"])).unwrap();
    assert!(is_masqueraded("10.1.0.0/16"), "it comes back");
}

#[test]
fn an_attachment_leaves_the_networks_subnet_alone() {
    isolate().unwrap();
    let fragment = on("n1", &["10.1.0.0/16"]);
    ensure(&fragment).unwrap();
    remove(&fragment).unwrap();
    assert!(is_masqueraded("10.1.0.0/16"));
}

#[test]
fn a_network_that_comes_and_goes_never_takes_anothers_subnet() {
    isolate().unwrap();
    let stays = on("stays", &["10.1.0.0/16"]);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for _ in 0..300 {
                ensure(&on("churns", &["10.1.0.0/16"])).unwrap();
                remove(&network("churns")).unwrap();
            }
        });
        while !churn.is_finished() {
            ensure(&stays).unwrap();
            thread::yield_now();
            remove(&network("stays")).unwrap();
        }
        ensure(&stays).unwrap();
    });
    // An element that is about to expire would be gone by now.
    thread::sleep(Duration::from_millis(20));
    assert_eq!(observe(&stays).unwrap(), Vec::<String>::new());
}

#[test]
fn subnets_may_lie_inside_each_other() {
    isolate().unwrap();
    ensure(&on("wide", &["10.0.0.0/8"])).unwrap();
    ensure(&on("narrow", &["10.1.0.0/16", "10.1.0.0/24"])).unwrap();
    for subnet in ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24"] {
        assert!(is_masqueraded(subnet), "{subnet}");
    }
}

#[test]
fn what_a_flush_took_is_missed_and_comes_back() {
    if !has("nft") {
        return;
    }
    isolate().unwrap();
    let fragment = on("n1", &["10.1.0.0/16", "fd00:1::/64"]);
    ensure(&fragment).unwrap();
    ensure(&on("n2", &["10.2.0.0/16"])).unwrap();
    let whole = ruleset();

    sh("nft flush ruleset");
    assert_eq!(observe(&fragment).unwrap(), ["table inet weft"]);
    Firewall::new().rebuild(&claims()).unwrap();
    assert_eq!(sorted(&ruleset()), sorted(&whole), "both networks are back");

    sh("nft flush chain inet weft from_ours");
    assert_eq!(observe(&fragment).unwrap().len(), 2, "one rule per family");
    Firewall::new().rebuild(&claims()).unwrap();
    assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());

    sh("nft flush ruleset");
    assert_eq!(ensure(&fragment).unwrap(), Change::Made, "ADD alone heals its own network");
    assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());
}

/// The lines of a listing without order: sets are listed as they were made.
fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<_> = listing.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_table_without_its_chains_is_written_anew() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let half = TABLE.chain("same_subnet");
    let base = weft_nft::Base {
        kind: weft_nft::ChainKind::Nat,
        hook: weft_nft::Hook::Postrouting,
        priority: 100,
        policy: weft_nft::Policy::Accept,
    };
    let mut broken = Transaction::new();
    broken.table(TABLE, Some("weft layout 7")).chain(&half).chain(&TABLE.base_chain("postrouting", base));
    socket.commit(&broken).unwrap();

    let fragment = on("n1", &["10.1.0.0/16"]);
    ensure(&fragment).unwrap();

    assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());
}

#[test]
fn another_layout_is_replaced_with_everything_that_is_claimed() {
    isolate().unwrap();
    ensure(&on("n1", &["10.1.0.0/16"])).unwrap();
    let mut socket = Socket::open().unwrap();
    let mut older = Transaction::new();
    older.delete_table(TABLE).table(TABLE, Some("weft layout 0")).chain(&TABLE.chain("old"));
    socket.commit(&older).unwrap();
    assert!(observe(&on("n1", &["10.1.0.0/16"])).unwrap()[0].contains("another layout"));

    ensure(&on("n2", &["10.2.0.0/16"])).unwrap();

    assert!(!socket.has_chain(TABLE, "old").unwrap());
    for (network, subnet) in [("n1", "10.1.0.0/16"), ("n2", "10.2.0.0/16")] {
        assert_eq!(observe(&on(network, &[subnet])).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn someone_elses_table_of_our_name_is_left_alone() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    socket.commit(Transaction::new().table(TABLE, Some("mine")).chain(&TABLE.chain("precious"))).unwrap();

    let error = ensure(&on("n1", &["10.1.0.0/16"])).unwrap_err();

    assert!(matches!(&error, FirewallError::NotOurs { .. }), "{error}");
    assert_eq!(error.to_string(), r#"table inet weft is not ours: its comment is "mine""#);
    assert!(Firewall::new().rebuild(&claims()).is_err());
    assert!(socket.has_chain(TABLE, "precious").unwrap());
}
