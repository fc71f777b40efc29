//! Containers that the `firewall` plugin lets through, in our own table.

use std::net::IpAddr;

use weft_firewall::{
    Admission, Carrier, Change, FIREWALLD_ZONE, Fragment, IPTABLES_ADMIN_CHAIN, Ingress, admitted_of, ensure,
    observe, remove,
};
use weft_netns::isolate;
use weft_nft::Socket;

use crate::lab::{claims, endpoint, has, is_documented, ruleset, run, sh};

fn admission(container: &str, addresses: &[&str], policy: Option<(&str, bool)>) -> Fragment {
    Fragment::Admission(Admission {
        endpoint: endpoint("net", container, "eth0"),
        addresses: addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect(),
        carrier: Carrier::Weft,
        admin_chain: IPTABLES_ADMIN_CHAIN.into(),
        zone: FIREWALLD_ZONE.into(),
        ingress: policy.map(|(bridge, closed)| Ingress { bridge: bridge.parse().unwrap(), closed }),
        claims: claims(),
    })
}

#[test]
fn the_table_reads_as_documented() {
    isolate().unwrap();
    ensure(&admission("c1", &["10.1.2.3", "fd00:1::3"], None)).unwrap();
    is_documented("table inet weft with an admitted container");
}

#[test]
fn the_second_time_nothing_changes() {
    isolate().unwrap();
    let one = admission("c1", &["10.1.2.3"], Some(("br0", true)));
    assert_eq!(ensure(&one).unwrap(), Change::Made);
    let generation = Socket::open().unwrap().generation().unwrap();
    assert_eq!(ensure(&one).unwrap(), Change::AlreadyThere);
    assert_eq!(Socket::open().unwrap().generation().unwrap(), generation, "not one transaction");
    assert_eq!(observe(&one).unwrap(), Vec::<String>::new());
    assert_eq!(admitted_of(&claims(), &"net".parse().unwrap()), [endpoint("net", "c1", "eth0")]);
}

#[test]
fn an_address_goes_with_its_last_holder() {
    isolate().unwrap();
    let [one, two] = ["c1", "c2"].map(|name| admission(name, &["10.1.2.3"], Some(("br0", false))));
    ensure(&one).unwrap();
    ensure(&two).unwrap();
    // Neither the addresses nor the policy are known any more.
    remove(&admission("c1", &[], None)).unwrap();
    assert_eq!(observe(&two).unwrap(), Vec::<String>::new());
    remove(&admission("c1", &["10.1.2.3"], None)).unwrap();
    assert_eq!(observe(&two).unwrap(), Vec::<String>::new(), "twice is once");
    remove(&admission("c2", &[], None)).unwrap();
    assert!(!observe(&two).unwrap().is_empty());
    if has("nft") {
        assert_eq!(ruleset(), "", "the table goes with the last claim");
    }
    assert_eq!(admitted_of(&claims(), &"net".parse().unwrap()), []);
}

#[test]
fn another_list_replaces_the_first() {
    isolate().unwrap();
    ensure(&admission("c1", &["10.1.2.3", "10.1.2.4"], Some(("br0", true)))).unwrap();
    let now = admission("c1", &["10.1.2.4", "10.1.2.5"], None);
    assert_eq!(ensure(&now).unwrap(), Change::Made);
    assert_eq!(observe(&now).unwrap(), Vec::<String>::new());
    assert_eq!(observe(&admission("c1", &["10.1.2.3"], None)).unwrap().len(), 2, "no element, and no claim");
    remove(&now).unwrap();
}

#[test]
fn one_rule_of_a_host_is_written_once_and_taken_back() {
    if !has("iptables-nft") {
        return;
    }
    isolate().unwrap();
    let rules = || sh("iptables-nft -S FORWARD").matches("weft: what its networks forward").count();
    sh("iptables-nft -P FORWARD DROP");
    let [one, two] =
        [("c1", "10.1.2.3"), ("c2", "10.1.2.4")].map(|(name, addr)| admission(name, &[addr], None));
    ensure(&one).unwrap();
    assert_eq!(rules(), 1);
    ensure(&two).unwrap();
    assert_eq!(rules(), 1);
    remove(&one).unwrap();
    assert_eq!(rules(), 1);
    remove(&two).unwrap();
    assert_eq!(rules(), 0);
    assert!(run("iptables-nft -S FORWARD").stdout.starts_with(b"-P FORWARD DROP"), "the policy is not ours");
}

#[test]
fn a_failure_leaves_nothing() {
    isolate().unwrap();
    let Fragment::Admission(wanted) = admission("c1", &["10.1.2.3"], None) else { unreachable!() };
    // Nobody has firewalld's name on a bus that does not exist.
    let wanted = Fragment::Admission(Admission { carrier: Carrier::Firewalld, ..wanted });
    let error = ensure(&wanted).unwrap_err();
    assert!(error.to_string().contains("firewalld is not running"), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(admitted_of(&claims(), &"net".parse().unwrap()), []);
    remove(&wanted).unwrap();
}
