//! The `ptp` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::Lab;

use crate::main_plugins::{Subject, del_stories};

pub(crate) const PTP: Subject = Subject { plugin: "ptp", there: |_| Ok(()), prepare: |_| (), conf };

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ptp", "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]},
    })
}

del_stories!(PTP);

#[test]
fn gc_with_an_empty_list_takes_the_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.plugin("ptp").json(&conf()).add(&red).expect_ok();
    assert!(lab.ruleset().contains("10.1.2.0"), "{}", lab.ruleset());
    lab.plugin("ptp").json(&conf()).gc(&[]).expect_ok();
    assert!(!lab.ruleset().contains("10.1.2.0"), "{}", lab.ruleset());
    assert!(!lab.ip("-brief link").contains("veth"));
}

/// Nobody else is on the link, so there is nobody to ask.
#[test]
fn addresses_are_not_probed_for_duplicates() {
    let lab = Lab::new();
    let red = lab.container("red");
    red.set_sysctl("ipv6/conf/default/accept_dad", "1");
    lab.plugin("ptp").json(&conf()).add(&red).expect_ok();
    assert_eq!(red.sysctl("ipv6/conf/eth0/accept_dad"), "0");
    let tentative = red.ip("-6 address show dev eth0 tentative");
    assert!(!tentative.contains("2001:db8:1::"), "{tentative}");
}

#[test]
fn a_failed_add_gives_a_stale_route_back() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.ip("link add stale0 type veth peer name stale1");
    lab.ip("link set stale0 up");
    lab.ip("route add 10.1.2.2/32 dev stale0 scope host");
    let mut bad = conf();
    // Behind the route there is only the firewall: a backend that is not installed stops it there.
    bad["ipMasqBackend"] = json!("iptables");
    let empty = lab.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let refused = lab.plugin("ptp").json(&bad).env("PATH", empty.to_str().unwrap()).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    let routes = lab.ip("route show 10.1.2.2");
    assert!(routes.contains("dev stale0"), "the stale route is gone: {routes:?}\n{refused}");
}

#[test]
fn status_says_what_is_missing() {
    let lab = Lab::new();
    lab.plugin("ptp").json(&conf()).status().expect_ok();
    let mut bad = conf();
    bad["ipam"] = json!({});
    let refused = lab.plugin("ptp").json(&bad).status();
    assert!(refused.stdout.contains("no plugin name provided"), "{refused}");
}
