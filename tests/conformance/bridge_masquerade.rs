//! `bridge`: masquerading and the check against spoofed senders, as traffic.

use serde_json::{Value, json};

use crate::bridge::gateway;
use crate::suite::{Done, Host};

fn masquerading(host: &Host, backend: Option<&str>) -> Value {
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    conf["ipMasq"] = json!(true);
    if let Some(backend) = backend {
        conf["ipMasqBackend"] = json!(backend);
    }
    conf
}

/// The outside has no route to the containers, so an answer proves masquerading; and it proves it stays off
/// inside the subnet that the neighbour sees the true sender.
fn reaches_outside_as_the_host(host: &Host, conf: &Value) {
    let outside = host.lab.uplink();
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut plain = conf.clone();
    plain["ipMasq"] = json!(false);
    host.plugin("bridge").json(&plain).id("plain").add(&red).expect_ok();
    assert!(!red.ping("192.0.2.2"), "it answers without masquerading, so it proves nothing");
    host.plugin("bridge").json(&plain).id("plain").del(&red).expect_ok();

    host.plugin("bridge").json(conf).add(&red).expect_ok();
    host.plugin("bridge").json(conf).add(&green).expect_ok();
    let service = outside.serve_tcp(0);
    for (service_at, seen_as) in [("192.0.2.2", "192.0.2.1"), ("2001:db8:ffff::2", "2001:db8:ffff::1")] {
        let seen = red.call_tcp(service_at.parse().unwrap(), service.port()).unwrap();
        assert_eq!(seen.to_string(), seen_as);
    }
    let service = green.serve_tcp(0);
    let own = red.addresses("eth0")[0].split('/').next().unwrap().to_string();
    let neighbour = green.addresses("eth0")[0].split('/').next().unwrap().to_string();
    let seen = red.call_tcp(neighbour.parse().unwrap(), service.port()).unwrap();
    assert_eq!(seen.to_string(), own);

    host.plugin("bridge").json(conf).del(&green).expect_ok();
    assert!(red.ping("192.0.2.2"), "DEL of one took the other's masquerading");
}

pub(crate) fn by_default(host: &Host) -> Done {
    reaches_outside_as_the_host(host, &masquerading(host, None));
    Ok(())
}

pub(crate) fn by_iptables(host: &Host) -> Done {
    let conf = masquerading(host, Some("iptables"));
    reaches_outside_as_the_host(host, &conf);
    let saved = host.lab.sh("iptables-save -t nat").stdout;
    assert!(saved.contains("-A POSTROUTING -s 10.1.2.") && saved.contains("-j CNI-"), "{saved}");
    assert!(saved.contains("name: \\\"n1\\\" id: \\\"red\\\""), "{saved}");
    Ok(())
}

pub(crate) fn by_nftables(host: &Host) -> Done {
    let conf = masquerading(host, Some("nftables"));
    reaches_outside_as_the_host(host, &conf);
    let rules = host.lab.sh("nft list chain inet cni_plugins_masquerade masq_checks").expect_ok().to_string();
    assert!(rules.contains("comment") && rules.contains("net: n1, if: eth0, id: red"), "{rules}");
    Ok(())
}

pub(crate) fn the_iptables_chain_is_the_upstream_name(host: &Host) -> Done {
    let red = host.lab.container("1234");
    let mut conf = masquerading(host, Some("iptables"));
    conf["name"] = json!("test");
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let saved = host.lab.sh("iptables-save -t nat").stdout;
    assert!(saved.contains("CNI-2bbe0c48b91a7d1b8a6753a8"), "{saved}");
    host.plugin("bridge").json(&conf).del(&red).expect_ok();
    let saved = host.lab.sh("iptables-save -t nat").stdout;
    assert!(!saved.contains("CNI-2bbe0c48b91a7d1b8a6753a8"), "{saved}");
    Ok(())
}

pub(crate) fn an_unknown_backend_is_refused(host: &Host) -> Done {
    crate::bridge::refused(
        host,
        &masquerading(host, Some("pigeons")),
        "unknown ipmasq backend \\\"pigeons\\\"",
    )
}

pub(crate) fn multicast_is_not_masqueraded(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge").json(&masquerading(host, None)).add(&red).expect_ok();
    let rules = host.lab.ruleset();
    assert!(rules.contains("224.0.0.0/4"), "{rules}");
    Ok(())
}

pub(crate) fn a_spoofed_sender_is_dropped(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["macspoofchk"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert!(red.ping("10.1.2.1"));
    red.ip("link set eth0 address 02:00:00:00:00:99");
    host.lab.sh("ip neigh flush dev br0");
    assert!(!red.ping("10.1.2.1"), "a packet from a foreign MAC passed");
    host.plugin("bridge").json(&conf).del(&red).expect_ok();
    let rules = host.lab.ruleset();
    assert!(!rules.contains("cni-br-iface-red-eth0"), "{rules}");
    Ok(())
}

pub(crate) fn the_spoof_check_goes_with_a_vanished_namespace(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["macspoofchk"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let before = host.lab.ruleset();
    assert!(before.contains("ether saddr"), "{before}");
    red.vanish();
    host.plugin("bridge").json(&conf).netns("").del(&red).expect_ok();
    let rules = host.lab.ruleset();
    assert!(!rules.contains("red-eth0"), "{rules}");
    Ok(())
}

crate::suite::stories! { bridge_masquerade:
    by_default
    by_iptables
    by_nftables
    the_iptables_chain_is_the_upstream_name
    an_unknown_backend_is_refused
    multicast_is_not_masqueraded
    a_spoofed_sender_is_dropped
    the_spoof_check_goes_with_a_vanished_namespace
}
