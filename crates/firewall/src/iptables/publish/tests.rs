use weft_model::port::Publication;
use weft_model::{GatewayMode, Gateways};
use weft_state::ports::Mark;

use super::*;

/// The container id of upstream's own tests.
const LONG: &str = "icee6giejonei6sohng6ahngee7laquohquee9shiGo7fohferakah3Feiyoolu2pei7ciPhoh7shaoX6vai3vuf0ahfaeng8yohb9ceu0daez5hashee8ooYai5wa3y";

fn endpoint(network: &str, container: &str, ifname: &str) -> Endpoint {
    Endpoint {
        network: network.parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    }
}

/// A publication, as it prints.
fn publication(text: &str) -> Publication {
    let (words, from) = text.split_once(" from ").map_or((text, ""), |(words, from)| (words, from));
    let words: Vec<_> = words.split(' ').collect();
    let [protocol, host, "->", target] = words[..] else { panic!("{text}") };
    let split = |text: &str| {
        let (addr, ports) = text.rsplit_once(':').unwrap();
        (addr.trim_matches(['[', ']']).parse().unwrap(), ports.parse().unwrap())
    };
    let ((host, host_ports), (target, target_ports)) = (split(host), split(target));
    let from = from.split(", ").filter(|from| !from.is_empty()).map(|from| from.parse().unwrap()).collect();
    Publication { protocol: protocol.parse().unwrap(), host, host_ports, target, target_ports, from }
}

fn owner(publications: &[&str]) -> Owner {
    Owner {
        publications: publications.iter().map(|text| publication(text)).collect(),
        subnets: vec!["10.0.0.2/24".parse().unwrap(), "2001:db8::2/64".parse().unwrap()],
        snat: true,
        ..Owner::new(endpoint("test", LONG, "eth0"), "iptables").unwrap()
    }
}

fn all(owner: &Owner, tool: Tool) -> Vec<String> {
    let scripts = scripts(&Saved::default(), owner, &Family::of(owner, tool), false);
    scripts.all().map(|(table, line)| format!("{table} {line}")).collect()
}

#[test]
fn chains_have_upstreams_names() {
    assert_eq!(chain_name(&endpoint("testNetName", LONG, "eth0")), "CNI-DN-bfd599665540dd91d5d28");
    assert_eq!(chain_name(&endpoint("test", LONG, "eth0")), "CNI-DN-67e92b96e692a494b6b85");
    let other = chain_name(&endpoint("test", LONG, "eth1"));
    assert_ne!(other, "CNI-DN-67e92b96e692a494b6b85");
    assert_eq!(other.len(), 28);
}

