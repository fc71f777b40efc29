//! A host of our own with containers and a server beyond it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::mount::{MsFlags, mount};
use weft_firewall::{Backend, Fragment, Masquerade};
use weft_model::Endpoint;
use weft_netns::{Netns, create, isolate};
use weft_nft::{Element, Family, Key, Set, Socket, Table, Transaction, Type};

/// How long to wait for a datagram that must come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a command in the calling thread's namespaces.
pub(crate) fn run(command: &str) -> Output {
    let mut words = command.split(' ');
    #[expect(clippy::disallowed_methods, reason = "a test sets its lab up with the tools people use")]
    let output = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).output();
    output.unwrap_or_else(|cause| panic!("{command}: {cause}"))
}

/// Runs a command that must succeed and returns what it prints.
pub(crate) fn sh(command: &str) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns whether a program is installed; says so on stderr if it is not.
pub(crate) fn has(program: &str) -> bool {
    let found =
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !found {
        weft_testkit::skipped(program);
    }
    found
}

/// Returns the ruleset without indentation, or nothing if `nft` is not installed.
pub(crate) fn ruleset() -> String {
    if has("nft") { sh("nft -s list ruleset").replace('\t', "") } else { String::new() }
}

/// Fails unless `docs/firewall.md` lists the ruleset as it is.
pub(crate) fn is_documented(table: &str) {
    if !has("nft") {
        return;
    }
    let page = include_str!("../../../../docs/firewall.md");
    let listing = sh("nft list ruleset");
    assert!(page.contains(&format!("```text\n{listing}```\n")), "docs/firewall.md, {table}:\n{listing}");
}

/// Fails unless what is listed can be loaded: no name of ours is a word of nft's.
pub(crate) fn loads() {
    if has("nft") {
        #[expect(clippy::disallowed_methods, reason = "a scratch file")]
        std::fs::write("/run/listing", sh("nft list ruleset")).unwrap();
        sh("nft -c -f /run/listing");
    }
}

/// Returns whether elements expire when they are told to, as they do since Linux 6.12. Older kernels need another
/// transaction, which deletes them.
pub(crate) fn elements_expire() -> bool {
    let table = Table::new(Family::Inet, "probe");
    let set = Set::new(table, "links", &[Type::IfName]).expiring();
    let element = Element::new(Key::new().ifname("lo"));
    let mut socket = Socket::open().unwrap();
    socket
        .commit(Transaction::new().table(table, None).set(&set).elements(&set, vec![element.clone()]))
        .unwrap();
    socket.commit(Transaction::new().expire(&set, vec![element.clone()])).unwrap();
    let found = socket.element(&set, element.key()).unwrap();
    socket.commit(Transaction::new().delete_table(table)).unwrap();
    found.is_none_or(|found| found.expires.is_some())
}

/// Covers a file with another one, for this test alone.
pub(crate) fn cover(target: &str, source: &str) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// Returns the directory for claims of this test.
pub(crate) fn claims() -> PathBuf {
    "/run/weft/masquerade".into()
}

pub(crate) fn endpoint(network: &str, container: &str, ifname: &str) -> Endpoint {
    Endpoint {
        network: network.parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    }
}

/// Returns what ADD asks for: masquerading for an attachment with these addresses.
pub(crate) fn attachment(backend: Backend, endpoint: &Endpoint, addresses: &[&str]) -> Fragment {
    let addresses: Vec<IpNetwork> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Fragment::Masquerade(Masquerade {
        network: endpoint.network.clone(),
        subnets: addresses.clone(),
        endpoint: Some(endpoint.clone()),
        addresses,
        backend,
        claims: claims(),
    })
}

/// Returns what the removal of a network asks for.
pub(crate) fn network(name: &str) -> Fragment {
    Fragment::Masquerade(Masquerade {
        network: name.parse().unwrap(),
        subnets: Vec::new(),
        endpoint: None,
        addresses: Vec::new(),
        backend: Backend::Weft,
        claims: claims(),
    })
}

/// A host that routes between two containers of one subnet and a server elsewhere.
///
/// Each container hangs on a wire of its own, so that the host routes even between the two.
pub(crate) struct Lab {
    pub(crate) host: Netns,
    pub(crate) red: Netns,
    pub(crate) blue: Netns,
    pub(crate) server: Netns,
}

pub(crate) const RED: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
pub(crate) const BLUE: [&str; 2] = ["10.1.0.3", "fd00:1::3"];
/// An address of the containers' subnet that the host itself has.
pub(crate) const OWN: [&str; 2] = ["10.1.0.9", "fd00:1::9"];
pub(crate) const SERVER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The host as the server sees it.
pub(crate) const UPLINK: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const GROUP: [&str; 2] = ["239.1.2.3", "ff15::1234"];

impl Lab {
    pub(crate) fn new() -> Self {
        isolate().unwrap();
        let host = Netns::current().unwrap();
        let [red, blue, server] = ["red", "blue", "server"].map(|name| create(name).unwrap());
        for (name, wire, addresses) in
            [("red", "wire-red", RED), ("blue", "wire-blue", BLUE), ("server", "uplink", SERVER)]
        {
            sh(&format!("ip link add {wire} type veth peer name eth0 netns {name}"));
            sh(&format!("ip link set {wire} up"));
            sh(&format!("ip -n {name} link set eth0 up"));
            sh(&format!("ip -n {name} link set lo up"));
            let gateways = if name == "server" { UPLINK } else { ["10.1.0.1", "fd00:1::1"] };
            for (address, gateway) in addresses.into_iter().zip(gateways) {
                let (own, host_len) = if gateway.contains(':') { ("-6", 128) } else { ("-4", 32) };
                sh(&format!("ip -n {name} {own} addr add {address}/{host_len} dev eth0{}", nodad(gateway)));
                sh(&format!("ip -n {name} {own} route add {gateway} dev eth0"));
                sh(&format!("ip -n {name} {own} route add default via {gateway}"));
                sh(&format!("ip {own} addr add {gateway}/{host_len} dev {wire}{}", nodad(gateway)));
                sh(&format!("ip {own} route add {address} dev {wire}"));
            }
        }
        for (address, len) in OWN.into_iter().zip([32, 128]) {
            sh(&format!("ip addr add {address}/{len} dev uplink{}", nodad(address)));
        }
        sh("ip route add 239.0.0.0/8 dev uplink");
        sh("ip -6 route add multicast ff15::/16 dev uplink table local");
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            sh(&format!("sysctl -q -w {key}=1"));
        }
        Self { host, red, blue, server }
    }
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// Sends a datagram from one namespace to an address in another and returns the source that the receiver sees.
///
/// Each call uses a new port, so that no translation of an earlier one is remembered.
pub(crate) fn seen_source(
    sender: (&Netns, &str),
    receiver: (&Netns, &str),
    prepare: impl Fn(&UdpSocket) + Sync,
) -> IpAddr {
    let address: IpAddr = receiver.1.parse().unwrap();
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let listener = receiver.0.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    listener.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    prepare(&listener);
    let from: IpAddr = sender.1.parse().unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = SocketAddr::new(address, port);
    let limit = Instant::now() + PATIENCE;
    // Sent again until it comes: the first packets may wait for a link or a neighbour.
    loop {
        let socket = sender.0.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        socket.send_to(b"hello", target).ok();
        if let Ok((_, source)) = listener.recv_from(&mut [0; 16]) {
            return source.ip();
        }
        assert!(Instant::now() < limit, "nothing arrives at {target}");
    }
}
