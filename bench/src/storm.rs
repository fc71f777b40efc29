//! Hundreds of hosts on one etcd: how long until everybody knows everybody, until one change is known everywhere, and what that means
//! to the kernel and the memory of one of them.
//!
//! The hosts are tasks of this process with a connection and a certificate's greeting each; what they hear they parse and keep as an
//! agent does, and only the kernel is left out. So the figures contain the work of all hosts, on this one machine. The one host
//! that is real comes when they are there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_overlay::records::{
    Block, BlockState, Cluster as Agreed, Egress, Encryption, Member, Network, Slots, Underlay, encode,
};
use weft_overlay::{ClusterId, HostId, Key, NetworkId, Snapshot, keys};
use weft_store::claims::{Claims, JoinRequest, NewNetwork};
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::{Follower, Op, SharedStore, Update};
use weft_testkit::Cluster;

const HOSTS: u16 = 500;
const CHANGES: u32 = 20;
/// The networks of a host that has many.
const NETWORKS: u8 = 20;
const LIMIT: Duration = Duration::from_secs(300);
/// How long a host is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(8);
/// Hosts join so often, each time another etcd; the figures are those of the run in the middle.
const STORMS: usize = 3;
/// An agent's start is measured so often; the figure is the median.
const STARTS: usize = 5;

/// A goal, and what came of it.
struct Row {
    what: String,
    /// The middle, where it is one of many.
    middle: Option<f64>,
    value: f64,
    goal: f64,
    unit: &'static str,
}

/// Measures, and says what came out.
pub(crate) fn measure() -> Result<String> {
    let mut storms = Vec::new();
    for run in 1..STORMS {
        eprintln!("{HOSTS} hosts on one etcd, {run} of {STORMS}");
        storms.push(Ground::new()?.storm()?);
    }
    eprintln!("{HOSTS} hosts on one etcd, {STORMS} of {STORMS}");
    let ground = Ground::new()?;
    storms.push(ground.storm()?);
    storms.sort_by(|one, other| one.known().total_cmp(&other.known()));
    let Storm { mut rows, spent } = storms.swap_remove(STORMS / 2);
    let Ground { mut cluster, settings, runtime } = ground;
    let [by_etcd, by_hosts] = spent.map(|time| time.as_secs_f64());
    let memory = cluster.etcd.memory() / 1024;
    eprintln!("a host among them");
    rows.extend(one_network(&mut cluster)?);
    runtime.block_on(more_networks(&settings))?;
    rows.extend(many_networks(&mut cluster)?);
    let mut page = String::from("\n| many hosts | p50 | | goal | |\n|---|--:|--:|--:|---|\n");
    for Row { what, middle, value, goal, unit } in rows {
        let cell = |value: f64| format!("{value:.*} {unit}", usize::from(value < 10.0));
        let middle = middle.map_or_else(String::new, cell);
        let met = if value <= goal { "met" } else { "missed" };
        writeln!(page, "| {what} | {middle} | {} | {goal} {unit} | {met} |", cell(value))?;
    }
    writeln!(
        page,
        "\netcd had {memory} MiB resident. The hosts that join are simulated, all of them on this machine, and share its processors"
    )?;
    writeln!(
        page,
        "with etcd; they did it {STORMS} times, and this is the run in the middle: until everybody knew everybody etcd had {by_etcd:.1} s of them, the hosts {by_hosts:.1} s. The agent is a real one, from"
    )?;
    writeln!(page, "its start to its being ready, with all devices and routes to be made anew.")?;
    Ok(page)
}

/// A cluster that nobody has joined yet, and what it takes to have hosts join it.
struct Ground {
    cluster: Cluster,
    settings: EtcdSettings,
    runtime: Runtime,
}

impl Ground {
    fn new() -> Result<Self> {
        let cluster = Cluster::unjoined(1);
        let own = cluster.authority.certificate("host", &[]);
        let settings = EtcdSettings {
            ca: Some(cluster.authority.file()),
            cert: Some(own.file),
            key: Some(own.key),
            timeout: Some(30),
            ..EtcdSettings::plain([cluster.etcd.url()])
        };
        // Two threads: as many as the machine at hand has cores. They are born in the lab.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { cluster, settings, runtime })
    }

    fn storm(&self) -> Result<Storm> {
        let storm = storm(&self.settings, self.cluster.etcd.id());
        let storm = self.runtime.block_on(async { tokio::time::timeout(LIMIT, storm).await });
        storm.context("the hosts do not come to know each other")?
    }
}

/// What came of hosts that joined at once: first how long it took until all knew all.
struct Storm {
    rows: Vec<Row>,
    /// The processor time that etcd and the hosts have taken to join.
    spent: [Duration; 2],
}

impl Storm {
    fn known(&self) -> f64 {
        self.rows.first().map_or(f64::INFINITY, |row| row.value)
    }
}

struct Simulated {
    store: SharedStore,
    view: watch::Receiver<Snapshot>,
}

