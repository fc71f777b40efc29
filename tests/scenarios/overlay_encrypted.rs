//! Encrypted networks of a cluster, from one container to another: nothing of what they say is on the wire.

use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Host, does_not_reach, reaches, skip_unless, staged, staged_folder};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_tunnel::{CANARY, transfer};

/// UDP, as an IPv6 header numbers it.
const UDP: u8 = 17;
/// A mesh's first port.
const MESH: [u8; 2] = 51820u16.to_be_bytes();

/// Two hosts that tell each other only their IPv6 addresses.
fn cluster_over_ipv6() -> Cluster {
    let mut cluster = Cluster::unjoined(2);
    for number in [1, 2] {
        cluster.start(number);
        let own = cluster.host(number).ipv6().to_string();
        cluster.join_with(number, &["--underlay-ip", &own]).expect_ok();
    }
    cluster
}

/// Says whether a frame is one of the mesh's, over IPv6 and by Ethernet.
fn is_of_the_mesh(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(20) == Some(&UDP)
        && frame.get(56..58) == Some(&MESH)
}

#[test]
fn an_encrypted_network_over_ipv6_shows_nothing_on_the_wire() {
    let cluster = cluster_over_ipv6();
    cluster.network(1, &["--ipv6", "-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green);
    reaches(&red, &there);
    assert!(there.iter().any(|address| address.contains(':')), "{there:?}");
    let capture = cluster.underlay.capture();
    for address in &there {
        transfer(&red, &green, address);
    }
    let frames = capture.stop();
    assert!(
        frames.iter().any(|frame| is_of_the_mesh(frame)),
        "nothing of the mesh among {} frames",
        frames.len()
    );
    let seen = |frames: &[Vec<u8>]| {
        frames.iter().filter(|frame| frame.windows(CANARY.len()).any(|part| part == CANARY)).count()
    };
    assert_eq!(seen(&frames), 0);
    // The full size of a packet passes, and not a byte more: what the mesh takes is accounted for over IPv6, too.
    assert_eq!(cluster.host(1).link("weftwga")["mtu"], 1420);
    assert_eq!(red.link("eth0")["mtu"], 1350);
    // The same way without encryption: the canary is where it is sought.
    cluster.network(1, &["open"]);
    let (one, two) = (cluster.host(1).connected("open", "one").0, cluster.host(2).connected("open", "two").0);
    let capture = cluster.underlay.capture();
    transfer(&one, &two, &addresses(&two)[0]);
    assert_ne!(seen(&capture.stop()), 0);
}

/// Somebody else's table has the name of the guard's.
fn foreign(host: &Host) -> bool {
    host.write("foreign.nft", "table inet weft_tunnels { comment \"theirs\"; }");
    host.sh(&format!("nft -f {}", host.path("foreign.nft").display())).code == 0
}

/// Without its rules there is no device, of the mesh as little as of a network.
#[test]
fn no_device_is_made_without_its_guard() {
    let mut cluster = Cluster::new(2);
    let one = cluster.host(1);
    skip_unless!(foreign(one), "nft that writes comments of tables");
    cluster.host(2).weft(["network", "create", "-d", "overlay", "-o", "encrypted", "blue"]).expect_ok();
    // The twin: where nobody has the name everything is made.
    cluster.eventually("the mesh of h2", || cluster.host(2).has_link("weftwga"));
    let says = |host: &Host| host.weft(["overlay", "status"]).stdout;
    cluster.eventually("h1 says why not", || says(one).contains("weft_tunnels"));
    let devices = || one.sh("ip -o link").expect_ok().to_owned();
    let has_none = |listed: &str| !listed.contains("weftwg") && !listed.contains(": ov");
    let refused = one.weft(["overlay", "apply"]);
    refused.expect_failure(1, &["weft_tunnels"]);
    assert!(has_none(&devices()), "{}", devices());
    let red = one.container("red");
    assert_ne!(one.weft(["network", "connect", "blue", red.name()]).code, 0);
    assert!(has_none(&devices()), "{}", devices());
    // The next agent begins with the same.
    cluster.kill(1);
    cluster.start(1);
    let one = cluster.host(1);
    one.weft(["overlay", "apply"]).expect_failure(1, &["weft_tunnels"]);
    let listed = one.sh("ip -o link").expect_ok().to_owned();
    assert!(has_none(&listed), "{listed}");
    // Once the name is free it goes on by itself.
    one.sh("nft delete table inet weft_tunnels").expect_ok();
    cluster.eventually("the mesh of h1", || one.has_link("weftwga"));
    let (red, green) = (connected(&cluster, 1, "pink"), connected(&cluster, 2, "green"));
    reaches(&red, addresses(&green));
}

/// What somebody breaks is mended by the agent that runs, and what it cannot mend is told by whoever asks.
#[test]
fn the_mesh_is_kept_in_step_and_what_is_not_is_told() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green)[0].clone();
    reaches(&red, [&there]);
    let host = cluster.host(1);
    let is_sound = || host.weft(["overlay", "peers", "--verify"]).code == 0;
    cluster.eventually("all is sound", is_sound);
    let peer =
        host.sh("ip -6 route show dev weftwga proto 202 | cut -d' ' -f1").expect_ok().trim().to_owned();
    let prefix =
        host.sh("ip -6 route show type unreachable proto 202 | cut -d' ' -f2").expect_ok().to_owned();
    let prefix = prefix.trim();
    assert!(prefix.contains("::/"), "{prefix}");
    for (line, sign) in [
        (
            format!("ip -6 route del {peer} dev weftwga"),
            format!("ip -6 route show dev weftwga | grep {peer}"),
        ),
        (
            format!("ip -6 route del unreachable {prefix} metric 4278198272"),
            format!("ip -6 route show type unreachable | grep {prefix}"),
        ),
        ("ip link set weftwga down".into(), "ip link show weftwga up | grep weftwga".into()),
        ("ip link set weftwga mtu 1300".into(), "ip link show weftwga | grep 'mtu 1440'".into()),
        ("ip link del weftwga".into(), "ip link show weftwga".into()),
    ] {
        host.sh(&sign).expect_ok();
        host.sh(&line).expect_ok();
        cluster.eventually(&line, || host.sh(&sign).code == 0 && red.ping(&there) && is_sound());
    }
    // Somebody else's device has the name: that is theirs, and told.
    let taken = "ip link del weftwga; ip link add weftwga type bridge";
    cluster.eventually("the name is free for a moment", || host.sh(taken).code == 0);
    cluster.eventually("it is told", || {
        let said = host.weft(["overlay", "peers", "--verify"]);
        said.code == 1 && said.stdout.contains("the mesh") && said.stdout.contains("weftwga")
    });
    host.ip("link del weftwga");
    cluster.eventually("it is there again", || red.ping(&there) && is_sound());
}

