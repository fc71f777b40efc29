//! What others take away comes back: after every kind of flush, with connections that stay open.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use weft_testkit::{Container, Conversation, Lab};

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn open(from: &Container, host: &str, port: u16) -> bool {
    from.ask_tcp(ip(host), port).is_ok()
}

/// A connection through a published port that stays open.
pub(crate) fn conversation(from: &Container, to: &Container, host: &str, ports: [u16; 2]) -> Conversation {
    let [host_port, port] = ports;
    let listener = to.inside(|| TcpListener::bind(("::", port))).unwrap();
    let caller = from
        .inside(|| TcpStream::connect_timeout(&SocketAddr::new(ip(host), host_port), Duration::from_secs(5)));
    Conversation::between(caller.unwrap(), listener.accept().unwrap().0)
}

/// Two networks: red on blue publishes 8080 and has more services, green is on pink. All modes are at work.
struct Town {
    lab: Lab,
    outside: Container,
    red: Container,
    green: Container,
    _services: Vec<weft_testkit::TcpServer>,
}

impl Town {
    fn new(lab: Lab, options: &[&str]) -> Self {
        let outside = lab.uplink();
        // The link is new, and its link-local addresses are probed for a second or two.
        assert!((0..5).any(|_| outside.ping(HOST[1])), "the uplink is not up");
        outside.ip("route add 10.0.0.0/8 via 192.0.2.1");
        for (number, name) in [(90, "blue"), (91, "pink")] {
            let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd00:{number}::/64"));
            let words = ["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6];
            lab.weft(words.into_iter().chain(options.iter().copied()).chain([name])).expect_ok();
        }
        let (red, green) = (lab.container("red"), lab.container("green"));
        let ports = ["-p", "8080:80", "-p", "8090-8099:90-99", "-p", "8081:81,from=198.51.100.0/24"];
        lab.weft(["network", "connect"].into_iter().chain(ports).chain(["blue", "red"])).expect_ok();
        lab.weft(["network", "connect", "-p", "7000:7000", "pink", "green"]).expect_ok();
        let _services = [80, 81, 95].map(|port| red.serve_tcp(port)).into();
        Self { lab, outside, red, green, _services }
    }

    /// What should be so: published ports of both families, a range, masquerading, and all that is kept out.
    fn state(&self) -> Vec<(&'static str, bool)> {
        let away = self.outside.serve_tcp(0);
        let seen = self.red.call_tcp(ip(OUTSIDE[0]), away.port()).ok();
        vec![
            ("published", open(&self.outside, HOST[0], 8080)),
            ("published by IPv6", open(&self.outside, HOST[1], 8080)),
            ("published as a range", open(&self.outside, HOST[0], 8095)),
            ("published to the host", self.lab.ask_tcp(ip("127.0.0.1"), 8080).is_ok()),
            ("masqueraded", seen == Some(ip(HOST[0]))),
            ("closed to others", !open(&self.outside, HOST[0], 8081)),
            ("closed to routes", !open(&self.outside, "10.90.0.2", 80)),
            ("closed to other networks", !open(&self.green, "10.90.0.2", 80)),
        ]
    }

    #[track_caller]
    fn is_well(&self) {
        let wrong: Vec<_> = self.state().into_iter().filter(|(_, right)| !right).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{}", self.lab.ruleset());
    }

    #[track_caller]
    fn is_ill(&self) {
        let wrong = self.state().into_iter().filter(|(_, right)| !right).count();
        assert!(wrong > 0, "nothing was taken away, so nothing is proved");
    }
}

#[test]
fn a_flushed_ruleset_comes_back_and_connections_go_on() {
    let town = Town::new(Lab::new(), &[]);
    town.is_well();
    let mut call = conversation(&town.outside, &town.green, HOST[0], [7000; 2]);
    call.goes_on();
    let before = town.lab.ruleset();

    town.lab.sh("nft flush ruleset").expect_ok();
    town.is_ill();
    town.lab.weft(["network", "reload"]).expect_ok();
    call.goes_on();
    town.is_well();
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));

    // Where nothing is missing, nothing changes and nobody is disturbed.
    town.lab.weft(["network", "reload"]).expect_ok();
    call.goes_on();
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));
}

