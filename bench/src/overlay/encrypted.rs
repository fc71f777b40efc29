//! Encrypted overlays beside Debian's wireguard-go, on one underlay and in one run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use weft_testkit::{Background, Cluster, Container, Host, Underlay, peer_program};

use super::hosts::{self, Vxlan};
use super::recovery;
use super::traffic::{Way, median};
use crate::peers;

/// How long one way is used before the next has its turn, and how often each has.
const WINDOW: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 5;
/// How long packets go to and fro.
const TRIPS: Duration = Duration::from_millis(500);
/// How much faster than wireguard-go ours is to be.
const GOAL: f64 = 4.0;
/// What a datagram of a full packet carries on a link of 1500 bytes.
const PAYLOAD: usize = 1420;
const GO: &str = "/usr/bin/wireguard-go";
const OURS: &str = "weft overlay, encrypted";
const PLAIN: &str = "weft overlay, not encrypted";
const INSIDE: &str = "wireguard-go, VXLAN inside";
const ROUTED: &str = "wireguard-go, routed";

/// Measures, and says what came out.
pub(super) fn measure() -> Result<String> {
    if peers::find("/usr/bin/etcd").is_none() || peers::find(GO).is_none() {
        return Ok(
            "\nEncrypted overlays were not measured: etcd and wireguard-go are not both there.\n".into()
        );
    }
    let mut cluster = Cluster::new(2);
    for number in 3..=6 {
        cluster.underlay.add_host(number);
    }
    let net = &cluster.underlay;
    net.lab().sh("mkdir -p /run/wireguard").expect_ok();
    cluster.network(1, &["--subnet", "10.40.0.0/16", "-o", "encrypted", "secret"]);
    cluster.network(1, &["--subnet", "10.41.0.0/16", "open"]);
    let mut ways = vec![ours(net, OURS, "secret")?, ours(net, PLAIN, "open")?];
    let (_inside, way) = go(net, INSIDE, [3, 4])?;
    ways.push(way);
    let (_routed, way) = go(net, ROUTED, [5, 6])?;
    ways.push(way);
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.stream(WINDOW)?;
            way.round_trips(TRIPS)?;
        }
        ways.rotate_left(1);
    }
    Ok(page(&mut ways) + &recovery::measure(net, "secret")?)
}

fn page(ways: &mut [Way]) -> String {
    ways.sort_by_key(|way| way.name);
    let mut page = String::from(
        "\n| between two hosts | TCP, Gb/s | CPU seconds per GB | round trips/s |\n|---|---|---|---|\n",
    );
    let mut figures = Vec::new();
    for way in ways {
        let [bytes, cost, trips] =
            [&mut way.bytes, &mut way.cost, &mut way.trips].map(|values| median(values));
        let _ = writeln!(page, "| {} | {:.2} | {cost:.2} | {trips:.0} |", way.name, bytes * 8.0 / 1e9);
        figures.push((way.name, bytes, cost));
    }
    let of =
        |name| figures.iter().find(|(known, ..)| *known == name).map_or((1.0, 1.0), |(_, a, b)| (*a, *b));
    let ((ours, cost), (_, plain)) = (of(OURS), of(PLAIN));
    let ratio = |name| ours / of(name).0;
    let aead = 2.0 / sealed();
    let _ = writeln!(
        page,
        "\nEncrypted, ours carries {:.1} times as much as wireguard-go with VXLAN inside and {:.1} times as much as wireguard-go \
         routed; the goal is {GOAL:.0}. Sealing and opening alone cost {aead:.2} CPU seconds per GB on this machine, in packets of \
         {PAYLOAD} bytes; with {plain:.2} for the same way unencrypted that is a bound of {:.2}, and ours takes {:.1} times that.",
        ratio(INSIDE),
        ratio(ROUTED),
        aead + plain,
        cost / (aead + plain)
    );
    page
}

fn ours(net: &Underlay, name: &'static str, network: &str) -> Result<Way> {
    let (from, _) = net.host(1).connected(network, network);
    let (to, addresses) = net.host(2).connected(network, network);
    Way::between(name, &from, &to, addresses.first().context("no address")?)
}

/// Debian's wireguard-go between two hosts, and either VXLAN in it or the containers' subnets routed to it.
fn go(net: &Underlay, name: &'static str, numbers: [u8; 2]) -> Result<([Background; 2], Way)> {
    let routed = name == ROUTED;
    let program = peers::find(GO).context("no wireguard-go")?;
    let keys = numbers.map(|number| net.host(number).sh("wg genkey").expect_ok().trim().to_string());
    for (number, key) in numbers.iter().zip(&keys) {
        net.host(*number).write("key", key);
    }
    let start = |number: u8| {
        let words = ["--foreground".to_string(), device(number)];
        peer_program(&program).args(words).inside(net.host(number)).background()
    };
    let running = numbers.map(start);
    let [one, two] = numbers;
    for (number, other) in [(one, two), (two, one)] {
        connect(net.host(number), net.host(other));
    }
    let [from, to] = if routed { routed_containers(net, numbers) } else { inside(net, numbers) };
    let way = Way::between(name, &from, &to, &format!("10.7.{two}.2"))?;
    Ok((running, way))
}

fn device(number: u8) -> String {
    format!("wg{number}")
}

fn connect(host: &Host, other: &Host) {
    let (own, theirs, link) = (host.number(), other.number(), device(host.number()));
    let line = format!(
        "for i in $(seq 100); do wg show {link} >/dev/null 2>&1 && break; sleep 0.05; done
         wg set {link} listen-port 51820 private-key {} peer $(wg pubkey < {}) endpoint {}:51820 \
           allowed-ips fd00::{theirs}/128,10.7.{theirs}.0/24
         ip address add fd00::{own}/128 dev {link} && ip link set {link} mtu 1440 up && ip route add fd00::{theirs} dev {link}",
        host.path("key").display(),
        other.path("key").display(),
        other.ipv4(),
    );
    host.sh(&line).expect_ok();
}

/// The shape of our own: VXLAN between addresses that are only inside the mesh.
fn inside(net: &Underlay, numbers: [u8; 2]) -> [Container; 2] {
    let vxlan = Vxlan { prefix: "fd00::", mtu: 1370, more: "udp6zerocsumtx udp6zerocsumrx" };
    hosts::vxlan(net, numbers, vxlan)
}

fn routed_containers(net: &Underlay, numbers: [u8; 2]) -> [Container; 2] {
    let containers = hosts::bridged(net, numbers, 1440);
    let [one, two] = numbers;
    for (number, other) in [(one, two), (two, one)] {
        net.host(number).ip(&format!("route add 10.7.{other}.0/24 dev {}", device(number)));
    }
    containers
}

/// Returns how many gigabytes a second one processor seals.
fn sealed() -> f64 {
    const BATCH: u64 = 1000;
    let Ok(key) = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]) else { return f64::NAN };
    let key = LessSafeKey::new(key);
    let (mut packet, mut count, start) = (vec![0; PAYLOAD], 0u64, Instant::now());
    while start.elapsed() < TRIPS {
        for number in count..count + BATCH {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&number.to_le_bytes());
            let tag = key.seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut packet,
            );
            std::hint::black_box(tag).ok();
        }
        count += BATCH;
    }
    (count * PAYLOAD as u64) as f64 / start.elapsed().as_secs_f64() / 1e9
}
