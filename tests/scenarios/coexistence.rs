//! Beside other masters of the host's firewall: docker, ufw's way of dropping, firewalld, an administrator's own
//! chain. Each drops what it does not know; what our networks forward passes all the same, by one rule a host.

use std::net::IpAddr;

use serde_json::Value;
use weft_testkit::{Container, Conversation, Lab, Program, TcpServer, skip_unless, until};

use crate::heals::conversation;
use crate::others::{Docker, Firewalld};
use crate::watch::Daemon;

/// The outside, as the host knows it, and the host, as the outside does.
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const RULE: &str = "weft: what its networks forward";

/// A host with an uplink.
struct Host {
    lab: Lab,
    outside: Container,
    /// firewalld's bus, where there is one.
    bus: String,
}

impl Host {
    fn new() -> Self {
        let lab = Lab::new();
        let outside = lab.uplink();
        outside.ip("route add 10.0.0.0/8 via 192.0.2.1");
        Self { lab, outside, bus: String::new() }
    }

    #[track_caller]
    fn weft(&self, words: &str) -> String {
        let mut program = self.lab.weft_program(words.split(' '));
        if !self.bus.is_empty() {
            program = program.env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus);
        }
        program.run().expect_ok().to_string()
    }

    /// Creates a network of both families with a container that publishes a port.
    fn network(&self, number: u8, name: &str) -> Town {
        self.weft(&format!(
            "network create --ipv6 --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64 {name}"
        ));
        let container = self.lab.container(&format!("on-{name}"));
        self.weft(&format!("network connect -p 80{number}:80 {name} on-{name}"));
        let service = container.serve_tcp(80);
        Town { container, number, _service: service }
    }

    /// A connection to one more port that a town publishes.
    fn call(&self, town: &Town) -> Conversation {
        let port = 7000 + u16::from(town.number);
        self.weft(&format!("port publish {} {port}:{port}", town.container.name()));
        conversation(&self.outside, &town.container, HOST[0], [port; 2])
    }

    /// How many rules of ours are in iptables, of either program and family.
    fn rules(&self) -> usize {
        let programs = ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"];
        let listings = programs.map(|program| Program::new(program).args(["-S"]).run().stdout);
        listings.concat().matches(RULE).count()
    }

    /// What stands between a network and the outside, as doctor says it.
    fn findings(&self) -> Vec<[String; 3]> {
        let output = self.lab.weft_program(["doctor", "--format", "json"]);
        let output = output.env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus).run();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            ["What", "Why", "Mend"].map(|key| text(&row[key]))
        };
        output.stdout.lines().map(row).collect()
    }
}

/// A network with one container, which publishes port 80 of its own.
struct Town {
    container: Container,
    number: u8,
    _service: TcpServer,
}

impl Town {
    fn port(&self) -> u16 {
        8000 + u16::from(self.number)
    }

    /// Says which of this works: to the outside, and in by the published port; IPv4 and IPv6 each.
    fn ways(&self, host: &Host) -> [bool; 4] {
        let out = OUTSIDE.map(|address| (0..3).any(|_| self.pings(address)));
        let inward = HOST.map(|address| {
            let answer = host.outside.ask_tcp(address.parse::<IpAddr>().unwrap(), self.port());
            answer.is_ok_and(|answer| answer.by == self.container.name())
        });
        [out[0], out[1], inward[0], inward[1]]
    }

    fn pings(&self, address: &str) -> bool {
        self.container.run("ping", &format!("-n -c 1 -W 0.5 {address}")).code == 0
    }
}

const ALL: [bool; 4] = [true; 4];
const NONE: [bool; 4] = [false; 4];

#[test]
fn beside_docker_that_was_there_first() {
    let host = Host::new();
    let Some(mut docker) = Docker::start(&host.lab) else { return };
    assert!(policy("iptables-nft") == "DROP", "docker drops what it does not know");
    let before = host.lab.sh("iptables-nft-save -t filter | grep -v '^[:#]'").stdout;

    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    assert_eq!(host.rules(), 1, "IPv4 is what this docker drops");
    assert!(host.lab.sh("iptables-nft -S DOCKER-USER").expect_ok().contains(RULE), "in its documented hook");
    let pink = host.network(91, "pink");
    assert_eq!(pink.ways(&host), ALL);
    assert_eq!(host.rules(), 1, "one rule for all networks");

    let mut call = host.call(&blue);
    docker.restart();
    assert_eq!((blue.ways(&host), pink.ways(&host)), (ALL, ALL), "a restart keeps its hook");
    assert_eq!(host.rules(), 1);
    call.goes_on();
    assert_eq!(host.findings(), Vec::<[String; 3]>::new());
    host.weft("network reload");
    call.goes_on();
    assert_eq!((blue.ways(&host), host.rules()), (ALL, 1));

    host.weft("network rm -f blue");
    assert_eq!(pink.ways(&host), ALL);
    host.weft("network rm -f pink");
    assert_eq!(host.lab.sh("iptables-nft-save -t filter | grep -v '^[:#]'").stdout, before);
}

