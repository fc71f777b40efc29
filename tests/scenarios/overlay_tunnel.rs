//! The mesh that encrypted networks ride in: hosts with `weftd tunnel`, and VXLAN set up by hand on top.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use weft_netlink::{Interest, Watch};
use weft_overlay::ids::{ClusterId, HostId};
use weft_overlay::records::{self, Cluster, Slots};
use weft_state::Root;
use weft_testkit::{Container, Host, Underlay, does_not_reach, reaches, staged};
use weft_tunnel::rotation::{Policy, Remote};
use weft_tunnel::{ClusterSecret, Driver, Implementation, Slot, View, device_mtu};

use crate::overlay_load::Flow;

/// What is sought on the wire.
pub(crate) const CANARY: &[u8] = b"a canary nobody may see";
const SECURE: u16 = 8473;

/// A host, its mesh, and what others know of it.
pub(crate) struct Member<'a> {
    pub(crate) host: &'a Host,
    pub(crate) driver: Driver,
    pub(crate) secret: ClusterSecret,
    pub(crate) wireguard: Slots<Option<records::Slot>>,
}

pub(crate) fn cluster() -> Cluster {
    Cluster::new(ClusterId::new([7; 16]))
}

fn secret(text: &str, host: &Host) -> ClusterSecret {
    use std::os::unix::fs::PermissionsExt;
    // A secret that people could say is too short for one.
    host.write("brought", text.repeat(2));
    let path = host.path("brought");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    ClusterSecret::read(&path).unwrap()
}

impl<'a> Member<'a> {
    pub(crate) fn new(host: &'a Host, words: &str) -> Self {
        Self::with(host, words, Some(Implementation::Userspace))
    }

    pub(crate) fn with(host: &'a Host, words: &str, whose: Option<Implementation>) -> Self {
        let root = Root::new(Some(host.root().into()));
        let open = || Driver::open(root, || Ok(staged("weftd")), whose).unwrap();
        let policy = Policy { linger: Duration::from_secs(2), ..Policy::default() };
        let driver = host.inside(open).with_policy(policy);
        Self { host, driver, secret: secret(words, host), wireguard: Slots::default() }
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        cluster().mesh_address(self.host.number().into())
    }

    pub(crate) fn view(&self, remotes: Vec<Remote>) -> View {
        let cluster = cluster();
        View {
            mtu: device_mtu(1500, false),
            address: self.address(),
            prefix: cluster.mesh_prefix,
            vxlan: cluster.secure_port,
            ports: cluster.wireguard_ports,
            remotes,
        }
    }

    fn remote(&self) -> Remote {
        Remote {
            host: HostId::new([self.host.number(); 16]),
            address: self.address(),
            underlay: self.host.ipv4(),
            alive: true,
            wireguard: self.wireguard,
        }
    }

    /// Sets up VXLAN to every other host, as an encrypted network of two does.
    fn vxlan(&self, others: &[Ipv6Addr]) {
        let (host, own) = (self.host, self.address());
        host.ip(&format!(
            "link add vx mtu 1370 type vxlan id 9 local {own} dstport {SECURE} nolearning udp6zerocsumtx udp6zerocsumrx"
        ));
        host.ip(&format!("address add 10.9.0.{}/24 dev vx", host.number()));
        host.ip("link set vx up");
        for other in others {
            let number = other.octets()[15];
            host.run("bridge", &format!("fdb append 00:00:00:00:00:00 dev vx dst {other}")).expect_ok();
            assert_ne!(number, host.number());
        }
    }

    fn pid(&self, slot: Slot) -> u32 {
        let socket = slot.socket(&Root::new(Some(self.host.root().into())));
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        std::io::Write::write_all(&mut stream, b"{\"do\":\"stats\"}\n").unwrap();
        let answer: serde_json::Value = serde_json::from_reader(stream).unwrap();
        u32::try_from(answer["pid"].as_u64().unwrap()).unwrap()
    }
}

