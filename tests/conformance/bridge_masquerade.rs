//! `bridge`: masquerading and the check against spoofed senders, as traffic.

use std::cell::OnceCell;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use weft_testkit::until;

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

pub(crate) fn multicast_is_not_masqueraded_by_nftables(host: &Host) -> Done {
    groups_see_the_container(host, Some("nftables"));
    Ok(())
}

/// What is sent to a group has the container's address outside, what is sent to a single station the host's. A group's packets
/// are passed on by a routing daemon, which hosts have not: here the host sends them by the container's address.
fn groups_see_the_container(host: &Host, backend: Option<&str>) {
    let outside = host.lab.uplink();
    let red = host.lab.container("red");
    host.plugin("bridge").json(&masquerading(host, backend)).add(&red).expect_ok();
    for key in ["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"] {
        host.lab.set_sysctl(key, "1");
    }
    outside.ip("route add 10.1.2.0/24 via 192.0.2.1");
    outside.ip("-6 route add 2001:db8:1::/64 via 2001:db8:ffff::1");
    let bound = |address: &str| {
        let socket = outside.inside(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    let (single, group) = (bound("[::]:9000"), bound("239.1.1.1:9001"));
    let own = outside.link("eth0")["ifindex"].as_u64().unwrap();
    single.join_multicast_v6(&"ff02::1:9".parse().unwrap(), own.try_into().unwrap()).unwrap();
    group.join_multicast_v4(&"239.1.1.1".parse().unwrap(), &"192.0.2.2".parse().unwrap()).unwrap();
    let far = host.lab.ip_json("link show dev uplink0")[0]["ifindex"].as_u64().unwrap();
    let far = format!("[ff02::1:9%{far}]:9000");
    for (number, (from, to, hears, seen_as)) in [
        ("10.1.2.2:0", "192.0.2.2:9000", &single, "::ffff:192.0.2.1"),
        ("10.1.2.2:0", "239.1.1.1:9001", &group, "10.1.2.2"),
        ("[2001:db8:1::2]:0", "[2001:db8:ffff::2]:9000", &single, "2001:db8:ffff::1"),
        ("[2001:db8:1::2]:0", far.as_str(), &single, "2001:db8:1::2"),
    ]
    .into_iter()
    .enumerate()
    {
        let number = [number.try_into().unwrap()];
        let sender = UdpSocket::bind(from).unwrap();
        // KERNEL: an IPv4 socket may be bound to an address of nobody's and still not send, nor to a group unless it knows the
        // link (ip_route_output_key_hash_rcu, net/ipv4/route.c).
        setsockopt(&sender, sockopt::BindToDevice, &"uplink0".into()).unwrap();
        if sender.local_addr().unwrap().is_ipv4() {
            setsockopt(&sender, sockopt::IpTransparent, &true).unwrap();
        }
        let seen = OnceCell::new();
        // A link that has just come up loses packets.
        until(&format!("a packet from {from} to {to}"), || {
            let sent = sender.send_to(&number, to);
            assert!(sent.is_ok(), "from {from} to {to}: {sent:?}");
            let mut said = [0xff];
            let heard = hears.recv_from(&mut said);
            heard.is_ok_and(|(_, by)| said == number && seen.set(by.ip().to_string()).is_ok())
        });
        assert_eq!(seen.get().map(String::as_str), Some(seen_as), "from {from} to {to}");
    }
}

pub(crate) fn multicast_is_not_masqueraded(host: &Host) -> Done {
    groups_see_the_container(host, None);
    Ok(())
}

pub(crate) fn multicast_is_not_masqueraded_by_iptables(host: &Host) -> Done {
    groups_see_the_container(host, Some("iptables"));
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
    multicast_is_not_masqueraded_by_iptables
    multicast_is_not_masqueraded_by_nftables
    a_spoofed_sender_is_dropped
    the_spoof_check_goes_with_a_vanished_namespace
}