/// Returns `weftd`, but for the version that its tunnel tells.
fn of_another_version() -> Vec<u8> {
    let mut program = std::fs::read(staged("weftd")).unwrap();
    let (ours, other) = (b"weftd tunnel 0.", b"weftd tunnel /.");
    let places: Vec<usize> =
        (0..program.len() - ours.len()).filter(|at| program[*at..].starts_with(ours)).collect();
    assert!(!places.is_empty());
    for at in places {
        program[at..at + other.len()].copy_from_slice(other);
    }
    program
}

/// After an upgrade the tunnel that runs is of the version before: another takes over, as a key is replaced.
#[test]
fn a_tunnel_of_another_version_is_left_for_one_of_this() {
    let mut cluster = Cluster::new(2);
    skip_unless!(
        !cluster.underlay.lab().has_link_type("wireguard"),
        "a kernel without WireGuard, where a program of ours carries packets"
    );
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green)[0].clone();
    reaches(&red, [&there]);
    let route = |host: &Host| host.sh("ip -6 route show proto 202").expect_ok().to_owned();
    assert!(route(cluster.host(1)).contains("dev weftwga"), "{}", route(cluster.host(1)));
    let host = cluster.host(1);
    let old = host.path("weftd");
    host.write("weftd", of_another_version());
    host.sh(&format!("chmod 755 {}", old.display())).expect_ok();
    cluster.kill(1);
    let host = cluster.host(1);
    host.sh(&format!("kill -9 $(pgrep -f '[r]oot {} tunnel')", host.root().display())).expect_ok();
    let run = format!("{} --root {} tunnel --slot A --detach", old.display(), host.root().display());
    cluster.eventually("it runs", || host.sh(&run).code == 0);
    cluster.eventually("it carries packets", || red.ping(&there));
    cluster.start(1);
    cluster.eventually("both hosts go by the other", || {
        [1, 2].iter().all(|number| route(cluster.host(*number)).contains("dev weftwgb"))
    });
    reaches(&red, [&there]);
    let is_sound = || cluster.host(1).weft(["overlay", "peers", "--verify"]).code == 0;
    cluster.eventually("all is sound", is_sound);
    let said = cluster.end(1).stderr;
    assert!(said.contains("A: its tunnel is weftd tunnel /.") && said.contains("B takes over"), "{said}");
}