/// The order of elements is the kernel's affair, and says nothing.
fn sorted(ruleset: &str) -> Vec<&str> {
    let words = ruleset.split(['\n', ',', '{', '}']).map(str::trim).filter(|word| !word.is_empty());
    let mut words: Vec<&str> = words.collect();
    words.sort_unstable();
    words
}

#[test]
fn one_network_can_be_named() {
    let town = Town::new(Lab::new(), &[]);
    town.lab.sh("nft flush ruleset").expect_ok();
    town.lab.weft(["network", "reload", "blue"]).expect_ok();
    town.is_well();
    town.lab.weft(["network", "reload", "nowhere"]).expect_failure(3, &["nowhere"]);
}

#[test]
fn a_flushed_chain_comes_back_too() {
    let town = Town::new(Lab::new(), &[]);
    town.lab
        .sh("for chain in postrouting prerouting forward; do nft flush chain inet weft $chain; done")
        .expect_ok();
    town.is_ill();
    town.lab.weft(["network", "reload"]).expect_ok();
    town.is_well();
}

#[test]
fn iptables_rules_come_back_and_connections_go_on() {
    let lab = Lab::new();
    weft_testkit::skip_unless!(lab.sh("iptables --version").code == 0, "iptables");
    let town = Town::new(lab, &["-o", "masquerade-backend=iptables"]);
    town.is_well();
    let mut call = conversation(&town.outside, &town.green, HOST[0], [7000; 2]);
    call.goes_on();

    town.lab.sh("iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F").expect_ok();
    town.is_ill();
    town.lab.weft(["network", "reload"]).expect_ok();
    call.goes_on();
    town.is_well();
}

#[test]
fn the_reference_plugins_tables_come_back_and_connections_go_on() {
    let town = Town::new(Lab::new(), &["-o", "masquerade-backend=nftables"]);
    assert!(town.lab.ruleset().contains("table inet cni_plugins_masquerade"));
    town.is_well();
    let mut call = conversation(&town.outside, &town.green, HOST[0], [7000; 2]);
    let before = town.lab.ruleset();

    town.lab.sh("nft flush ruleset").expect_ok();
    let told = town.lab.weft(["doctor"]);
    assert!(told.code == 1 && told.stdout.contains("cni_plugins_masquerade"), "{told}");
    town.is_ill();
    town.lab.weft(["network", "reload"]).expect_ok();
    call.goes_on();
    town.is_well();
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));
    assert_eq!(town.lab.weft(["doctor"]).expect_ok(), "");
}

/// How many transactions of nf_tables there have been.
fn generation() -> u32 {
    weft_nft::Socket::open().unwrap().generation().unwrap()
}

