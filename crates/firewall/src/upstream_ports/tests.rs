use super::rules::{is_of, target};
use super::*;

fn owner(publications: &[Publication]) -> Owner {
    let endpoint = Endpoint {
        network: "test".parse().unwrap(),
        container: "icee6giejonei6so".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    Owner { publications: publications.to_vec(), snat: true, ..Owner::new(endpoint, "nftables").unwrap() }
}

fn publication(
    protocol: &str,
    host: &str,
    host_ports: &str,
    target: &str,
    target_ports: &str,
) -> Publication {
    Publication {
        protocol: protocol.parse().unwrap(),
        host: host.parse().unwrap(),
        host_ports: host_ports.parse().unwrap(),
        target: target.parse().unwrap(),
        target_ports: target_ports.parse().unwrap(),
        from: Vec::new(),
    }
}

fn printed(owner: &Owner, family: Family) -> Vec<String> {
    family.rules(owner).into_iter().map(|(chain, rule)| format!("{chain} {rule}")).collect()
}

#[test]
fn rules_are_upstreams() {
    let owner = Owner {
        conditions_v6: vec!["iifname".into(), "eth0".into()],
        ..owner(&[
            publication("tcp", "0.0.0.0", "8080", "10.0.0.2", "80"),
            publication("udp", "192.168.0.2", "8083", "10.0.0.2", "83"),
            publication("tcp", "::", "8086", "2001:db8::2", "86"),
        ])
    };
    assert_eq!(
        printed(&owner, Family::V4),
        [
            r#"hostports tcp dport 8080 dnat to 10.0.0.2:80 comment "icee6giejonei6so""#,
            r#"hostip_hostports ip daddr 192.168.0.2 udp dport 8083 dnat to 10.0.0.2:83 comment "icee6giejonei6so""#,
            r#"masquerading ip saddr 10.0.0.2 ip daddr 10.0.0.2 masquerade comment "icee6giejonei6so""#,
            r#"masquerading ip saddr 127.0.0.1 ip daddr 10.0.0.2 masquerade comment "icee6giejonei6so""#,
        ]
    );
    assert_eq!(
        printed(&owner, Family::V6),
        [
            r#"hostports iifname eth0 tcp dport 8086 dnat to [2001:db8::2]:86 comment "icee6giejonei6so""#,
            r#"masquerading ip6 saddr 2001:db8::2 ip6 daddr 2001:db8::2 masquerade comment "icee6giejonei6so""#,
        ]
    );
}

#[test]
fn ranges_keep_their_order() {
    assert_eq!(target(&publication("tcp", "::", "80-82", "fd00::2", "80-82")), "fd00::2");
    assert_eq!(
        target(&publication("tcp", "0.0.0.0", "8080-8081", "10.0.0.2", "80-81")),
        "10.0.0.2 : tcp dport map { 8080 : 80, 8081 : 81 }"
    );
}

#[test]
fn a_list_of_sources_refuses_everybody_else() {
    let mut one = publication("tcp", "0.0.0.0", "8080", "10.0.0.2", "80");
    one.from = vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap()];
    let rules = printed(&Owner { snat: false, ..owner(&[one]) }, Family::V4);
    assert_eq!(
        rules[0],
        "hostports tcp dport 8080 ip saddr != { 192.0.2.0/24, 198.51.100.7/32 } fib saddr type != local drop \
         comment \"icee6giejonei6so\""
    );
    assert_eq!(rules.len(), 2);
}

#[test]
fn rules_are_known_by_container_and_address() {
    let listing = r#"table ip cni_hostport { # handle 1
	chain hostports { # handle 2
		tcp dport 8080 dnat to 10.0.0.2:80 comment "c1" # handle 10
		tcp dport 8081 dnat to 10.0.0.20:80 comment "c1" # handle 11
		tcp dport 8082 dnat to 10.0.0.2:80 comment "c2" # handle 12
		tcp dport 8080 ip saddr != 192.0.2.2 fib saddr type != 2 drop comment "c1" # handle 14
		tcp dport 8081 ip saddr != 192.0.2.2 fib saddr type != 2 drop comment "c1" # handle 15
	}
	chain masquerading { # handle 3
		type nat hook postrouting priority 100; policy accept;
		ip saddr 127.0.0.1 ip daddr 10.0.0.2 masquerade comment "c1" # handle 13
	}
}"#;
    let handles =
        |rules: Vec<Listed<'_>>| rules.iter().map(|rule| rule.handle.to_owned()).collect::<Vec<_>>();
    let one = publication("tcp", "0.0.0.0", "8080", "10.0.0.2", "80");
    assert_eq!(handles(listed(listing, "c1", |rule| is_of(rule, &one))), ["10", "14", "13"]);
    assert_eq!(handles(listed(listing, "c1", |_| true)), ["10", "11", "14", "15", "13"]);
    assert_eq!(handles(listed(listing, "c1", |rule| leads_to(rule, one.target))), ["10", "13"]);
    assert!(is_of("tcp dport 80 dnat to [fd00::2]:80", &publication("tcp", "::", "80", "fd00::2", "80")));
    assert!(!is_of("ip daddr 10.0.0.2 tcp dport 80 dnat to 10.0.0.3:80", &one));
}