/// An upgrade replaces the file under an agent that runs: that is said, and the tunnel that it starts afterwards is what it is itself.
#[test]
fn an_agent_whose_program_was_replaced_says_so_and_goes_on() {
    let mut cluster = Cluster::new(2);
    cluster.end(1);
    // Plugins are looked for beside it.
    let folder = cluster.host(1).path("upgraded");
    let program = folder.join("weftd");
    let (from, to) = (staged_folder().display().to_string(), folder.display().to_string());
    let place = format!("mkdir {to} && ln -s {from}/* {to} && cp --remove-destination {from}/weftd {to}");
    cluster.host(1).sh(&place).expect_ok();
    cluster.start_from(1, &program);
    let says = |cluster: &Cluster| cluster.host(1).weft(["overlay", "status"]).expect_ok().to_owned();
    assert_eq!(cluster.status(1)["replaced"], false);
    assert!(!says(&cluster).contains("systemctl restart weft-agent"), "{}", says(&cluster));
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green)[0].clone();
    cluster.eventually("they reach each other", || red.ping(&there));
    let host = cluster.host(1);
    host.write("upgraded/new", of_another_version());
    host.sh(&format!("chmod 755 {to}/new && mv {to}/new {to}/weftd")).expect_ok();
    assert_eq!(cluster.status(1)["replaced"], true);
    assert!(says(&cluster).contains("systemctl restart weft-agent"), "{}", says(&cluster));
    // Who carries the packets is told, where that is no kernel.
    skip_unless!(
        !cluster.underlay.lab().has_link_type("wireguard"),
        "a kernel without WireGuard, where a program of ours carries packets"
    );
    let tunnel = |slot: &str| {
        let found = format!("pgrep -f '[r]oot {} tunnel.* {slot}$'", host.root().display());
        host.sh(&found).stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let old = tunnel("A");
    assert!(!old.is_empty());
    host.sh(&format!("kill -9 {}", old.join(" "))).expect_ok();
    let file = |id: &str| std::fs::metadata(format!("/proc/{id}/exe")).map(|found| found.ino()).ok();
    let own = file(&cluster.agent_id(1).to_string());
    cluster.eventually("another is started, by the program that the agent is itself", || {
        let new = tunnel("A");
        !new.is_empty() && new.iter().all(|id| !old.contains(id) && file(id) == own)
    });
    let is_sound = || cluster.host(1).weft(["overlay", "peers", "--verify"]).code == 0;
    cluster.eventually("all is sound", is_sound);
    cluster.eventually("they reach each other again", || red.ping(&there));
    let version = cluster.status(1)["version"].as_str().unwrap().to_owned();
    let carrier = format!("weftd tunnel {version}");
    cluster.eventually("it is told", || cluster.status(1)["carriers"]["A"] == carrier.as_str());
    assert!(says(&cluster).contains(&format!("tunnel      A by {carrier}\n")), "{}", says(&cluster));
    assert_eq!(tunnel("B"), [""; 0]);
    let said = cluster.end(1).stderr;
    assert!(!said.contains("takes over"), "{said}");
}