async fn storm(settings: &EtcdSettings, etcd: u32) -> Result<Storm> {
    let (mut hosts, mut followers) = (Vec::new(), JoinSet::new());
    for number in 0..HOSTS {
        let store: SharedStore = Arc::new(EtcdStore::new(settings.clone())?);
        let (sender, view) = watch::channel(Snapshot::default());
        followers.spawn(follow(Arc::clone(&store), id(number), sender));
        hosts.push(Simulated { store, view });
    }
    let founder = Claims::new(Arc::clone(&hosts[0].store));
    founder.join(&request(0)).await?;
    let blue = founder.create_network(&network("blue", "10.64.0.0/12")?).await?.name;
    for host in &mut hosts {
        host.view.wait_for(|known| known.networks().count() == 1).await?;
    }
    let processes = [etcd, std::process::id()];
    let before = spent(processes)?;
    let start = Instant::now();
    let mut joins = JoinSet::new();
    for (number, host) in (0..).zip(&hosts) {
        let (claims, blue) = (Claims::new(Arc::clone(&host.store)), blue.clone());
        joins.spawn(async move {
            claims.join(&request(number)).await?;
            claims.claim_block(id(number), &blue, false).await.map(drop)
        });
    }
    let all = usize::from(HOSTS);
    let known =
        times(&hosts, start, move |known| known.hosts().count() == all && known.blocks().count() == all);
    let joined = async {
        while let Some(done) = joins.join_next().await {
            done??;
        }
        anyhow::Ok(())
    };
    let (known, joined) = tokio::join!(known, joined);
    joined?;
    let known = known?;
    let after = spent(processes)?;
    let spent = [after[0] - before[0], after[1] - before[1]];
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let start = Instant::now();
        let changed = founder.update_host(id(7), move |host| host.mtu = 1400 - change);
        let seen = times(&hosts, start, move |known| {
            known.host(id(7)).is_some_and(|host| host.mtu == 1400 - change)
        });
        let (changed, seen) = tokio::join!(changed, seen);
        changed?;
        changes.extend(seen?);
    }
    let rows = [
        (format!("{HOSTS} hosts join at once: everybody knows everybody, p99"), known, 5000.0),
        ("one change is known everywhere, p99".to_string(), changes, 500.0),
    ];
    Ok(Storm { rows: rows.into_iter().map(|(what, times, goal)| spread(what, times, goal)).collect(), spent })
}

/// Returns the processor time that each process has had.
fn spent(processes: [u32; 2]) -> Result<[Duration; 2]> {
    Ok([processor_time(processes[0])?, processor_time(processes[1])?])
}

/// The middle and the ninety-ninth of a hundred.
fn spread(what: String, mut times: Vec<Duration>, goal: f64) -> Row {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    Row { what, middle: Some(at(50)), value: at(99), goal, unit: "ms" }
}

/// A real host joins them; then its agent starts again and again on a kernel that knows nobody.
fn one_network(cluster: &mut Cluster) -> Result<Vec<Row>> {
    cluster.start(1);
    cluster.join(1).expect_ok();
    await_peers(cluster, usize::from(HOSTS))?;
    let memory = peak_memory(cluster.agent_id(1))?;
    let starts = starts(cluster, usize::from(HOSTS))?;
    let memory = memory.max(peak_memory(cluster.agent_id(1))?);
    Ok(vec![
        spread_of_starts(format!("an agent starts and makes the ways to {HOSTS} peers"), starts, 300.0),
        Row { what: "its memory, at most".into(), middle: None, value: memory, goal: 40.0, unit: "MB" },
    ])
}