#[test]
fn a_first_attachment_brings_upstreams_rules() {
    let owner = owner(&["tcp 0.0.0.0:8080 -> 10.0.0.2:80", "udp 192.168.0.2:8083 -> 10.0.0.2:83"]);
    let lines = all(&owner, Tool::V4);
    let chain = "CNI-DN-67e92b96e692a494b6b85";
    let comment = format!(r#"-m comment --comment "dnat name: \"test\" id: \"{LONG}\"""#);
    assert_eq!(
        lines,
        [
            r#"raw -A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment "weft: published ports on localhost" -j DROP"#,
            r#"raw -A PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment "weft: published ports on localhost" -j DROP"#,
            "nat :CNI-HOSTPORT-DNAT - [0:0]",
            "nat :CNI-HOSTPORT-SETMARK - [0:0]",
            r#"nat -A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000"#,
            "nat :CNI-HOSTPORT-MASQ - [0:0]",
            "nat -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE",
            r#"nat -I POSTROUTING 1 -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ"#,
            &format!("nat :{chain} - [0:0]"),
            &format!("nat -A {chain} -s 10.0.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK"),
            &format!("nat -A {chain} -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK"),
            &format!("nat -A {chain} -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80"),
            &format!(
                "nat -A {chain} -s 10.0.0.0/24 -d 192.168.0.2/32 -p udp -m udp --dport 8083 -j CNI-HOSTPORT-SETMARK"
            ),
            &format!(
                "nat -A {chain} -s 127.0.0.1/32 -d 192.168.0.2/32 -p udp -m udp --dport 8083 -j CNI-HOSTPORT-SETMARK"
            ),
            &format!(
                "nat -A {chain} -d 192.168.0.2/32 -p udp -m udp --dport 8083 -j DNAT --to-destination 10.0.0.2:83"
            ),
            &format!("nat -A CNI-HOSTPORT-DNAT -p tcp {comment} -m multiport --dports 8080 -j {chain}"),
            &format!("nat -A CNI-HOSTPORT-DNAT -p udp {comment} -m multiport --dports 8083 -j {chain}"),
            "nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
            "nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        ]
    );
    assert!(all(&owner, Tool::V6).is_empty());
}

#[test]
fn what_is_there_is_not_written_again() {
    let owner = owner(&["tcp [::]:8080 -> [2001:db8::2]:80", "tcp [::]:90-99 -> [2001:db8::2]:90-99"]);
    let family = Family::of(&owner, Tool::V6);
    let mut text = String::from("*nat\n:PREROUTING ACCEPT [0:0]\n");
    for line in scripts(&Saved::default(), &owner, &family, false).nat {
        text.push_str(&line.replacen("-I POSTROUTING 1 ", "-A POSTROUTING ", 1));
        text.push('\n');
    }
    let there = Saved::parse(&text);
    assert!(
        scripts(&there, &owner, &family, false).is_empty(),
        "{:?}",
        scripts(&there, &owner, &family, false)
    );
    // One port less: its chain is written anew and the rule that leads there replaced, in one transaction.
    let less = Owner { publications: owner.publications[..1].to_vec(), ..owner.clone() };
    let lines = scripts(&there, &less, &Family::of(&less, Tool::V6), false).nat;
    let chain = chain_name(&owner.endpoint);
    assert_eq!(lines[0], format!(":{chain} - [0:0]"));
    assert_eq!(lines.iter().filter(|line| line.starts_with("-D CNI-HOSTPORT-DNAT ")).count(), 1, "{lines:?}");
    let gone = retirement(&there, &[&chain_name(&owner.endpoint)], false).nat;
    assert_eq!(gone[1..], [format!("-F {chain}"), format!("-X {chain}")]);
}

#[test]
fn ranges_keep_their_order() {
    let owner = owner(&[
        "tcp 0.0.0.0:8000-8099 -> 10.0.0.2:8000-8099",
        "tcp 0.0.0.0:9000-9009 -> 10.0.0.2:80-89",
        "tcp [::]:9000-9009 -> [2001:db8::2]:80-89",
    ]);
    let lines = all(&owner, Tool::V4);
    let has = |end: &str| lines.iter().any(|line| line.ends_with(end));
    assert!(has("-p tcp -m tcp --dport 8000:8099 -j DNAT --to-destination 10.0.0.2"), "{lines:?}");
    assert!(has("-p tcp -m tcp --dport 9000:9009 -j DNAT --to-destination 10.0.0.2:80-89/9000"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("--dports 8000:8099,9000:9009 ")), "{lines:?}");
    let lines = all(&owner, Tool::V6);
    assert!(
        lines.iter().any(|line| line.ends_with("--to-destination [2001:db8::2]:80-89/9000")),
        "{lines:?}"
    );
}

#[test]
fn fifteen_ports_fit_into_a_rule() {
    let texts: Vec<_> = (0..16).map(|i| format!("tcp 0.0.0.0:{} -> 10.0.0.2:80", 8000 + i)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let lines = all(&owner(&texts), Tool::V4);
    let entries: Vec<_> = lines.iter().filter(|line| line.starts_with("nat -A CNI-HOSTPORT-DNAT ")).collect();
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(entries[1].contains("--dports 8015 "), "{entries:?}");
}

#[test]
fn everything_may_be_masqueraded_or_nothing() {
    let texts = ["tcp 0.0.0.0:8080 -> 10.0.0.2:80"];
    let marks = |owner: &Owner| {
        let lines = all(owner, Tool::V4);
        lines
            .into_iter()
            .filter(|line| line.contains("CNI-DN") && line.ends_with("SETMARK"))
            .collect::<Vec<_>>()
    };
    let everything = Owner { masquerade_all: true, ..owner(&texts) };
    assert_eq!(
        marks(&everything),
        ["nat -A CNI-DN-67e92b96e692a494b6b85 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK"]
    );
    let nothing = Owner { snat: false, ..owner(&texts) };
    assert!(!all(&nothing, Tool::V4).iter().any(|line| line.contains("MASQ") || line.contains("127.")));
}

#[test]
fn marks_may_be_others() {
    let texts = ["tcp 0.0.0.0:8080 -> 10.0.0.2:80"];
    let bit = all(&Owner { mark: Mark::Bit(5), ..owner(&texts) }, Tool::V4);
    assert!(bit.iter().any(|line| line.ends_with("--set-xmark 0x20/0x20")), "{bit:?}");
    let external = all(&Owner { mark: Mark::Chain("PLZ-SET-MARK".into()), ..owner(&texts) }, Tool::V4);
    assert!(external.iter().any(|line| line.ends_with("-j PLZ-SET-MARK")), "{external:?}");
    assert!(!external.iter().any(|line| line.contains("CNI-HOSTPORT-SETMARK") || line.contains("MASQ")));
}

#[test]
fn conditions_stay_words() {
    let conditions =
        ["!", "-s", "192.0.2.0/24", "-m", "comment", "--comment", "a \"b\"\n-F"].map(String::from);
    let owner = Owner { conditions_v4: conditions.into(), ..owner(&["tcp 0.0.0.0:8080 -> 10.0.0.2:80"]) };
    let lines = all(&owner, Tool::V4);
    let entry = lines.iter().find(|line| line.starts_with("nat -A CNI-HOSTPORT-DNAT ")).unwrap();
    assert!(
        entry.contains(r#"--dports 8080 ! -s 192.0.2.0/24 -m comment --comment "a \"b\" -F" -j CNI-DN-"#),
        "{entry}"
    );
}

#[test]
fn a_list_of_sources_refuses_everybody_else() {
    let owner = owner(&["tcp 0.0.0.0:8080 -> 10.0.0.2:80 from 192.0.2.0/24, 198.51.100.7/32"]);
    let lines = all(&owner, Tool::V4);
    let chain = "CNI-DN-67e92b96e692a494b6b85";
    let filter: Vec<_> = lines.iter().filter(|line| line.starts_with("filter ")).collect();
    assert_eq!(
        filter,
        [
            "filter :WEFT-INPUT - [0:0]",
            &format!(
                "filter -A WEFT-INPUT ! -i lo -p tcp -m tcp --dport 8080 -m conntrack --ctstate NEW -m comment --comment {chain} -j DROP"
            ),
            "filter -I INPUT 1 -j WEFT-INPUT",
        ]
    );
    let dnat: Vec<_> = lines.iter().filter(|line| line.contains("DNAT --to-destination")).collect();
    assert_eq!(dnat.len(), 3, "{dnat:?}");
    assert!(dnat[2].contains("--src-type LOCAL"), "{dnat:?}");
}

#[test]
fn a_routed_network_translates_nothing() {
    let gateways = Gateways { ipv4: GatewayMode::Routed, ipv6: GatewayMode::Nat };
    let owner = Owner { gateways, ..owner(&["tcp 0.0.0.0:8080-8081 -> 10.0.0.2:80-81 from 192.0.2.0/24"]) };
    assert_eq!(
        all(&owner, Tool::V4),
        [
            "filter :WEFT-ROUTED - [0:0]",
            "filter -A WEFT-ROUTED -s 192.0.2.0/24 -d 10.0.0.2/32 -p tcp -m tcp --dport 80:81 -m comment --comment CNI-DN-67e92b96e692a494b6b85 -j ACCEPT",
        ]
    );
}

#[test]
fn protection_of_localhost_goes_with_the_last_attachment() {
    let raw =
        format!("*raw\n{}\n*nat\n:CNI-DN-67e92b96e692a494b6b85 - [0:0]\n", rules::LOCALHOST_ONLY.join("\n"));
    let alone = Saved::parse(&raw);
    assert_eq!(
        retirement(&alone, &[&chain_name(&endpoint("test", LONG, "eth0"))], false).raw.len(),
        rules::LOCALHOST_ONLY.len()
    );
    assert!(retirement(&alone, &[&chain_name(&endpoint("test", LONG, "eth0"))], true).raw.is_empty());
    let others = Saved::parse(&format!("{raw}:CNI-DN-000000000000000000000 - [0:0]\n"));
    assert!(retirement(&others, &[&chain_name(&endpoint("test", LONG, "eth0"))], false).raw.is_empty());
    assert!(retirement(&alone, &[&chain_name(&endpoint("test", "c9", "eth0"))], false).raw.is_empty());
}

#[test]
fn several_attachments_are_written_as_one_by_one() {
    let mut second = owner(&["tcp 0.0.0.0:9090 -> 10.0.0.3:90 from 192.0.2.0/24"]);
    second.endpoint = endpoint("test", "second", "eth0");
    let first = owner(&["tcp 0.0.0.0:8080 -> 10.0.0.2:80 from 192.0.2.0/24"]);
    let [one, two] = [&first, &second].map(|owner| Ports { owner, keeps_localhost: false });
    let (together, _) = part::scripts_of_all(Saved::default(), &[&one, &two], Tool::V4);
    let lines: Vec<String> = together.all().map(|(table, line)| format!("{table} {line}")).collect();
    for shared in ["nat :CNI-HOSTPORT-DNAT - [0:0]", "filter :WEFT-INPUT - [0:0]"] {
        assert_eq!(lines.iter().filter(|line| *line == shared).count(), 1, "{shared}: {lines:#?}");
    }
    let mut saved = Saved::default();
    together.all().for_each(|(table, line)| saved.write(table, line));
    for owner in [&first, &second] {
        let again = scripts(&saved, owner, &Family::of(owner, Tool::V4), false);
        assert!(again.is_empty(), "{again:?}");
    }
}
