//! Overlays: what an ADD costs beside one on a bridge, what passes between two hosts beside a VXLAN set up by hand and no
//! VXLAN at all, and how long the ways to hundreds of peers take to make.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_testkit::{Container, Host, StaticNetwork, Underlay, staged, staged_folder};

use crate::process;

const BLUE: StaticNetwork = StaticNetwork { name: "blue", vni: 5000, v4: "10.1", v6: None, more: "" };
/// How long one way is used before the next has its turn, and how often each has.
const WINDOW: Duration = Duration::from_millis(700);
const ROUNDS: usize = 9;
/// The bytes of a small packet's contents.
const SMALL: usize = 64;
const ADDS: usize = 40;
/// The hosts of the cluster whose peers are programmed.
const PEERS: u16 = 500;
const PATIENCE: Duration = Duration::from_secs(5);

/// A way from a container of one host to a container of another.
struct Way {
    name: &'static str,
    from: Container,
    to: Container,
    address: IpAddr,
    samples: [Vec<f64>; 3],
}

/// Measures, and says what came out.
pub(crate) fn measure() -> Result<String> {
    let net = Underlay::new(6);
    net.statics(&[BLUE], "v4");
    let mut ways = vec![ours(&net)?, by_hand(&net)?, routed(&net)?];
    for _ in 0..ROUNDS {
        for way in &mut ways {
            let [bytes, trips, small] = &mut way.samples;
            bytes.push(stream(&way.from, &way.to, way.address)?);
            trips.push(round_trips(&way.from, &way.to, way.address)?);
            small.push(small_packets(&way.from, &way.to, way.address)?);
        }
        ways.rotate_left(1);
    }
    ways.sort_by_key(|way| way.name);
    let mut page = String::from(
        "\n| between two hosts | TCP, Gb/s | round trips/s | small packets/s |\n|---|---|---|---|\n",
    );
    for way in &mut ways {
        let [bytes, trips, small] = way.samples.each_mut().map(|values| median(values));
        let _ = writeln!(page, "| {} | {:.2} | {trips:.0} | {small:.0} |", way.name, bytes * 8.0 / 1e9);
    }
    page.push_str(&adds(net.host(1))?);
    page.push_str(&peers(net.host(1))?);
    Ok(page)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn ours(net: &Underlay) -> Result<Way> {
    let (from, _) = net.host(1).connected("blue", "bench");
    let (to, addresses) = net.host(2).connected("blue", "bench");
    way("weft overlay", from, to, addresses.first().context("no address")?)
}

fn way(name: &'static str, from: Container, to: Container, address: &str) -> Result<Way> {
    let address: IpAddr = address.parse()?;
    // The way is open, and neighbours are known.
    let deadline = Instant::now() + PATIENCE;
    while !from.ping(&address.to_string()) {
        ensure!(Instant::now() < deadline, "{name}: {address} does not answer");
    }
    Ok(Way { name, from, to, address, samples: Default::default() })
}

/// A bridge on each of two hosts, and a container on it: what the two ways below have in common with ours.
fn bridged(net: &Underlay, numbers: [u8; 2], mtu: u32) -> [Container; 2] {
    numbers.map(|number| {
        let host = net.host(number);
        let container = host.container("bench");
        let name = container.name().to_string();
        host.ip(&format!("link add cni0 mtu {mtu} type bridge"));
        host.ip(&format!("address add 10.7.{number}.1/24 dev cni0"));
        host.ip("link set cni0 up");
        host.ip(&format!("link add vbench mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"));
        host.ip("link set vbench master cni0 up");
        container.ip(&format!("address add 10.7.{number}.2/24 dev eth0"));
        container.ip("link set eth0 up");
        container.ip(&format!("route add default via 10.7.{number}.1"));
        host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").expect_ok();
        container
    })
}

/// As flannel does it: one device, a route, a neighbour and a forwarding entry for the other host.
fn by_hand(net: &Underlay) -> Result<Way> {
    let [from, to] = bridged(net, [3, 4], 1450);
    let mac = |number: u8| format!("02:00:00:00:00:{number:02x}");
    for (number, other) in [(3, 4), (4, 3)] {
        let host = net.host(number);
        host.ip(&format!(
            "link add flannel.1 address {} mtu 1450 type vxlan id 1 dev u0 local 192.0.2.{number} dstport 8472 nolearning",
            mac(number)
        ));
        host.ip(&format!("address add 10.7.{number}.0/32 dev flannel.1"));
        host.ip("link set flannel.1 up");
        host.ip(&format!("neigh add 10.7.{other}.0 lladdr {} dev flannel.1 nud permanent", mac(other)));
        host.run("bridge", &format!("fdb add {} dev flannel.1 dst 192.0.2.{other}", mac(other))).expect_ok();
        host.ip(&format!("route add 10.7.{other}.0/24 via 10.7.{other}.0 dev flannel.1 onlink"));
    }
    way("VXLAN by hand, as flannel's", from, to, "10.7.4.2")
}

/// The same hops without encapsulation.
fn routed(net: &Underlay) -> Result<Way> {
    let [from, to] = bridged(net, [5, 6], 1500);
    for (number, other) in [(5, 6), (6, 5)] {
        net.host(number).ip(&format!("route add 10.7.{other}.0/24 via 192.0.2.{other}"));
    }
    way("no encapsulation", from, to, "10.7.6.2")
}

/// Returns how many bytes one connection carries in a second.
fn stream(from: &Container, to: &Container, address: IpAddr) -> Result<f64> {
    let listener = to.inside(|| TcpListener::bind((address, 0)))?;
    let port = listener.local_addr()?.port();
    let reader = thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let (mut buffer, mut total) = (vec![0; 1 << 18], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                length => total += length as u64,
            }
        }
    });
    let mut stream = from.inside(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE))?;
    let (start, bytes) = (Instant::now(), vec![7; 1 << 18]);
    while start.elapsed() < WINDOW {
        stream.write_all(&bytes)?;
    }
    drop(stream);
    let total = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Returns how often a small packet goes there and back in a second.
