//! Networks whose rules are in chains of iptables, with either of its programs: the same behaviour, and nothing
//! of ours in nf_tables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde_json::json;
use weft_testkit::{
    Container, Lab, Output, Program, TcpServer, Xtables, on_each, skip_unless, staged_folder,
};

use crate::heals::conversation;

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host that is told to use iptables, which is this program.
struct Host {
    lab: Lab,
    outside: Container,
    programs: Xtables,
}

impl Host {
    fn new(program: &str) -> Self {
        let lab = Lab::new();
        lab.write("etc/weft/weft.toml", "firewall = \"iptables\"\n");
        let outside = lab.uplink();
        assert!((0..5).any(|_| outside.ping(HOST[1])), "the uplink is not up");
        outside.ip("route add 10.0.0.0/8 via 192.0.2.1");
        outside.ip("route add fd00::/16 via 2001:db8:ffff::1");
        let programs = Xtables::choose(&lab, program);
        Self { lab, outside, programs }
    }

    fn iptables(&self, program: &str, words: &str) -> Output {
        self.programs.run(program, words)
    }

    /// Runs iptables for both families.
    fn both(&self, words: &str) -> String {
        ["iptables", "ip6tables"]
            .map(|program| self.iptables(program, words).expect_ok().to_string())
            .concat()
    }

    #[track_caller]
    fn weft(&self, words: &str) -> String {
        self.lab
            .weft_program(words.split(' '))
            .env("PATH", self.programs.path())
            .run()
            .expect_ok()
            .to_string()
    }

    /// Runs `weft doctor`, and returns what it finds.
    #[track_caller]
    fn doctor(&self) -> String {
        let doctor = self.lab.weft_program(["doctor"]).env("PATH", self.programs.path()).run();
        assert!(doctor.code == 0 || doctor.code == 1, "{doctor}");
        assert_eq!(doctor.code == 0, doctor.stdout.is_empty(), "{doctor}");
        doctor.stdout
    }

    /// Creates `10.<number>.0.0/24` and `fd00:<number>::/64`, with a container at `.2` and `::2`, named after the
    /// network, that serves 80 and 81 and publishes 80.
    fn served(&self, number: u8, network: &str, options: &str) -> (Container, [TcpServer; 2]) {
        let subnets = format!("--subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64");
        let options: String = options.split_whitespace().map(|option| format!("-o {option} ")).collect();
        self.weft(&format!("network create --ipv6 {subnets} {options}{network}"));
        let container = self.lab.container(&format!("on-{network}"));
        self.weft(&format!("network connect -p 80{number}:80 {network} on-{network}"));
        let services = [container.serve_tcp(80), container.serve_tcp(81)];
        (container, services)
    }
}

fn open(from: &Container, host: &str, port: u16) -> bool {
    from.ask_tcp(ip(host), port).is_ok()
}

/// What the outside reaches: the published port of the host; the published and the other port of the container, and a
/// ping, by the container's own address.
fn reached(outside: &Container, host: &str, own: &str) -> [bool; 4] {
    [open(outside, host, 8090), open(outside, own, 80), open(outside, own, 81), outside.ping(own)]
}

/// Whom the outside sees when the container calls.
fn seen(red: &Container, outside: &Container, address: &str) -> Option<String> {
    let service = outside.serve_tcp(0);
    red.call_tcp(ip(address), service.port()).ok().map(|caller| caller.to_string())
}

/// Tells a story once with each of iptables' programs.
fn on_each_host(story: impl Fn(Host) + Sync) {
    on_each(&Xtables::PROGRAMS, |program| {
        let host = Host::new(program);
        skip_unless!(host.programs.work(), format!("{program} to work here"));
        story(host);
    });
}

#[test]
fn nat_lets_in_what_is_published_and_nothing_else() {
    on_each_host(|host| {
        let (red, _services) = host.served(90, "blue", "");
        for (at, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert_eq!(reached(&host.outside, at, own), [true, false, false, false], "{own}");
        }
        for (at, outer) in HOST.into_iter().zip(OUTSIDE) {
            assert_eq!(seen(&red, &host.outside, outer).as_deref(), Some(at), "masqueraded");
        }
        assert!(!host.lab.ruleset().contains("table inet weft"), "nothing of ours in nf_tables");
    });
}

