//! Networks whose packets pass by the firewall as long as nobody else on the host has a say about them.

mod attach;
mod homes;
mod keeping;

use std::net::{IpAddr, TcpListener, TcpStream};

use weft_testkit::{Cluster, Container, Conversation, Host, does_not_reach, reaches, skip_unless};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_fastpath::{NEEDS, is_capable};
use attach::{FORWARDED, attach, early, received};

/// Two hosts with a container on each, on a network with a gate.
struct Gated {
    cluster: Cluster,
    one: Container,
    two: Container,
}

impl Gated {
    fn new() -> Self {
        let cluster = Cluster::new(2);
        cluster.network(1, &["--ipv6", "-o", "fastpath=auto", "blue"]);
        let (one, two) = (connected(&cluster, 1, "one"), connected(&cluster, 2, "two"));
        Self { cluster, one, two }
    }

    fn host(&self) -> &Host {
        self.cluster.host(1)
    }

    /// The bridge of the network on both hosts.
    fn bridge(&self) -> String {
        self.device("type bridge")
    }

    /// The one device of this kind on the first host.
    fn device(&self, kind: &str) -> String {
        let shown = self.host().ip_json(&format!("link show {kind}"));
        shown[0]["ifname"].as_str().unwrap().to_owned()
    }

    /// Whether packets between both containers arrive, and neither host's routing sees them.
    fn is_fast(&self) -> bool {
        let seen = |number| forwarded(self.cluster.host(number));
        let before = [1, 2].map(seen);
        let all = [(&self.one, &self.two), (&self.two, &self.one)];
        let arrived = all.iter().all(|(from, to)| addresses(to).iter().all(|to| from.ping(to)));
        arrived && before == [1, 2].map(seen)
    }

    /// Whether the first host's routing sees all packets between both containers: a question and an answer for each address.
    fn is_slow(&self) -> bool {
        let before = forwarded(self.host());
        let asked = addresses(&self.two);
        let arrived = asked.iter().all(|to| self.one.ping(to));
        arrived && forwarded(self.host()) - before >= 2 * asked.len() as u64
    }

    fn becomes_fast(&self) {
        // A gate is open before anybody is told.
        self.cluster.eventually("packets take the fast path", || self.is_fast() && self.shut(1).is_empty());
    }

    /// Why the gate of a host is shut.
    fn shut(&self, number: u8) -> Vec<String> {
        let status = self.cluster.status(number);
        let shut = status["networks"][0]["shut"].as_array().unwrap();
        shut.iter().map(|why| why.as_str().unwrap().to_owned()).collect()
    }

    fn becomes_shut(&self, why: &str) {
        let told = || self.shut(1).iter().any(|told| told.contains(why));
        self.cluster.eventually(&format!("the gate is shut: {why}"), told);
        assert!(!self.is_fast(), "{why}");
    }
}

/// How many packets a host has passed on by its own routing.
fn forwarded(host: &Host) -> u64 {
    let v4 = host.sh("awk '/^Ip:/ { if (n++) print $7 }' /proc/net/snmp");
    let v6 = host.sh("awk '$1 == \"Ip6OutForwDatagrams\" { print $2 }' /proc/net/snmp6");
    [v4, v6].iter().map(|count| count.expect_ok().trim().parse::<u64>().unwrap()).sum()
}

fn index_of(host: &Host, link: &str) -> u32 {
    let shown = host.ip_json(&format!("link show {link}"));
    u32::try_from(shown[0]["ifindex"].as_u64().unwrap()).unwrap()
}

