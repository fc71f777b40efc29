//! Ports that the reference's `portmap` has published, under ours.

use std::path::Path;

use serde_json::{Value, json};

use crate::takeover::{By, DEBIAN, Host, newest};

#[test]
fn ports_of_another_interface_than_the_first_are_checked_and_withdrawn() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let call = |by: By, conf: &Value| {
        let kind = conf["type"].as_str().unwrap().to_owned();
        let call = match by {
            By::Ours => host.lab.plugin(&kind),
            By::Debian => host.lab.plugin_in(Path::new(DEBIAN), &kind),
        };
        call.json(conf).ifname("eth1")
    };
    let result = call(By::Debian, &host.bridge()).add(&red).expect_json();
    let conf = host.portmap();
    let chains = || host.chains().into_iter().filter(|line| line.contains("CNI-DN-")).count();
    call(By::Debian, &conf).prev_result(&result).add(&red).expect_ok();
    assert!(chains() > 0);

    call(By::Ours, &conf).prev_result(&result).check(&red).expect_ok();
    call(By::Ours, &conf).del(&red).expect_ok();
    assert_eq!(chains(), 0, "{:?}", host.chains());
    assert_ne!(call(By::Ours, &conf).prev_result(&result).check(&red).code, 0);

    // A first interface whose ports are ours has the same chain, and keeps it.
    let mut first = host.bridge();
    first["ipam"].as_object_mut().unwrap().remove("routes");
    let first = host.lab.plugin("bridge").json(&first).add(&red).expect_json();
    let mut asked = conf.clone();
    asked["backend"] = "iptables".into();
    let ours = || host.lab.plugin("portmap").json(&asked).prev_result(&first);
    ours().add(&red).expect_ok();
    let kept = chains();
    assert!(kept > 0);
    for conf in [&conf, &asked] {
        call(By::Ours, conf).prev_result(&result).del(&red).expect_ok();
        assert_eq!(chains(), kept);
    }
    ours().check(&red).expect_ok();
}

/// What newer versions of the reference `portmap` write (plugins/meta/portmap/portmap_nftables.go): Debian's package is older.
const HOSTPORTS: &str = r#"
table ip cni_hostport {
    comment "CNI portmap plugin"
    chain hostports {
        tcp dport 8080 dnat to 10.1.2.2:80 comment "red"
        tcp dport 8081 dnat to 10.1.2.3:80 comment "blue"
        tcp dport 8082 dnat to 10.7.7.2:80 comment "red"
        tcp dport 8083 dnat to 10.1.2.20:80 comment "red"
    }
    chain masquerading {
        type nat hook postrouting priority 100
        ip saddr 10.1.2.2 ip daddr 10.1.2.2 masquerade comment "red"
        ip saddr 127.0.0.1 ip daddr 10.1.2.3 masquerade comment "blue"
    }
}
table ip6 cni_hostport {
    chain hostports {
        tcp dport 8080 dnat to [fd00:1::2]:80 comment "red"
    }
}
"#;

#[test]
fn gc_collects_ports_of_the_references_nftables() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    for container in [&red, &blue] {
        host.call(By::Debian, "ADD", &host.bridge(), container, None).expect_json();
    }
    host.lab.write("hostports.nft", HOSTPORTS);
    host.lab.sh(&format!("nft -f {}", host.lab.path("hostports.nft").display())).expect_ok();
    let rules = || {
        let text = host
            .lab
            .sh("nft list table ip cni_hostport; nft list table ip6 cni_hostport")
            .expect_ok()
            .to_string();
        text.lines()
            .filter(|line| line.contains(" comment \"red") || line.contains(" comment \"blue"))
            .count()
    };
    assert_eq!(rules(), 7);
    host.lab.ip("netns delete red");

    let [conf, ..] = newest(host.confs());
    host.lab.plugin("bridge").json(&conf).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(rules(), 7, "both are connected");
    host.lab.plugin("bridge").json(&conf).gc(&[("blue", "eth0")]).expect_ok();

    // Of red only what leads to an address that it had here: the others are another network's.
    assert_eq!(rules(), 4);
    let left = host.lab.sh("nft list table ip cni_hostport").expect_ok().to_string();
    for stays in ["10.1.2.3:80", "10.7.7.2:80", "10.1.2.20:80"] {
        assert!(left.contains(stays), "{stays}: {left}");
    }
}

#[test]
fn ports_of_the_references_nftables_are_checked_and_withdrawn() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let result = host.call(By::Debian, "ADD", &host.bridge(), &red, None).expect_json();
    host.lab.write("hostports.nft", HOSTPORTS);
    host.lab.sh(&format!("nft -f {}", host.lab.path("hostports.nft").display())).expect_ok();
    let conf = host.portmap();
    let rules = || host.lab.sh("nft list ruleset").expect_ok().to_string();

    host.call(By::Ours, "CHECK", &conf, &red, Some(&result)).expect_ok();
    let mut more = conf.clone();
    more["runtimeConfig"]["portMappings"] = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "tcp"},
    ]);
    let refused = host.call(By::Ours, "CHECK", &more, &red, Some(&result));
    assert!(refused.code != 0 && refused.stdout.contains("10.1.2.2:81"), "{refused}");

    host.call(By::Ours, "DEL", &conf, &red, Some(&result)).expect_ok();
    let left = rules();
    for gone in ["10.1.2.2:80", "daddr 10.1.2.2 ", "[fd00:1::2]:80"] {
        assert!(!left.contains(gone), "{gone}: {left}");
    }
    for stays in ["10.1.2.3:80", "10.7.7.2:80", "10.1.2.20:80"] {
        assert!(left.contains(stays), "{stays}: {left}");
    }
    let refused = host.call(By::Ours, "CHECK", &conf, &red, Some(&result));
    assert!(refused.code != 0 && refused.stdout.contains("publication tcp"), "{refused}");
    host.call(By::Ours, "DEL", &conf, &red, None).expect_ok();
    assert!(!rules().contains("comment \"red\""), "{}", rules());
}