#[test]
fn beside_docker_that_comes_later() {
    let host = Host::new();
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    // Docker drops only where it has switched forwarding on itself.
    host.lab.set_sysctl("ipv4/ip_forward", "0");
    let Some(_docker) = Docker::start(&host.lab) else { return };
    assert_eq!(blue.ways(&host), [false, true, false, true], "it drops IPv4 on everybody");
    let found = host.findings();
    assert!(
        found.iter().any(|[what, _, mend]| what.contains("DOCKER-USER") && mend == "weft network reload")
    );

    host.weft("network reload");

    assert_eq!(blue.ways(&host), ALL);
    assert_eq!(host.findings(), Vec::<[String; 3]>::new());
}

#[test]
fn a_network_by_iptables_beside_docker_that_restarts() {
    let host = Host::new();
    host.lab.write("etc/weft/weft.toml", "firewall = \"iptables\"\n");
    let Some(mut docker) = Docker::start(&host.lab) else { return };
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    let mut call = host.call(&blue);
    for flush in ["", "iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F"] {
        host.lab.sh(flush).expect_ok();
        docker.restart();
        if !flush.is_empty() {
            assert_ne!(blue.ways(&host), ALL, "nothing was taken away");
            let found = host.findings();
            assert!(found.iter().any(|[what, ..]| what == "eth0 of on-blue on blue"), "{found:?}");
        }
        host.weft("network reload");
        call.goes_on();
        assert_eq!(blue.ways(&host), ALL, "{flush}");
        assert_eq!(host.findings(), Vec::<[String; 3]>::new());
    }
}

#[test]
fn dockers_own_networks_go_on() {
    let host = Host::new();
    let Some(docker) = Docker::start(&host.lab) else { return };
    // A namespace on docker's bridge, as its containers have one.
    let moby = host.lab.container("moby");
    host.lab.ip("link add moby0 type veth peer name eth0 netns moby");
    host.lab.ip("link set moby0 master docker0 up");
    moby.ip("address add 172.17.0.9/16 dev eth0");
    moby.ip("link set eth0 up");
    moby.ip("route add default via 172.17.0.1");
    let reaches = |container: &Container| (0..5).any(|_| container.ping(OUTSIDE[0]));
    assert!(reaches(&moby));
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    assert!(reaches(&moby));
    assert!(docker.run("network ls").expect_ok().contains("bridge"));
    host.weft("network rm -f blue");
    assert!(reaches(&moby));
}

#[test]
fn beside_a_policy_that_drops() {
    for [v4, v6] in [["iptables-nft", "ip6tables-nft"], ["iptables-legacy", "ip6tables-legacy"]] {
        // A lab stays with its thread.
        std::thread::scope(|scope| {
            let told = scope.spawn(|| {
                let host = Host::new();
                skip_unless!(
                    host.lab.sh(&format!("{v4} -S && {v6} -S")).code == 0,
                    format!("{v4} to work here")
                );
                for program in [v4, v6] {
                    host.lab.sh(&format!("{program} -P FORWARD DROP")).expect_ok();
                }
                let blue = host.network(90, "blue");
                assert_eq!(blue.ways(&host), ALL);
                assert_eq!(host.rules(), 2, "one for each family");
                let pink = host.network(91, "pink");
                assert_eq!((pink.ways(&host), host.rules()), (ALL, 2));

                // Somebody takes the rules away: everything is dropped, doctor says so, and reload mends it.
                for program in [v4, v6] {
                    host.lab.sh(&format!("{program} -F FORWARD")).expect_ok();
                }
                assert_eq!(blue.ways(&host), NONE);
                assert!(host.findings().iter().any(|[what, ..]| what.contains(v4)), "{:?}", host.findings());
                host.weft("network reload");
                assert_eq!((blue.ways(&host), host.rules()), (ALL, 2));

                host.weft("network rm -f blue");
                assert_eq!(pink.ways(&host), ALL);
                host.weft("network rm -f pink");
                assert_eq!(host.rules(), 0);
                assert_eq!(
                    (policy(v4), policy(v6)),
                    ("DROP".into(), "DROP".into()),
                    "nobody's policy is ours"
                );
            });
            told.join().unwrap_or_else(|_| panic!("with {v4}"));
        });
    }
}