#[test]
fn whoever_has_a_say_shuts_the_gate() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    let [bridge, vxlan] = ["bridge", "vxlan"].map(|kind| net.device(&format!("type {kind}")));
    let port = net.device(&format!("master {bridge}"));
    net.becomes_fast();
    // What somebody does, what undoes it, what is said of it, and whether it drops the packets.
    let table = [
        (
            "nft 'add table inet t; add chain inet t c { type filter hook forward priority 0; }; add rule inet t c drop'",
            "nft delete table inet t",
            "chain inet t c",
            true,
        ),
        (
            "nft 'add table ip6 t; add chain ip6 t c { type filter hook postrouting priority 0; policy drop; }'",
            "nft delete table ip6 t",
            "chain ip6 t c",
            false,
        ),
        (
            "nft 'add table bridge t; add chain bridge t c { type filter hook prerouting priority 0; }; add rule bridge t c ip protocol icmp drop'",
            "nft delete table bridge t",
            "chain bridge t c",
            true,
        ),
        (
            "nft 'add table netdev t; add chain netdev t c { type filter hook ingress device BRIDGE priority 0; }; add rule netdev t c counter'",
            "nft delete table netdev t",
            "chain netdev t c",
            false,
        ),
        (
            "nft 'add table netdev t; add chain netdev t c { type filter hook egress device VXLAN priority 0; }; add rule netdev t c drop'",
            "nft delete table netdev t",
            "chain netdev t c",
            true,
        ),
        (
            "nft 'add table netdev t; add chain netdev t c { type filter hook egress device BRIDGE priority 0; }; add rule netdev t c drop'",
            "nft delete table netdev t",
            "chain netdev t c",
            true,
        ),
        (
            "nft 'add table inet t; add chain inet t c { type filter hook forward priority 0; }; add rule inet t c meta mark 7 drop'",
            "nft delete table inet t",
            "chain inet t c",
            false,
        ),
        (
            "nft 'chain inet weft postrouting { policy drop; }'",
            "nft 'chain inet weft postrouting { policy accept; }'",
            "chain inet weft postrouting",
            false,
        ),
        ("nft add rule inet weft user drop", "nft flush chain inet weft user", "chain inet weft user", true),
        (
            "nft insert rule inet weft forward drop",
            "nft delete rule inet weft forward handle $(nft -a list chain inet weft forward | awk '$1 == \"drop\" { print $NF }')",
            "chain inet weft forward",
            true,
        ),
        (
            "nft 'add chain inet weft mine { type filter hook prerouting priority 0; }; add rule inet weft mine counter'",
            "nft 'flush chain inet weft mine; delete chain inet weft mine'",
            "chain inet weft mine",
            false,
        ),
        (
            "iptables-nft -A FORWARD -j DROP",
            "iptables-nft -D FORWARD -j DROP",
            "chain ip filter FORWARD",
            true,
        ),
        (
            "ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd action block",
            "ip xfrm policy flush",
            "IPsec has 1 policies",
            true,
        ),
        ("ip xfrm policy setdefault fwd block", "ip xfrm policy setdefault fwd accept", "IPsec blocks", true),
        (
            "tc qdisc add dev BRIDGE clsact && tc filter add dev BRIDGE ingress protocol all u32 match u32 0 0 classid 1:1",
            "tc qdisc del dev BRIDGE clsact",
            "tc filter show dev BRIDGE ingress",
            false,
        ),
        (
            "bridge link set dev PORT state 0",
            "bridge link set dev PORT state 3",
            "PORT is a port that is not forwarding",
            true,
        ),
        (
            "bridge link set dev PORT locked on",
            "bridge link set dev PORT locked off",
            "PORT is a port that is locked",
            false,
        ),
        ("ip rule add dport 7 blackhole", "ip rule del dport 7 blackhole", "a rule asks for ports", false),
        (
            "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0",
            "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=1",
            "nf_conntrack_tcp_loose",
            false,
        ),
    ];
    for (done, undone, why, drops) in table {
        let own =
            |text: &str| text.replace("BRIDGE", &bridge).replace("VXLAN", &vxlan).replace("PORT", &port);
        let [done, undone, why] = [done, undone, why].map(own);
        net.host().sh(&done).expect_ok();
        net.becomes_shut(&why);
        let v4 = |of: &Container| addresses(of).into_iter().filter(|to| to.contains('.')).collect::<Vec<_>>();
        if drops {
            does_not_reach(&net.one, v4(&net.two));
            does_not_reach(&net.two, v4(&net.one));
        } else {
            reaches(&net.one, v4(&net.two));
        }
        net.host().sh(&undone).expect_ok();
        net.becomes_fast();
    }
    let shown = net.host().weft(["overlay", "status"]);
    assert!(shown.expect_ok().contains("plain, fastpath open"), "{shown}");

    // What has no say: a chain without rules, what is about the host's own packets, and about another link.
    for quiet in [
        "nft 'add table inet q; add chain inet q forward { type filter hook forward priority 0; policy accept; }'",
        "nft 'add chain inet q input { type filter hook input priority 0; }; add rule inet q input counter'",
        "nft 'add table netdev q; add chain netdev q lo { type filter hook ingress device lo priority 0; }; add rule netdev q lo counter'",
        "ip rule add fwmark 7 blackhole",
    ] {
        net.host().sh(quiet).expect_ok();
        net.becomes_fast();
    }

    let filtering = |on| format!("ip link set {bridge} type bridge vlan_filtering {on}");
    if net.host().sh(&filtering(1)).code == 0 {
        net.becomes_shut(&format!("{bridge} tells VLANs apart"));
        net.host().sh(&filtering(0)).expect_ok();
        net.becomes_fast();
    } else {
        weft_testkit::skipped("a kernel with VLANs on bridges, for that part");
    }

    if net.host().sh("ipvsadm -A -t 198.51.100.9:80").code == 0 {
        net.becomes_shut("IPVS has services");
        net.host().sh("ipvsadm -D -t 198.51.100.9:80").expect_ok();
        net.becomes_fast();
    } else {
        weft_testkit::skipped("IPVS and ipvsadm, for that part");
    }

    // The old iptables keeps its tables as long as the namespace lives.
    let six = |of: &Container| addresses(of).into_iter().filter(|to| to.contains(':')).collect::<Vec<_>>();
    if net.host().sh("ip6tables-legacy -A FORWARD -j DROP").code == 0 {
        net.becomes_shut("ip6tables-legacy -t filter -S");
        does_not_reach(&net.one, six(&net.two));
    } else {
        weft_testkit::skipped("ip6tables-legacy, for that part");
    }
    let legacy = net.host().sh("iptables-legacy -A FORWARD -j DROP");
    if legacy.code == 0 {
        net.becomes_shut("iptables-legacy -t filter -S");
        does_not_reach(&net.one, [&addresses(&net.two)[0]]);
    } else {
        weft_testkit::skipped("iptables-legacy, for the last part");
    }
}