/// Lets every host work once with what it knows of the others; returns whether one had anything to do.
fn advance(members: &mut [Member<'_>]) -> bool {
    let mut changed = false;
    for index in 0..members.len() {
        let others = members.iter().enumerate().filter(|(other, _)| *other != index);
        let remotes = others.map(|(_, member)| member.remote()).collect();
        let member = &mut members[index];
        let view = member.view(remotes);
        let (host, driver, secret) = (member.host, &mut member.driver, &member.secret);
        let outcome = host.inside(|| driver.advance(&view, secret)).unwrap_or_else(|error| panic!("{error}"));
        assert!(outcome.failure.is_none(), "{}: {:?}", member.host.name(), outcome.failure);
        member.wireguard = outcome.wireguard;
        changed |= outcome.changed;
    }
    changed
}

/// Lets all work until what is wanted is so.
#[track_caller]
pub(crate) fn until(
    members: &mut [Member<'_>],
    wanted: &str,
    mut is_so: impl FnMut(&mut [Member<'_>]) -> bool,
) {
    let begun = Instant::now();
    while !is_so(members) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{wanted}: not after a minute");
        advance(members);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn handshaken(members: &mut [Member<'_>], slot: Slot) -> bool {
    let others = members.len() - 1;
    members.iter_mut().all(|member| {
        let (host, driver) = (member.host, &mut member.driver);
        let stats = host.inside(|| driver.stats(slot));
        stats.is_ok_and(|stats| stats.iter().filter(|peer| peer.handshake.is_some()).count() == others)
    })
}

/// A mesh of all hosts, with VXLAN on top.
fn mesh<'a>(net: &'a Underlay, words: &str) -> Vec<Member<'a>> {
    let mut members: Vec<Member<'a>> = net.hosts().iter().map(|host| Member::new(host, words)).collect();
    settle(&mut members);
    members
}

/// Lets all find each other, and sets up VXLAN on top.
pub(crate) fn settle(members: &mut [Member<'_>]) {
    until(members, "all have a key and know the others", |members| {
        members.iter().all(|member| member.wireguard.a.is_some()) && !advance(members)
    });
    let addresses: Vec<Ipv6Addr> = members.iter().map(Member::address).collect();
    for member in members.iter() {
        let own = member.address();
        member.vxlan(&addresses.iter().copied().filter(|address| *address != own).collect::<Vec<_>>());
    }
}

/// Sends a megabyte of what is sought, by TCP, and asserts that it arrives.
pub(crate) fn transfer(from: &Container, to: &Container, address: &str) {
    let listener = to.inside(|| std::net::TcpListener::bind("[::]:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let bytes = CANARY.repeat((1 << 20) / CANARY.len());
    let (sent, address) = (bytes.clone(), SocketAddr::new(address.parse().unwrap(), port));
    let mut stream = from.inside(|| std::net::TcpStream::connect(address).unwrap());
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &sent).unwrap());
    let (mut accepted, _) = listener.accept().unwrap();
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut accepted, &mut received).unwrap();
    sender.join().unwrap();
    assert!(received == bytes, "{} bytes of {}", received.len(), bytes.len());
}

#[test]
fn hosts_reach_each_other_and_the_wire_shows_nothing() {
    let net = Underlay::new(2);
    let members = mesh(&net, "one secret for all of them");
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    reaches(two, ["10.9.0.1", &members[0].address().to_string()]);
    let capture = net.capture();
    transfer(one, two, "10.9.0.2");
    transfer(two, one, "10.9.0.1");
    assert_eq!(capture.stop_and_count(CANARY), 0);
    // The same without the mesh: the canary is where it is sought.
    let capture = net.capture();
    transfer(one, two, "192.0.2.2");
    assert_ne!(capture.stop_and_count(CANARY), 0);
}

#[test]
fn another_secret_never_shakes_hands() {
    let net = Underlay::new(3);
    let mut members = mesh(&net, "one secret for all of them");
    let [one, two, three] = [1, 2, 3].map(|number| net.host(number));
    reaches(one, ["10.9.0.2", "10.9.0.3"]);
    members[2].secret = secret("another secret it has now", three);
    // A new key is in no session: the pairs' secrets are asked for.
    let view = members[2].view(Vec::new());
    let (host, driver) = (members[2].host, &mut members[2].driver);
    host.inside(|| driver.leave(view.prefix)).unwrap();
    members[2].wireguard = Slots::default();
    until(&mut members, "the third has a key again", |members| {
        members[2].wireguard.a.is_some() && !advance(members)
    });
    three.run("ip", "link set vx down").expect_ok();
    three.run("ip", "link set vx up").expect_ok();
    reaches(one, ["10.9.0.2"]);
    reaches(two, ["10.9.0.1"]);
    does_not_reach(three, ["10.9.0.1", "10.9.0.2"]);
    does_not_reach(one, ["10.9.0.3"]);
}

#[test]
fn a_tunnel_that_dies_lets_nothing_out_and_comes_back_by_itself() {
    let net = Underlay::new(2);
    let members = mesh(&net, "one secret for all of them");
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    let capture = net.capture();
    // No agent, no store: the process that holds the device starts another worker.
    let before = members[0].pid(Slot::A);
    one.run("kill", &format!("-9 {before}")).expect_ok();
    transfer(one, two, "10.9.0.2");
    assert_ne!(members[0].pid(Slot::A), before);
    assert_eq!(capture.stop_and_count(CANARY), 0);
}

/// What it was started with is older than its peers, and a peer that only sends does not find out that it is new.
#[test]
fn a_worker_that_comes_after_another_greets_the_peers_of_now() {
    let net = Underlay::new(2);
    let mut members = mesh(&net, "one secret for all of them");
    until(&mut members, "all have shaken hands", |members| handshaken(members, Slot::A));
    let before = members[1].pid(Slot::A);
    net.host(2).run("kill", &format!("-9 {before}")).expect_ok();
    // Nobody sends anything and nobody tells it anything.
    let begun = Instant::now();
    let shaken = |member: &mut Member<'_>| {
        let (host, driver) = (member.host, &mut member.driver);
        let stats = host.inside(|| driver.stats(Slot::A));
        stats.is_ok_and(|stats| stats.iter().any(|peer| peer.handshake.is_some()))
    };
    while members[1].pid(Slot::A) == before || !shaken(&mut members[1]) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it greets nobody");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What nobody would be told of could never take the place of what is broken.
#[test]
fn a_lost_key_is_replaced_and_a_broken_slot_keeps_no_other_from_being_told() {
    let net = Underlay::new(2);
    let mut members = mesh(&net, "one secret for all of them");
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    let root = Root::new(Some(one.root().into()));
    let lost = members[0].wireguard.a.unwrap().public_key;
    std::fs::remove_file(Slot::A.key_file(&root)).unwrap();
    until(&mut members, "another key is there", |members| {
        members[0].wireguard.a.is_some_and(|slot| slot.public_key != lost)
    });
    until(&mut members, "all is quiet", |members| !advance(members));
    transfer(one, two, "10.9.0.2");
    // Somebody else's device has the name: the slot cannot work, and its key is not lost.
    let view = members[0].view(vec![members[1].remote()]);
    let member = &mut members[0];
    let (driver, secret) = (&mut member.driver, &member.secret);
    one.run("kill", &format!("-9 {}", tunnels(one))).expect_ok();
    one.ip("link delete weftwga");
    one.ip("link add weftwga type bridge");
    assert_eq!(one.inside(|| driver.rotate(&view)).unwrap(), Some(Slot::B));
    let told = one.inside(|| driver.advance(&view, secret)).unwrap();
    assert_eq!(told.failure.as_ref().unwrap().to_string(), "weftwga exists and is not a device of the mesh");
    assert!(told.down.a && !told.down.b);
    let before = Slots { a: None, b: None };
    let record = told.record(&before);
    assert!(record.a.is_none(), "nobody is called to what is down");
    assert_eq!(record.b, told.wireguard.b);
    assert!(record.b.is_some());
    one.ip("link delete weftwga");
}

/// Returns the processes of a host's tunnels.
pub(crate) fn tunnels(host: &Host) -> String {
    // Without the bracket the shell would find itself.
    let found = host.sh(&format!("pgrep -f '[r]oot {} tunnel'", host.root().display()));
    found.stdout.replace('\n', " ")
}

/// What the mesh does by the second is no drift for whoever watches its routes.
#[test]
fn an_idle_mesh_announces_nothing() {
    let net = Underlay::new(2);
    let mut members = mesh(&net, "one secret for all of them");
    until(&mut members, "all have shaken hands", |members| handshaken(members, Slot::A));
    until(&mut members, "all is quiet", |members| !advance(members));
    let one = net.host(1);
    let mut watch = one.inside(|| Watch::open().unwrap());
    watch.concern(Interest { protocols: [201, 202].into(), ..Interest::default() });
    for _ in 0..3 {
        assert!(!advance(&mut members));
    }
    assert!(!watch.changed().unwrap());
    // The positive twin.
    one.ip(&format!("route delete {} dev weftwga", members[1].address()));
    assert!(watch.changed().unwrap());
}

/// A supervisor that has nothing to supervise would wait for ever.
#[test]
fn nobody_stays_when_a_slot_is_removed() {
    let net = Underlay::new(1);
    let mut members = mesh(&net, "one secret for all of them");
    let one = net.host(1);
    assert_eq!(tunnels(one).split_whitespace().count(), 2);
    // Another that is started meanwhile says what is wrong with the one that is there.
    let root = Root::new(Some(one.root().into()));
    one.write("run/weft/overlay/wg-a.why", "what it said");
    let another = one.weftd(["tunnel", "--slot", "A"]).run();
    another.expect_failure(1, &["a tunnel of slot A is running, and has said last: what it said"]);
    // Killed over and over, it has nobody to ask and starts again.
    let worker = members[0].pid(Slot::A);
    one.run("kill", &format!("-9 {worker}")).expect_ok();
    let driver = &mut members[0].driver;
    one.inside(|| driver.leave(cluster().mesh_prefix)).unwrap();
    assert_eq!(tunnels(one), "");
    assert!(!one.has_link("weftwga"));
    for path in [Slot::A.config_file(&root), Slot::A.socket(&root), Slot::A.why_file(&root)] {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn both_processes_dead_means_nothing_leaves_until_the_agent_looks() {
    let net = Underlay::new(2);
    let mut members = mesh(&net, "one secret for all of them");
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    let worker = members[0].pid(Slot::A);
    let holder = one.run("ps", &format!("-o ppid= -p {worker}")).expect_ok().trim().to_string();
    let capture = net.capture();
    one.run("kill", &format!("-9 {holder} {worker}")).expect_ok();
    let sent = one.inside(|| UdpSocket::bind("10.9.0.1:0").unwrap());
    for _ in 0..50 {
        sent.send_to(CANARY, "10.9.0.2:9").ok();
    }
    does_not_reach(one, ["10.9.0.2"]);
    // Nor with the device down, or gone: the mesh's addresses lead nowhere else.
    for words in ["link set weftwga down", "link delete weftwga"] {
        one.ip(words);
        for _ in 0..50 {
            sent.send_to(CANARY, "10.9.0.2:9").ok();
        }
        let route = one.run("ip", &format!("route get {}", members[1].address()));
        assert_ne!(route.code, 0, "{route}");
    }
    assert_eq!(capture.stop_and_count(CANARY), 0);
    let capture = net.capture();
    until(&mut members, "the tunnel is there again", |members| !advance(members));
    transfer(one, two, "10.9.0.2");
    assert_eq!(capture.stop_and_count(CANARY), 0);
}

#[test]
fn a_key_is_replaced_under_load_and_no_datagram_is_lost() {
    let net = Underlay::new(2);
    let mut members = mesh(&net, "one secret for all of them");
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    let flows = [Flow::start(one, two, "10.9.0.2"), Flow::start(two, one, "10.9.0.1")];
    let view = members[0].view(Vec::new());
    let (host, driver) = (members[0].host, &mut members[0].driver);
    assert_eq!(host.inside(|| driver.rotate(&view)).unwrap(), Some(Slot::B));
    until(&mut members, "the old key is gone everywhere", |members| {
        members.iter().all(|member| member.wireguard.b.is_some() && member.wireguard.a.is_none())
    });
    for flow in flows {
        flow.gets_through(100);
        let counted = flow.count();
        assert_eq!(counted.arrived, counted.sent);
        assert!(counted.sent > 200, "{counted:?} is no load");
    }
    assert!(handshaken(&mut members, Slot::B));
    for host in [one, two] {
        assert!(!host.has_link("weftwga") && host.has_link("weftwgb"));
    }
    // The twin: a moment without the device is seen in the count.
    let flow = Flow::start(one, two, "10.9.0.2");
    flow.gets_through(10);
    one.ip("link set weftwgb down");
    flow.goes_on(10);
    until(&mut members, "the device is up", |members| {
        !advance(members) && one.link("weftwgb")["flags"].to_string().contains("\"UP\"")
    });
    flow.gets_through(10);
    let counted = flow.count();
    assert!(counted.arrived < counted.sent, "{counted:?}");
}

#[test]
fn a_lossy_network_is_no_obstacle() {
    let net = Underlay::new(2);
    net.host(1).lose(10);
    let mut members = mesh(&net, "one secret for all of them");
    until(&mut members, "hands are shaken", |members| handshaken(members, Slot::A));
    // One packet in a hundred, by chance: a megabyte may be carried in so few that none of them is lost.
    let lost = (0..50).any(|_| {
        transfer(net.host(1), net.host(2), "10.9.0.2");
        transfer(net.host(2), net.host(1), "10.9.0.1");
        net.host(1).dropped() > 0
    });
    assert!(lost, "nothing was lost");
}

#[test]
fn what_is_sent_to_the_port_by_a_stranger_changes_nothing() {
    let net = Underlay::new(2);
    let members = mesh(&net, "one secret for all of them");
    let stranger = net.stranger(66);
    let one = net.host(1);
    reaches(one, ["10.9.0.2"]);
    let before = members[1].pid(Slot::A);
    let socket = stranger.inside(|| UdpSocket::bind("192.0.2.66:0").unwrap());
    let mut datagram = vec![0u8; 1500];
    for kind in 0..=6u8 {
        for length in [0, 1, 3, 4, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1400] {
            datagram.iter_mut().zip((0..=250u8).cycle()).for_each(|(byte, at)| *byte = at ^ kind);
            datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            socket.send_to(&datagram[..length], "192.0.2.2:51820").unwrap();
        }
    }
    reaches(one, ["10.9.0.2"]);
    assert_eq!(members[1].pid(Slot::A), before, "the worker died");
}