/// D3 and D4: a stranger sends VXLAN of an encrypted network to the host's own address; and somebody takes the guard away, and the mesh.
#[test]
fn an_encrypted_network_is_entered_and_left_by_the_mesh_alone() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["--subnet", "10.200.0.0/16", "-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green)[0].clone();
    reaches(&red, [&there]);
    let host = cluster.host(2);
    let vni = cluster.status(2)["networks"][0]["vni"].as_u64().unwrap();
    let vxlan = format!("ov{vni:x}");
    let mac = host.link(&vxlan)["address"].as_str().unwrap().to_owned();
    // A device as host 1 has it, on a host that nobody knows. The mesh's addresses are of IPv6, and so is the port.
    let stranger = cluster.underlay.stranger(66);
    for words in [
        format!(
            "link add vx type vxlan id {vni} dstport 8473 local 2001:db8::42 nolearning udp6zerocsumtx udp6zerocsumrx"
        ),
        "link set vx up".into(),
        "address add 10.200.200.1/32 dev vx".into(),
        format!("neigh add 10.200.255.1 lladdr {mac} dev vx nud permanent"),
        format!("route add {there} via 10.200.255.1 dev vx onlink"),
    ] {
        stranger.ip(&words);
    }
    stranger.run("bridge", &format!("fdb append {mac} dev vx dst 2001:db8::2")).expect_ok();
    let ear = green.ear(there.parse().unwrap());
    let inject = || {
        stranger.inside(|| {
            let socket = UdpSocket::bind("10.200.200.1:0").unwrap();
            socket.send_to(CANARY, (there.as_str(), 777)).unwrap();
        });
    };
    let counted = || host.sh("nft list chain inet weft_tunnels secure").stdout;
    assert!(counted().contains("packets 0"), "{}", counted());
    inject();
    assert!(counted().contains("counter") && !counted().contains("packets 0"), "{}", counted());
    assert!(ear.so_far(&green).iter().all(|heard| heard.port != 777), "it was injected");
    // The positive twin: without the guard it arrives. The agent has it back, and then it does not.
    cluster.signal(2, Signal::SIGSTOP);
    host.sh("nft delete table inet weft_tunnels").expect_ok();
    inject();
    assert_eq!(ear.expect(17, 777).source.to_string(), "10.200.200.1");
    cluster.signal(2, Signal::SIGCONT);
    cluster.eventually("the guard is there again", || counted().contains("packets 0"));
    inject();
    assert!(ear.so_far(&green).iter().all(|heard| heard.port != 777));
    // Without guard and mesh nothing leaves: there is no other way.
    let host = cluster.host(1);
    cluster.signal(1, Signal::SIGSTOP);
    host.sh("nft delete table inet weft_tunnels").expect_ok();
    let capture = cluster.underlay.capture();
    transfer(&red, &green, &there);
    host.ip("link set weftwga down");
    let socket = red.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for _ in 0..50 {
        socket.send_to(CANARY, (there.as_str(), 9)).ok();
    }
    does_not_reach(&red, [&there]);
    assert_eq!(capture.stop_and_count(CANARY), 0);
    cluster.signal(1, Signal::SIGCONT);
    cluster.eventually("all is as it was", || {
        host.sh("nft list table inet weft_tunnels").code == 0 && red.ping(&there)
    });
}