/// As above, with many networks; and then there is nothing to do.
fn many_networks(cluster: &mut Cluster) -> Result<Vec<Row>> {
    let peers = usize::from(HOSTS) * usize::from(NETWORKS);
    await_peers(cluster, peers)?;
    let starts = starts(cluster, peers)?;
    await_peers(cluster, peers)?;
    thread::sleep(IDLE / 2);
    let agent = cluster.agent_id(1);
    let (before, start) = (processor_time(agent)?, Instant::now());
    thread::sleep(IDLE);
    let share = (processor_time(agent)? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let what = format!("the same on {NETWORKS} networks, {peers} ways");
    let idle = "its share of a processor while nothing happens".into();
    Ok(vec![
        spread_of_starts(what, starts, 2000.0),
        Row { what: idle, middle: None, value: share * 100.0, goal: 1.0, unit: "%" },
    ])
}

fn spread_of_starts(what: String, mut times: Vec<Duration>, goal: f64) -> Row {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    Row { what, middle: None, value: middle.as_secs_f64() * 1000.0, goal, unit: "ms" }
}

fn await_peers(cluster: &Cluster, count: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while routes(cluster) < count {
        ensure!(Instant::now() < deadline, "{} of {count} ways", routes(cluster));
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn routes(cluster: &Cluster) -> usize {
    let routes = cluster.host(1).ip("-4 route show proto 201");
    routes.lines().filter(|line| line.contains(" via ")).count()
}

/// Returns how long the agent takes to be ready when everything has to be made.
fn starts(cluster: &mut Cluster, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        cluster.kill(1);
        let host = cluster.host(1);
        for kind in ["vxlan", "bridge"] {
            let names = host.sh(&format!("ip -o link show type {kind} | cut -d: -f2")).stdout;
            names.split_whitespace().for_each(|name| drop(host.ip(&format!("link del {name}"))));
        }
        ensure!(routes(cluster) == 0, "there are ways left");
        let start = Instant::now();
        cluster.start(1);
        times.push(start.elapsed());
        ensure!(routes(cluster) >= count, "{} of {count} ways", routes(cluster));
    }
    Ok(times)
}

/// Returns the most memory that a process has had, in MB.
fn peak_memory(id: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// The user and system time of a process, its ended threads included: fields 14 and 15 of `/proc/PID/stat`, in hundredths of a
/// second (proc(5), USER_HZ). The fields behind the name, which is in brackets, begin with the third.
fn processor_time(id: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| -> Result<u64> {
        Ok(fields.get(number - 3).context("a short /proc/PID/stat")?.parse()?)
    };
    Ok(Duration::from_millis((field(14)? + field(15)?) * 10))
}

/// Has all hosts but the real one take part in more networks, by writing so into the store: what they would have claimed.
async fn more_networks(settings: &EtcdSettings) -> Result<()> {
    let store: SharedStore = Arc::new(EtcdStore::new(settings.clone())?);
    let claims = Claims::new(Arc::clone(&store));
    for number in 1..NETWORKS {
        let new = network(&format!("n{number}"), &format!("10.{}.0.0/16", 128 + number))?;
        let made = claims.create_network(&new).await?;
        let ops: Vec<Op> = (0..HOSTS).flat_map(|host| takes_part(&made, host, number)).collect();
        for chunk in ops.chunks(100) {
            ensure!(store.txn(&[], chunk).await?.is_committed(), "the store is another");
        }
    }
    Ok(())
}

/// The last blocks are left to the real host.
fn takes_part(network: &Network, host: u16, number: u8) -> [Op; 2] {
    let first = Ipv4Addr::new(10, 128 + number, 0, 0).to_bits() + u32::from(host) * 64;
    let cidr = ipnetwork::IpNetwork::new(Ipv4Addr::from_bits(first).into(), 26);
    let cidr = cidr.unwrap_or_else(|error| panic!("{error}"));
    let block = Block { network: network.id, cidr, host: id(host), epoch: 1, state: BlockState::Active };
    let member = Member { network: network.id, host: id(host), since: network.created.clone() };
    [
        Op::put(&Key::Block(network.id, cidr), encode(&block)),
        Op::put(&Key::Member(network.id, id(host)), encode(&member)),
    ]
}

/// Returns when each host knew what was asked for.
async fn times(
    hosts: &[Simulated],
    start: Instant,
    knows: impl Fn(&Snapshot) -> bool + Copy + Send + Sync + 'static,
) -> Result<Vec<Duration>> {
    let mut waits = JoinSet::new();
    for host in hosts {
        let mut view = host.view.clone();
        waits.spawn(async move { view.wait_for(|known| knows(known)).await.map(|_| start.elapsed()) });
    }
    let mut times = Vec::new();
    while let Some(time) = waits.join_next().await {
        times.push(time??);
    }
    if times.len() == hosts.len() { Ok(times) } else { bail!("{} of {} answered", times.len(), hosts.len()) }
}

/// Follows the store as an agent does.
async fn follow(store: SharedStore, own: HostId, known: watch::Sender<Snapshot>) {
    let mut follower = Follower::new(store, keys::PREFIX);
    loop {
        let update = follower.next().await;
        known.send_modify(|snapshot| match update {
            Update::Listed(listing, _) => drop(snapshot.adopt(&listing, Some(own))),
            Update::Changes(events) => drop(snapshot.apply(&events, Some(own))),
            Update::Progress(_) | Update::Lost(_) | Update::Back => {}
        });
    }
}

fn id(number: u16) -> HostId {
    let [a, b] = number.to_be_bytes();
    HostId::new([a, b, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
}

fn request(number: u16) -> JoinRequest {
    let [a, b] = number.to_be_bytes();
    JoinRequest {
        id: id(number),
        name: format!("h{number}"),
        boot: String::new(),
        underlay: Underlay { v4: Some(Ipv4Addr::new(198, 18, a, b)), v6: None },
        mtu: 1500,
        version: String::new(),
        wireguard: Slots::default(),
        takeover: false,
        cluster: Agreed::new(ClusterId::random()),
    }
}

fn network(name: &str, subnet: &str) -> Result<NewNetwork> {
    Ok(NewNetwork {
        id: NetworkId::random(),
        name: name.parse()?,
        vni: None,
        subnets: vec![subnet.parse()?],
        encryption: Encryption::None,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    })
}