#[test]
fn whatever_was_in_nf_tables_comes_back_in_one_transaction() {
    let town = Town::new(Lab::new(), &["-o", "isolate=true"]);
    let create = |words: &str| {
        let words = ["network", "create", "--ipv6"].into_iter().chain(words.split(' '));
        town.lab.weft(words).expect_ok();
    };
    create("--subnet 10.92.0.0/24 --subnet fd00:92::/64 -o masquerade-backend=nftables gold");
    create("--subnet 10.93.0.0/24 --subnet fd00:93::/64 -o icc=false -o gateway_mode_ipv6=routed grey");
    create("--subnet 10.94.0.0/25 --subnet fd00:94::/80 --internal black");
    create("--subnet 10.95.0.0/16 --subnet fd00:95::/64 -o host_ipv4=192.0.2.1 brown");
    for network in ["gold", "grey", "black", "brown"] {
        for number in 1..=3 {
            let name = format!("{network}{number}");
            town.lab.container(&name);
            let ports = format!("{}0:80", 100 + container_number(network) * 10 + number);
            let publish = if network == "black" { Vec::new() } else { vec!["-p", ports.as_str()] };
            let words = ["network", "connect"].into_iter().chain(publish).chain([network, &name]);
            town.lab.weft(words).expect_ok();
        }
    }
    town.lab.weft(["network", "reload"]).expect_ok();
    let before = town.lab.ruleset();
    let mut call = conversation(&town.outside, &town.green, HOST[0], [7000; 2]);

    town.lab.sh("nft flush ruleset").expect_ok();
    town.is_ill();
    let flushed = generation();
    town.lab.weft(["network", "reload"]).expect_ok();

    assert_eq!(generation(), flushed + 1, "one transaction, whatever asked for it");
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));
    call.goes_on();
    town.is_well();
    assert_eq!(town.lab.weft(["doctor"]).expect_ok(), "");

    town.lab.weft(["network", "reload"]).expect_ok();
    assert_eq!(generation(), flushed + 1, "nothing is missing, so nothing is written");

    // One network's rules, and those of one container.
    town.lab.sh("nft flush chain inet cni_plugins_masquerade masq_checks").expect_ok();
    let told = town.lab.weft(["doctor"]);
    assert!(["gold1", "gold2", "gold3"].iter().all(|name| told.stdout.contains(name)), "{told}");
    town.lab.weft(["network", "reload"]).expect_ok();
    assert_eq!(generation(), flushed + 3);
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));
    call.goes_on();

    // What is given up does not come back.
    town.lab.weft(["network", "disconnect", "gold", "gold2"]).expect_ok();
    let before = town.lab.ruleset();
    town.lab.sh("nft flush ruleset").expect_ok();
    town.lab.weft(["network", "disconnect", "gold", "gold3"]).expect_ok();
    town.lab.weft(["network", "reload"]).expect_ok();
    let after = town.lab.ruleset();
    assert!(before.contains("id: gold3") && after.contains("id: gold1"), "{after}");
    assert!(!after.contains("id: gold2") && !after.contains("id: gold3"), "{after}");
}

fn container_number(network: &str) -> usize {
    ["gold", "grey", "black", "brown"].iter().position(|name| *name == network).unwrap()
}

#[test]
fn a_flush_of_iptables_does_not_concern_our_own_table() {
    let lab = Lab::new();
    weft_testkit::skip_unless!(lab.sh("iptables --version").code == 0, "iptables");
    let town = Town::new(lab, &[]);
    let mut call = conversation(&town.outside, &town.green, HOST[0], [7000; 2]);
    town.lab.sh("iptables -F; iptables -t nat -F").expect_ok();
    town.lab.weft(["network", "reload"]).expect_ok();
    call.goes_on();
    town.is_well();
}

#[test]
fn the_hosts_settings_come_back() {
    let town = Town::new(Lab::new(), &[]);
    town.lab.set_sysctl("ipv4/ip_forward", "0");
    town.is_ill();
    town.lab.weft(["network", "reload"]).expect_ok();
    assert_eq!(town.lab.sysctl("ipv4/ip_forward"), "1");
    town.is_well();
}

#[test]
fn a_reload_brings_nothing_back_that_was_given_up() {
    let town = Town::new(Lab::new(), &[]);
    town.lab.weft(["port", "unpublish", "red", "8080:80"]).expect_ok();
    town.lab.weft(["network", "disconnect", "pink", "green"]).expect_ok();
    let before = town.lab.ruleset();
    town.lab.sh("nft flush ruleset").expect_ok();
    town.lab.weft(["network", "reload"]).expect_ok();
    assert!((0..20).any(|_| !open(&town.outside, HOST[0], 8080)));
    assert!(open(&town.outside, HOST[0], 8095), "what was not given up came back");
    assert_eq!(sorted(&town.lab.ruleset()), sorted(&before));
}