#[test]
fn what_others_forward_is_still_dropped() {
    let host = Host::new();
    host.lab.sh("iptables-nft -P FORWARD DROP").expect_ok();
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    // Somebody else's wire, with nothing of ours in the way.
    let stranger = host.lab.container("stranger");
    host.lab.ip("link add strange0 type veth peer name eth0 netns stranger");
    host.lab.ip("address add 198.51.100.1/24 dev strange0");
    host.lab.ip("link set strange0 up");
    stranger.ip("address add 198.51.100.2/24 dev eth0");
    stranger.ip("link set eth0 up");
    stranger.ip("route add default via 198.51.100.1");
    host.outside.ip("route add 198.51.100.0/24 via 192.0.2.1");
    assert!((0..5).any(|_| stranger.ping("198.51.100.1")));
    assert!(!stranger.ping(OUTSIDE[0]));
    // And what is not published stays closed: the guard is asked whatever other filters say.
    assert!(host.outside.ask_tcp("10.90.0.2".parse().unwrap(), 80).is_err());
}

/// A chain like one an administrator may have written.
const OWN_CHAIN: &str = "nft add table inet mine && \
    nft 'add chain inet mine passing { type filter hook forward priority 0; policy drop; }'";

#[test]
fn an_administrators_own_chain_is_explained() {
    let host = Host::new();
    host.lab.sh(OWN_CHAIN).expect_ok();
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), NONE, "there is no hook to use");
    let mend = mend_of(&host);
    host.lab.sh(&mend).expect_ok();
    assert_eq!(blue.ways(&host), ALL, "{mend}");
    assert_eq!(host.findings(), Vec::<[String; 3]>::new());
    assert_eq!(host.network(91, "pink").ways(&host), ALL, "once for all networks");
}

#[test]
fn an_administrators_chain_may_come_later() {
    let host = Host::new();
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    host.lab.sh(OWN_CHAIN).expect_ok();
    assert_eq!(blue.ways(&host), NONE);
    let mend = mend_of(&host);
    host.lab.sh(&mend).expect_ok();
    assert_eq!(blue.ways(&host), ALL, "{mend}");
    assert_eq!(host.findings(), Vec::<[String; 3]>::new());
}

/// What doctor says about the administrator's chain.
fn mend_of(host: &Host) -> String {
    let found = host.findings();
    found.iter().find(|[what, ..]| what == "chain inet mine passing").unwrap()[2].clone()
}

#[test]
fn beside_firewalld() {
    let mut host = Host::new();
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    host.bus.clone_from(&firewalld.address);
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    let zone = || firewalld.command("--zone=trusted --list-interfaces").stdout;
    assert_eq!(zone().split_whitespace().count(), 1);
    let mut call = host.call(&blue);

    firewalld.command("--reload").expect_ok();
    assert_eq!(blue.ways(&host), [false, false, true, true], "what it was told at run time is forgotten");
    assert!(host.findings().iter().any(|[_, why, _]| why.contains("firewalld")), "{:?}", host.findings());
    host.weft("network reload");
    assert_eq!(blue.ways(&host), ALL);
    call.goes_on();
    assert_eq!(host.findings(), Vec::<[String; 3]>::new());

    host.weft("network rm -f blue");
    assert_eq!(zone().trim(), "");
}

#[test]
fn weftd_watch_sees_that_firewalld_was_reloaded() {
    let mut host = Host::new();
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    host.bus.clone_from(&firewalld.address);
    let blue = host.network(90, "blue");
    assert_eq!(blue.ways(&host), ALL);
    let mut call = host.call(&blue);
    let zone = || firewalld.command("--zone=trusted --list-interfaces").stdout;
    let is_in = || zone().split_whitespace().count() == 1;
    let _daemon = Daemon::start(&host.lab, &host.bus);
    assert!(is_in());
    firewalld.command("--reload").expect_ok();
    until("the bridge in firewalld's zone again", is_in);
    assert_eq!(blue.ways(&host), ALL);
    call.goes_on();
}

/// The policy of FORWARD.
fn policy(program: &str) -> String {
    let listing = Program::new(program).args(["-S", "FORWARD"]).run();
    let policy = listing.stdout.lines().find_map(|line| line.strip_prefix("-P FORWARD "));
    policy.unwrap_or_default().to_string()
}
