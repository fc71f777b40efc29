//! Our tunnel and other people's WireGuard are one mesh: Debian's wireguard-go, and the kernel's.

use weft_overlay::ids::HostId;
use weft_overlay::records::{self, Slots};
use weft_state::Root;
use weft_testkit::{Underlay, reaches, skip_unless, staged};
use weft_tunnel::rotation::Remote;
use weft_tunnel::{Driver, Implementation, Slot};

use crate::overlay_tunnel::{CANARY, Member, cluster, settle, transfer, until};

#[test]
fn debians_wireguard_go_is_a_peer_like_any_other() {
    let Some(program) = weft_testkit::peer("/usr/bin/wireguard-go") else { return };
    let net = Underlay::new(2);
    // Where wireguard-go is asked: the same place whatever the namespace.
    net.lab().sh("mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard").expect_ok();
    let (one, two) = (net.host(1), net.host(2));
    let mut member = Member::new(one, "one secret for all of them");
    let key = weft_tunnel::SecretKey::random().unwrap();
    let theirs = cluster().mesh_address(2);
    let slot =
        records::Slot { public_key: key.public(), port: 51820, epoch: 1, state: records::SlotState::Active };
    let remote = Remote {
        host: HostId::new([2; 16]),
        address: theirs,
        underlay: two.ipv4(),
        alive: true,
        wireguard: Slots { a: Some(slot), b: None },
    };
    let (view, ours) = (member.view(vec![remote]), member.address());
    let secret = member.secret.clone();
    let mut step = || one.inside(|| member.driver.advance(&view, &secret)).unwrap();
    let own = loop {
        let outcome = step();
        if let (Some(own), false) = (outcome.wireguard.a, outcome.changed) {
            break own;
        }
    };
    let _peer = two.program(program).args(["--foreground", "wg0"]).background();
    two.write("key", String::from(key));
    two.write("pair", String::from(secret.of_pair(&own.public_key, &slot.public_key)));
    let (key, pair) = (two.path("key"), two.path("pair"));
    let set = format!(
        "for i in $(seq 100); do wg show wg0 >/dev/null 2>&1 && break; sleep 0.05; done
         wg set wg0 listen-port 51820 private-key {} peer {} preshared-key {} allowed-ips {ours}/128 endpoint {}:51820
         ip address add {theirs}/128 dev wg0 && ip link set wg0 mtu 1440 up && ip route add {ours} dev wg0",
        key.display(),
        own.public_key,
        pair.display(),
        one.ipv4(),
    );
    two.sh(&set).expect_ok();
    reaches(one, [theirs.to_string()]);
    reaches(two, [ours.to_string()]);
    let capture = net.capture();
    transfer(one, two, &theirs.to_string());
    transfer(two, one, &ours.to_string());
    assert_eq!(capture.stop_and_count(CANARY), 0);
}

#[test]
fn the_kernels_wireguard_and_ours_are_one_mesh() {
    let net = Underlay::new(2);
    skip_unless!(net.lab().has_link_type("wireguard"), "CONFIG_WIREGUARD");
    let words = "one secret for all of them";
    let hosts = [(net.host(1), Implementation::Userspace), (net.host(2), Implementation::Kernel)];
    let mut members: Vec<Member<'_>> =
        hosts.map(|(host, whose)| Member::with(host, words, Some(whose))).into();
    settle(&mut members);
    let (one, two) = (net.host(1), net.host(2));
    reaches(one, ["10.9.0.2"]);
    reaches(two, ["10.9.0.1"]);
    let capture = net.capture();
    transfer(one, two, "10.9.0.2");
    transfer(two, one, "10.9.0.1");
    assert_eq!(capture.stop_and_count(CANARY), 0);
    for (turn, slot) in [(1, Slot::B), (0, Slot::A)] {
        let view = members[turn].view(Vec::new());
        let (host, driver) = (members[turn].host, &mut members[turn].driver);
        assert_eq!(host.inside(|| driver.rotate(&view)).unwrap(), Some(slot));
        until(&mut members, "the old key is gone everywhere", |members| {
            let gone = |member: &Member<'_>| slot.other().of(&member.wireguard).is_none();
            members.iter().all(|member| slot.of(&member.wireguard).is_some() && gone(member))
        });
        transfer(one, two, "10.9.0.2");
        transfer(two, one, "10.9.0.1");
    }
    // What somebody takes from the kernel's device comes back.
    let own = members[0].wireguard.a.unwrap().public_key;
    let peers = || two.sh("wg show weftwga peers").expect_ok().trim().to_string();
    assert_eq!(peers(), own.to_string());
    two.sh(&format!("wg set weftwga peer {own} remove")).expect_ok();
    assert_eq!(peers(), "");
    until(&mut members, "the peer is there again", |_| peers() == own.to_string());
    transfer(two, one, "10.9.0.1");
    // And so does what somebody changes about a peer; where it is, and by which secret.
    let of_peer =
        |what: &str| two.sh(&format!("wg show weftwga {what} | cut -f2")).expect_ok().trim().to_string();
    for (what, change) in [
        ("allowed-ips", "allowed-ips ''"),
        ("endpoints", "endpoint 192.0.2.99:9"),
        ("preshared-keys", "preshared-key /dev/null"),
    ] {
        let before = of_peer(what);
        two.sh(&format!("wg set weftwga peer {own} {change}")).expect_ok();
        assert_ne!(of_peer(what), before);
        until(&mut members, change, |_| of_peer(what) == before);
        transfer(two, one, "10.9.0.1");
    }
    // What is found out without being told.
    let root = Root::new(Some(two.root().into()));
    let found = two.inside(|| Driver::open(root, || Ok(staged("weftd")), None).unwrap());
    assert_eq!(found.implementation(), Implementation::Kernel);
}