#[test]
fn nat_unprotected_lets_in_whoever_has_a_route() {
    on_each_host(|host| {
        let modes = "gateway_mode_ipv4=nat-unprotected gateway_mode_ipv6=nat-unprotected";
        let (_red, _services) = host.served(90, "blue", modes);
        for (at, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert_eq!(reached(&host.outside, at, own), [true; 4], "{own}");
        }
    });
}

#[test]
fn routed_lets_in_the_containers_published_ports() {
    on_each_host(|host| {
        let (red, _services) = host.served(90, "blue", "gateway_mode_ipv4=routed gateway_mode_ipv6=routed");
        for (at, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert_eq!(reached(&host.outside, at, own), [false, true, false, true], "{own}");
        }
        for (outer, own) in OUTSIDE.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert_eq!(seen(&red, &host.outside, outer).as_deref(), Some(own), "packets keep their address");
        }
        host.weft("port unpublish on-blue 8090:80");
        host.weft("port publish on-blue 81,from=2001:db8:ffff::/64");
        for own in ["10.90.0.2", "fd00:90::2"] {
            assert!(!open(&host.outside, own, 80), "{own}");
        }
        assert!(open(&host.outside, "fd00:90::2", 81) && !open(&host.outside, "10.90.0.2", 81));
    });
}

#[test]
fn isolated_networks_reach_each_others_published_ports_alone() {
    on_each_host(|host| {
        let (_red, _services) = host.served(90, "blue", "");
        let (green, _others) = host.served(91, "pink", "");
        for (at, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert!(!open(&green, own, 80) && !green.ping(own), "{own}");
            assert!(open(&green, at, 8090), "{at}");
        }
    });
}

#[test]
fn networks_that_are_not_isolated_reach_each_other() {
    on_each_host(|host| {
        let (_red, _services) = host.served(90, "blue", "isolate=false");
        let (green, _others) = host.served(91, "pink", "isolate=false");
        for own in ["10.90.0.2", "fd00:90::2"] {
            assert!(open(&green, own, 81), "{own}");
        }
    });
}

#[test]
fn a_network_in_our_own_table_is_apart_as_well() {
    on_each_host(|host| {
        let (_red, _services) = host.served(90, "blue", "");
        let (green, _others) = host.served(91, "pink", "masquerade-backend=weft");
        assert!(host.lab.ruleset().contains("table inet weft"));
        for (at, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            assert!(!open(&green, own, 80) && !green.ping(own), "{own}");
            assert!(open(&green, at, 8090), "{at}");
        }
        host.weft("network rm -f blue");
        assert!(!host.both("-S").contains("WEFT-"), "{}", host.both("-S"));
        for outer in OUTSIDE {
            assert!((0..5).any(|_| green.ping(outer)), "{outer}");
        }
    });
}

#[test]
fn an_internal_network_publishes_nothing() {
    on_each_host(|host| {
        host.weft("network create --internal --subnet 10.90.0.0/24 inner");
        let red = host.lab.container("red");
        host.weft("network connect inner red");
        assert!(!red.ping(OUTSIDE[0]));
        let (green, _others) = host.served(91, "pink", "");
        assert!((0..5).any(|_| green.ping(OUTSIDE[0])));
        assert!(!green.ping("10.90.0.2") && !red.ping("10.91.0.2"));
    });
}

#[test]
fn packets_leave_with_the_address_that_was_named() {
    on_each_host(|host| {
        host.lab.ip("address add 192.0.2.11/24 dev uplink0");
        host.lab.ip("address add 2001:db8:ffff::11/64 dev uplink0 nodad");
        let (red, _services) = host.served(90, "blue", "host_ipv4=192.0.2.11 host_ipv6=2001:db8:ffff::11");
        for (outer, named) in OUTSIDE.into_iter().zip(["192.0.2.11", "2001:db8:ffff::11"]) {
            assert_eq!(seen(&red, &host.outside, outer).as_deref(), Some(named));
        }
    });
}

