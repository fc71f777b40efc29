//! Publishing by programs that write one family after the other, when the second one is refused.

use std::fs;

use weft_firewall::{Backend, Conditions, Publish, diagnose, ensure, observe, reload, remove};
use weft_netns::isolate;

use crate::lab::{has, run, sh};
use crate::ownership::root;
use crate::publishing::{fragment, publish};

const NOTHING: [String; 0] = [];
const PROGRAMS: [Backend; 2] = [Backend::Iptables, Backend::UpstreamNftables];

/// A port of both families; of the second condition's words nobody knows the last.
fn port(backend: Backend, port: u16, is_legal: bool) -> Publish {
    let words = |text: &str| text.split(' ').map(String::from).collect();
    let conditions = match (backend, is_legal) {
        (Backend::Weft, _) => Conditions::default(),
        (Backend::Iptables, true) => Conditions { v4: words("-s 10.9.0.0/16"), v6: words("-s fd00:9::/32") },
        (Backend::Iptables, false) => Conditions { v4: words("-s 10.9.0.0/16"), v6: words("-m nosuchmatch") },
        (Backend::UpstreamNftables, true) => {
            Conditions { v4: words("iifname up0"), v6: words("iifname up0") }
        }
        (Backend::UpstreamNftables, false) => Conditions { v4: words("iifname up0"), v6: words("nosuch x") },
    };
    let ports = [format!("tcp 0.0.0.0:{port} -> 10.1.0.2:80"), format!("tcp [::]:{port} -> [fd00:1::2]:80")];
    Publish { backend, conditions, ..publish("red", &ports.each_ref().map(String::as_str)) }
}

/// Every rule that leads to a container.
fn rules() -> Vec<String> {
    let saved = ["iptables-save -t nat", "ip6tables-save -t nat"].map(sh).concat();
    let tables = ["ip", "ip6"].map(|family| run(&format!("nft list table {family} cni_hostport")).stdout);
    let text = saved + &String::from_utf8(tables.concat()).unwrap();
    let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
    lines.retain(|line| {
        !line.starts_with('#') && ["CNI-DN-", "10.1.0.2", "fd00:1::2"].iter().any(|word| line.contains(word))
    });
    lines.sort_unstable();
    lines.dedup();
    lines
}

fn owners() -> usize {
    fs::read_dir("/run/weft/ports/owners").map_or(0, Iterator::count)
}

fn ready() -> bool {
    if !has("iptables-save") || !has("ip6tables-save") || !has("nft") {
        return false;
    }
    isolate().unwrap();
    let works = run("ip6tables -t nat -S").status.success();
    if !works {
        weft_testkit::skipped("ip6tables to work here");
    }
    works
}

#[test]
fn no_rule_is_left_of_a_family_that_was_written() {
    if !ready() {
        return;
    }
    for backend in PROGRAMS {
        ensure(&fragment(port(backend, 8080, false))).unwrap_err();
        assert_eq!((rules(), owners()), (Vec::new(), 0), "{backend}");
        let legal = fragment(port(backend, 8080, true));
        ensure(&legal).unwrap();
        assert_eq!(observe(&legal).unwrap(), NOTHING);
        assert!(rules().len() > 3 && owners() == 1, "{backend}");
        remove(&legal).unwrap();
        assert_eq!((rules(), owners()), (Vec::new(), 0), "{backend}");
    }
}

#[test]
fn what_was_published_before_stays() {
    if !ready() {
        return;
    }
    for backend in PROGRAMS {
        let before = fragment(port(backend, 8080, true));
        ensure(&before).unwrap();
        let rules_before = rules();
        ensure(&fragment(port(backend, 9090, false))).unwrap_err();
        assert_eq!(rules(), rules_before, "{backend}");
        assert_eq!(observe(&before).unwrap(), NOTHING);
        let next = fragment(port(backend, 9090, true));
        ensure(&next).unwrap();
        assert!(rules().iter().all(|rule| !rule.contains("8080")), "{:?}", rules());
        assert_eq!(observe(&next).unwrap(), NOTHING);
        remove(&next).unwrap();
    }
}

#[test]
fn a_change_of_backend_that_fails_leaves_the_first() {
    if !ready() {
        return;
    }
    for (from, to) in [
        (Backend::Weft, Backend::Iptables),
        (Backend::Weft, Backend::UpstreamNftables),
        (Backend::Iptables, Backend::UpstreamNftables),
        (Backend::UpstreamNftables, Backend::Iptables),
    ] {
        let before = fragment(port(from, 8080, true));
        ensure(&before).unwrap();
        let rules_before = rules();
        ensure(&fragment(port(to, 8080, false))).unwrap_err();
        assert_eq!(rules(), rules_before, "from {from} to {to}");
        assert_eq!(observe(&before).unwrap(), NOTHING, "from {from} to {to}");
        let after = fragment(port(to, 8080, true));
        ensure(&after).unwrap();
        assert_eq!(observe(&after).unwrap(), NOTHING);
        remove(&after).unwrap();
        assert_eq!(rules(), Vec::<String>::new());
    }
}

/// One attachment's rules are not known to the program any more: all others come back after a flush.
#[test]
fn a_reload_brings_back_whatever_is_not_refused() {
    if !ready() {
        return;
    }
    for backend in PROGRAMS {
        let others = ["blue", "green"].map(|name| {
            let host_port = if name == "blue" { 8081 } else { 8082 };
            let address = if name == "blue" { 3 } else { 4 };
            let ports = [
                format!("tcp 0.0.0.0:{host_port} -> 10.1.0.{address}:80"),
                format!("tcp [::]:{host_port} -> [fd00:1::{address}]:80"),
            ];
            fragment(Publish { backend, ..publish(name, &ports.each_ref().map(String::as_str)) })
        });
        let red = fragment(port(backend, 8080, true));
        for one in others.iter().chain([&red]) {
            ensure(one).unwrap();
        }
        assert!(rules().len() > 3, "{backend}");
        for file in fs::read_dir("/run/weft/ports/owners").unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replace(r#""-s","fd00:9::/32""#, r#""-m","nosuchmatch""#);
            let text = text.replace(r#""iifname","up0""#, r#""nosuch","x""#);
            #[expect(clippy::disallowed_methods, reason = "a record that somebody has changed")]
            fs::write(&path, text).unwrap();
        }
        for program in ["iptables", "ip6tables"] {
            sh(&format!("{program} -t raw -F"));
            sh(&format!("{program} -t nat -F"));
            sh(&format!("{program} -t nat -X"));
        }
        for family in ["ip", "ip6"] {
            run(&format!("nft delete table {family} cni_hostport"));
        }
        assert_eq!(rules(), Vec::<String>::new(), "{backend}");
        let told = diagnose(&root()).unwrap();
        assert_eq!(told.len(), 3, "{backend}: {told:?}");

        let refused = reload(&root()).unwrap_err();

        let [error] = refused.try_into().unwrap();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        let words = if backend == Backend::Iptables { "nosuchmatch" } else { "nft: " };
        assert!(error.to_string().contains("red") && cause.contains(words), "{backend}: {error}: {cause}");
        for one in &others {
            assert_eq!(observe(one).unwrap(), NOTHING, "{backend}");
        }
        let told = diagnose(&root()).unwrap();
        assert!(told.len() == 1 && told[0].what.contains("red"), "{backend}: {told:?}");
        for one in others.iter().chain([&red]) {
            remove(one).unwrap();
        }
        assert_eq!(owners(), 0, "{backend}");
    }
}