#[test]
fn programs_of_others_shut_the_gate() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    let bridge = index_of(net.host(), &net.bridge());
    net.becomes_fast();
    for (place, why, drops) in [
        (received(bridge), "(TCX)", true),
        (early(bridge), "(XDP)", false),
        (FORWARDED, "is attached to netfilter", true),
    ] {
        let Some(attached) = attach(net.host(), place) else {
            weft_testkit::skipped(format_args!("a kernel that attaches programs so: {why}"));
            continue;
        };
        net.becomes_shut(why);
        if drops {
            does_not_reach(&net.one, addresses(&net.two).iter().filter(|to| to.contains('.')));
        } else {
            reaches(&net.one, addresses(&net.two));
        }
        drop(attached);
        net.becomes_fast();
    }
}

#[test]
fn the_gate_is_the_agents() {
    let mut net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.becomes_fast();
    // A container that comes while it is open.
    let three = connected(&net.cluster, 1, "three");
    let seen = |net: &Gated| [1, 2].map(|number| forwarded(net.cluster.host(number)));
    net.cluster.eventually("what the new container sends takes the fast path", || {
        let before = seen(&net);
        addresses(&net.two).iter().all(|to| three.ping(to)) && seen(&net) == before
    });
    net.cluster.kill(1);
    net.cluster.eventually("nobody keeps the gate open", || net.is_slow());
    reaches(&net.one, addresses(&net.two));
    // What an administrator does now is obeyed, and nobody is there to hear of it.
    net.host().sh("nft add rule inet weft user drop").expect_ok();
    does_not_reach(&net.one, addresses(&net.two));
    // Containers come all the same.
    let four = connected(&net.cluster, 1, "four");
    does_not_reach(&four, addresses(&net.two));
    net.cluster.start(1);
    net.becomes_shut("chain inet weft user has rules");
    for words in [&["overlay", "peers", "--verify"][..], &["doctor"]] {
        // What else they may have to say on a busy machine is not what this is about.
        let told = net.host().weft(words.iter().copied());
        assert!(told.stderr.contains("network blue: fastpath is shut: chain inet weft user"), "{told}");
        assert!(!told.stdout.contains("fastpath") && !told.stdout.contains("has no shortcut"), "{told}");
    }
    let shown = net.host().weft(["overlay", "status"]);
    assert!(shown.expect_ok().contains("plain, fastpath shut"), "{shown}");
    net.host().sh("nft flush chain inet weft user").expect_ok();
    net.becomes_fast();
    reaches(&four, addresses(&net.two));
    // One that ends as it is told to shuts it as well.
    net.cluster.end(1);
    assert!(!net.is_fast());
    reaches(&net.one, addresses(&net.two));
}