#[test]
fn the_administrators_chain_is_asked_first_and_kept() {
    on_each_host(|host| {
        let (_red, _services) = host.served(90, "blue", "");
        assert!(open(&host.outside, HOST[0], 8090));
        host.both("-A WEFT-USER -p tcp --dport 80 -j DROP");
        assert!(!open(&host.outside, HOST[0], 8090), "it has the first word");
        let (_green, _others) = host.served(91, "pink", "");
        host.weft("network reload");
        assert!(!open(&host.outside, HOST[0], 8090), "whatever we write");
        host.weft("network rm -f blue");
        host.weft("network rm -f pink");
        assert!(
            host.both("-S").contains("-A WEFT-USER -p tcp -m tcp --dport 80 -j DROP"),
            "it is not ours to empty"
        );
        let (_brown, _third) = host.served(92, "cyan", "");
        assert!(!open(&host.outside, HOST[0], 8092), "and holds for the next network");
    });
}

#[test]
fn a_filter_that_drops_lets_them_pass() {
    on_each_host(|host| {
        host.both("-P FORWARD DROP");
        let (red, _services) = host.served(90, "blue", "");
        for (at, outer) in HOST.into_iter().zip(OUTSIDE) {
            assert!(open(&host.outside, at, 8090), "{at}");
            assert!((0..5).any(|_| red.ping(outer)), "{outer}");
        }
        for own in ["10.90.0.2", "fd00:90::2"] {
            assert!(!open(&host.outside, own, 80) && !host.outside.ping(own), "{own}");
        }
    });
}

#[test]
fn nothing_stays_but_what_the_reference_leaves() {
    on_each_host(|host| {
        let before = host.both("-S");
        let nat = host.both("-t nat -S");
        let (_red, _services) = host.served(90, "blue", "");
        let (_green, _others) = host.served(91, "pink", "icc=false");
        assert_ne!(host.both("-S"), before);
        host.weft("network rm -f blue");
        host.weft("network rm -f pink");
        assert_eq!(host.both("-S"), before);
        let left: Vec<_> = host.both("-t nat -S").lines().map(String::from).collect();
        let own = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];
        let extra = left.iter().filter(|line| !nat.lines().any(|old| old == *line));
        for line in extra {
            assert!(own.iter().any(|chain| line.contains(chain)), "{line}");
        }
        assert!(!host.both("-t raw -S").contains("127.0.0.0/8"), "{}", host.both("-t raw -S"));
    });
}

#[test]
fn whatever_was_flushed_comes_back_with_one_run_for_each_family() {
    on_each_host(|host| {
        // A filter that drops what it does not know has a rule of ours for a network in our own table.
        host.both("-P FORWARD DROP");
        let (gold, _gilt) = host.served(92, "gold", "masquerade-backend=weft");
        assert_eq!(host.both("-S FORWARD").matches("what its networks forward").count(), 2);
        let (red, _services) = host.served(90, "blue", "icc=false");
        let (_green, _others) = host.served(91, "pink", "");
        let also = host.lab.container("also");
        host.weft("network connect -p 9000-9009:90-99 blue also");
        host.weft("network connect --interface eth1 pink also");
        let before = [host.both("-S"), host.both("-t nat -S"), host.both("-t raw -S")];
        let mut call = conversation(&host.outside, &also, HOST[0], [9000, 90]);
        assert_eq!(host.doctor(), "");
        host.programs.watch_restores();

        for flush in ["-F", "-t nat -F", "-t raw -F"] {
            host.both(flush);
        }
        let told = host.doctor();
        for lost in [
            "iptables rule from 10.90.0.2 to chain CNI-",
            "ip6tables rule from fd00:90::2 to chain CNI-",
            "iptables rule from 10.91.0.3 to chain CNI-",
            "eth1 of also on pink",
            "-j MASQUERADE",
            "CNI-HOSTPORT-DNAT",
            "WEFT-FORWARD",
            "chain FORWARD of ",
            "weft network reload",
        ] {
            assert!(told.contains(lost), "does not tell of {lost}: {told}");
        }
        assert_eq!(host.programs.restored(), Vec::<String>::new(), "looking changes nothing");

        host.weft("network reload");

        assert_eq!(
            host.programs.restored(),
            ["iptables-restore raw filter nat", "ip6tables-restore filter nat"]
        );
        call.goes_on();
        assert_eq!(host.doctor(), "");
        for (at, outer) in HOST.into_iter().zip(OUTSIDE) {
            assert!(open(&host.outside, at, 8090) && open(&host.outside, at, 8092), "{at}");
            assert_eq!(seen(&red, &host.outside, outer).as_deref(), Some(at), "masqueraded");
            assert_eq!(seen(&gold, &host.outside, outer).as_deref(), Some(at), "let through");
        }
        let sorted = |text: &String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let after = [host.both("-S"), host.both("-t nat -S"), host.both("-t raw -S")];
        assert_eq!(after.each_ref().map(sorted), before.each_ref().map(sorted));
        host.weft("network reload");
        assert_eq!(host.programs.restored().len(), 2, "where nothing is missing, nothing is written");
    });
}