fn round_trips(from: &Container, to: &Container, address: IpAddr) -> Result<f64> {
    let server = to.inside(|| UdpSocket::bind((address, 0)))?;
    let port = server.local_addr()?.port();
    server.set_read_timeout(Some(PATIENCE))?;
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let echo = thread::spawn(move || {
        let mut packet = [0; SMALL];
        while !told.load(Ordering::Relaxed) {
            if let Ok((length, caller)) = server.recv_from(&mut packet) {
                server.send_to(&packet[..length], caller).ok();
            }
        }
    });
    let client = from.inside(|| UdpSocket::bind("0.0.0.0:0"))?;
    client.connect((address, port))?;
    client.set_read_timeout(Some(PATIENCE))?;
    let (start, mut count, mut packet) = (Instant::now(), 0.0, [0; SMALL]);
    while start.elapsed() < WINDOW {
        client.send(&packet)?;
        client.recv(&mut packet).context("an answer was lost")?;
        count += 1.0;
    }
    let rate = count / start.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    client.send(&packet)?;
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?;
    Ok(rate)
}

/// Returns how many small packets arrive in a second when as many as possible are sent.
fn small_packets(from: &Container, to: &Container, address: IpAddr) -> Result<f64> {
    let server = to.inside(|| UdpSocket::bind((address, 0)))?;
    let port = server.local_addr()?.port();
    server.set_read_timeout(Some(Duration::from_millis(200)))?;
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&arrived);
    let listener = thread::spawn(move || {
        let mut packet = [0; SMALL];
        while server.recv(&mut packet).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let client = from.inside(|| UdpSocket::bind("0.0.0.0:0"))?;
    client.connect((address, port))?;
    let start = Instant::now();
    while start.elapsed() < WINDOW {
        // A full queue is what is looked for.
        client.send(&[0; SMALL]).ok();
    }
    let rate = arrived.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))?;
    Ok(rate)
}

/// What an ADD and a DEL cost on both kinds of network, in turns.
fn adds(host: &Host) -> Result<String> {
    let container = host.container("adds");
    let bridge = json!({"cniVersion": "1.1.0", "name": "plain", "type": "bridge", "bridge": "br-bench",
        "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "isolate": true, "gatewayMode": {"ipv4": "nat", "ipv6": "nat"},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.8.0.0/26"}]]}});
    let overlay = json!({"cniVersion": "1.1.0", "name": "blue", "type": "overlay",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.64/26", "gateway": "10.1.0.65"}]]}});
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ADDS {
        for (index, (kind, conf)) in [("bridge", &bridge), ("overlay", &overlay)].into_iter().enumerate() {
            for (offset, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                samples[index * 2 + offset].push(call(host, kind, verb, &container, conf)?);
            }
        }
    }
    let [bridge_add, bridge_del, overlay_add, overlay_del] = samples.each_mut().map(|values| median(values));
    Ok(format!(
        "\n| on one host | ADD, ms | DEL, ms |\n|---|---|---|\n| bridge | {bridge_add:.2} | {bridge_del:.2} |\n\
         | overlay | {overlay_add:.2} | {overlay_del:.2} |\n| overlay / bridge | {:.2} | {:.2} |\n",
        overlay_add / bridge_add,
        overlay_del / bridge_del
    ))
}

fn call(host: &Host, kind: &str, verb: &str, container: &Container, conf: &Value) -> Result<f64> {
    let (netns, folder) = (container.netns(), staged_folder());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (netns, folder, root) = (text(&netns), text(&folder), text(host.root()));
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", container.name()),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &folder),
        ("WEFT_ROOT", &root),
    ];
    let input = conf.to_string();
    let (cost, _) = host.inside(|| process::run(&staged(kind), &[], &env, input.as_bytes()))?;
    Ok(cost.wall.as_secs_f64() * 1e3)
}

/// How long it takes to make the ways to hundreds of hosts, and to find that nothing is to be done.
fn peers(host: &Host) -> Result<String> {
    for number in 1..=PEERS {
        let (high, low) = (number / 4, number % 4 * 64);
        let text = format!(
            "name = \"p{number}\"\nunderlay = [\"198.18.{}.{}\"]\n[[block]]\nnetwork = \"blue\"\ncidr = \"10.1.{}.{low}/26\"\n",
            number / 250,
            number % 250 + 1,
            high + 100
        );
        host.write(&format!("etc/weft/overlay/peers.d/p{number}.toml"), text);
    }
    let apply = || -> Result<f64> {
        let start = Instant::now();
        let output = host.weft(["overlay", "apply"]);
        ensure!(output.code == 0, "{output}");
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let (made, again) = (apply()?, apply()?);
    let routes = host.ip("route show proto 201").lines().count();
    ensure!(routes > usize::from(PEERS), "only {routes} routes");
    Ok(format!(
        "\n`weft overlay apply` makes the ways to {PEERS} peers in {made:.0} ms, its two processes and {PEERS} files included; \
         with nothing to do it takes {again:.0} ms.\n"
    ))
}