/// Connection tracking has not seen what went past, and kube-proxy drops what it does not know.
#[test]
fn connections_outlive_the_gate() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.becomes_fast();
    let begin = || {
        let to: IpAddr = addresses(&net.two)[0].parse().unwrap();
        let listener = net.two.inside(|| TcpListener::bind((to, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let caller = net.one.inside(|| TcpStream::connect(at).unwrap());
        Conversation::between(caller, listener.accept().unwrap().0)
    };
    let mut while_open = begin();
    let drop_unknown = "nft 'add table inet t; add chain inet t c { type filter hook forward priority 0; }; \
                        add rule inet t c ct state invalid counter drop'";
    for _ in 0..2 {
        net.host().sh(drop_unknown).expect_ok();
        net.becomes_shut("chain inet t c");
        while_open.goes_on();
        let mut while_shut = begin();
        net.host().sh("nft delete table inet t").expect_ok();
        net.becomes_fast();
        for _ in 0..200 {
            while_shut.goes_on();
            while_open.goes_on();
        }
        net.host().sh(drop_unknown).expect_ok();
        net.becomes_shut("chain inet t c");
        while_shut.goes_on();
        while_open.goes_on();
        net.host().sh("nft delete table inet t").expect_ok();
        net.becomes_fast();
    }
}

#[test]
fn a_translated_connection_keeps_the_gate_shut_until_it_is_over() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.becomes_fast();
    // A service address that leads to a container on the other host, which is answered to the caller itself.
    let [from, to] = [&net.one, &net.two].map(|of| addresses(of)[0].clone());
    let listener = net.two.inside(|| TcpListener::bind((to.as_str(), 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    net.host()
        .sh(&format!(
            "nft 'add table ip t; add chain ip t c {{ type nat hook prerouting priority -100; }}; \
             add rule ip t c ip daddr 198.51.100.7 dnat to {to}; \
             add chain ip t p {{ type nat hook postrouting priority 90; }}; \
             add rule ip t p ip daddr {to} tcp dport {port} snat to {from}'"
        ))
        .expect_ok();
    net.becomes_shut("chain ip t c");
    let caller = net.one.inside(|| TcpStream::connect(("198.51.100.7", port)).unwrap());
    let mut conversation = Conversation::between(caller, listener.accept().unwrap().0);
    net.host().sh("nft delete table ip t").expect_ok();
    net.becomes_shut("198.51.100.7 are translated");
    conversation.goes_on();
    // What is over is remembered for two minutes, unless the host is told otherwise.
    for state in ["time_wait", "last_ack", "close_wait", "fin_wait", "close"] {
        net.host().sh(&format!("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_{state}=1")).expect_ok();
    }
    drop(conversation);
    net.becomes_fast();
}

#[test]
fn an_isolated_network_has_a_gate_of_its_own_namespace() {
    let cluster = Cluster::new(2);
    skip_unless!(is_capable(cluster.underlay.lab()), NEEDS);
    cluster.network(1, &["-o", "isolated", "-o", "fastpath=auto", "blue"]);
    let (one, two) = (connected(&cluster, 1, "one"), connected(&cluster, 2, "two"));
    let host = cluster.host(1);
    let inside = format!("nsenter --net={}", host.path("run/weft/overlay/netns/blue").display());
    let seen = || {
        let shown = host.sh(&format!("{inside} awk '/^Ip:/ {{ if (n++) print $7 }}' /proc/self/net/snmp"));
        shown.expect_ok().trim().to_owned()
    };
    let is_fast = || {
        let before = seen();
        addresses(&two).iter().all(|to| one.ping(to)) && seen() == before
    };
    cluster.eventually("packets take the fast path", is_fast);
    let theirs = "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }";
    // The host's rules are not asked about it.
    host.sh(&format!("nft '{theirs}'")).expect_ok();
    cluster.eventually("packets take the fast path still", is_fast);
    host.sh(&format!("{inside} nft '{theirs}'")).expect_ok();
    cluster.eventually("its own rules are obeyed", || !one.ping(&addresses(&two)[0]));
    host.sh(&format!("{inside} nft delete table inet t")).expect_ok();
    cluster.eventually("packets take the fast path again", is_fast);
}