#[test]
fn a_chain_that_was_emptied_is_told_and_comes_back() {
    on_each_host(|host| {
        let (red, _services) = host.served(90, "blue", "");
        let chains = host.iptables("iptables", "-t nat -S").expect_ok().to_string();
        let own = chains.lines().filter_map(|line| line.strip_prefix("-N CNI-"));
        let own = own.filter(|name| !name.contains('-')).collect::<Vec<_>>();
        assert_eq!(own.len(), 1, "{chains}");
        assert_eq!(seen(&red, &host.outside, OUTSIDE[0]).as_deref(), Some(HOST[0]));

        host.iptables("iptables", &format!("-t nat -F CNI-{}", own[0])).expect_ok();
        assert_ne!(seen(&red, &host.outside, OUTSIDE[0]).as_deref(), Some(HOST[0]), "nothing was lost");
        let told = host.doctor();
        assert!(told.contains("eth0 of on-blue on blue") && told.contains("-j MASQUERADE"), "{told}");

        host.weft("network reload");
        assert_eq!(host.doctor(), "");
        assert_eq!(seen(&red, &host.outside, OUTSIDE[0]).as_deref(), Some(HOST[0]));
    });
}

/// Has `bridge` do something for a container, under strace(1), and returns which sockets it made.
fn sockets(
    programs: &Xtables,
    lab: &Lab,
    verb: &str,
    number: usize,
    red: &Container,
    more: &[&str],
) -> String {
    let conf = json!({
        "cniVersion": "1.0.0", "name": format!("n{number}"), "type": "bridge", "bridge": format!("br{number}"),
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "subnet": format!("10.{number}.0.0/16"), "dataDir": lab.path("leases")},
    });
    let trace = lab.path("trace");
    let program =
        Program::new("strace").args(["-o".as_ref(), trace.as_os_str()]).args(["-e", "trace=socket"]);
    let program = program.args(more).args([staged_folder().join("bridge")]).env("PATH", programs.path());
    let program = program.env("WEFT_ROOT", lab.root()).env("CNI_PATH", staged_folder());
    let program = program.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", red.name());
    let program = program.env("CNI_IFNAME", "eth0").env("CNI_NETNS", red.netns());
    program.stdin(conf.to_string()).run().expect_ok();
    std::fs::read_to_string(trace).unwrap()
}

#[test]
fn where_there_is_no_nf_tables_iptables_is_chosen() {
    skip_unless!(Path::new("/usr/bin/strace").exists(), "strace");
    let lab = Lab::new();
    let programs = Xtables::choose(&lab, "xtables-legacy-multi");
    skip_unless!(programs.work(), "iptables-legacy");
    let outside = lab.uplink();
    let _service = outside.serve_tcp(80);
    let called_by = |container: &Container| container.call_tcp(ip(OUTSIDE[0]), 80).unwrap();
    let chains = || programs.run("iptables", "-t nat -S").expect_ok().matches("-N CNI-").count();

    let with = lab.container("with");
    let made = sockets(&programs, &lab, "ADD", 91, &with, &[]);
    assert_eq!((called_by(&with), chains()), (ip(HOST[0]), 0));

    // Which of its sockets asks nf_tables: on a kernel without, it is refused.
    let nth = made.lines().position(|line| line.contains("NETLINK_NETFILTER")).unwrap() + 1;
    let without = lab.container("without");
    let refusal = format!("inject=socket:error=EPROTONOSUPPORT:when={nth}");
    let made = sockets(&programs, &lab, "ADD", 90, &without, &["-e", &refusal]);
    assert!(
        made.lines().any(|line| line.contains("NETLINK_NETFILTER") && line.contains("INJECTED")),
        "{made}"
    );
    assert_eq!((called_by(&without), chains()), (ip(HOST[0]), 1));

    sockets(&programs, &lab, "DEL", 90, &without, &[]);
    assert_eq!(chains(), 0);
    assert_eq!(called_by(&with), ip(HOST[0]));
}
