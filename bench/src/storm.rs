//! Hundreds of hosts on one etcd: how long until everybody knows everybody, and until one change is known everywhere.
//!
//! The hosts are tasks of this process with a connection and a certificate's greeting each; what they hear they parse and keep as an
//! agent does, and only the kernel is left out. So the figures contain the work of all hosts, on this one machine.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_overlay::records::{Cluster, Egress, Encryption, Slots, Underlay};
use weft_overlay::{ClusterId, HostId, NetworkId, Snapshot, keys};
use weft_store::claims::{Claims, JoinRequest, NewNetwork};
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::{Follower, SharedStore, Update};
use weft_testkit::{Authority, Etcd, Lab};

const HOSTS: u16 = 500;
const CHANGES: u32 = 20;
const LIMIT: Duration = Duration::from_secs(300);

/// Measures, and says what came out.
pub(crate) fn measure() -> Result<String> {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    let address: IpAddr = Ipv4Addr::new(192, 0, 2, 2).into();
    let authority = Authority::new(&lab.path("tls"));
    let etcd = Etcd::start_with_tls(&outside, address, &lab.path("etcd"), &authority);
    let own = authority.certificate("host", &[]);
    let settings = EtcdSettings {
        ca: Some(authority.file()),
        cert: Some(own.file),
        key: Some(own.key),
        timeout: Some(30),
        ..EtcdSettings::plain([etcd.url()])
    };
    // Two threads: as many as the machine at hand has cores. They are born in the lab.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(async { tokio::time::timeout(LIMIT, storm(&settings)).await });
    let figures = figures.context("the hosts do not come to know each other")??;
    let mut page = figures;
    writeln!(page, "etcd: {} MiB resident", etcd.memory() / 1024)?;
    Ok(page)
}

struct Simulated {
    store: SharedStore,
    view: watch::Receiver<Snapshot>,
}

async fn storm(settings: &EtcdSettings) -> Result<String> {
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let store: SharedStore = Arc::new(EtcdStore::new(settings.clone())?);
        let (sender, view) = watch::channel(Snapshot::default());
        tokio::spawn(follow(Arc::clone(&store), id(number), sender));
        hosts.push(Simulated { store, view });
    }
    let founder = Claims::new(Arc::clone(&hosts[0].store));
    founder.join(&request(0)).await?;
    let blue = founder.create_network(&network()?).await?.name;
    for host in &mut hosts {
        host.view.wait_for(|known| known.networks().count() == 1).await?;
    }
    let start = Instant::now();
    let mut joins = JoinSet::new();
    for (number, host) in (0..).zip(&hosts) {
        let (claims, blue) = (Claims::new(Arc::clone(&host.store)), blue.clone());
        joins.spawn(async move {
            claims.join(&request(number)).await?;
            claims.ensure_blocks(id(number), &blue).await.map(drop)
        });
    }
    let all = usize::from(HOSTS);
    let known =
        times(&hosts, start, move |known| known.hosts().count() == all && known.blocks().count() == all);
    let joined = async {
        while let Some(done) = joins.join_next().await {
            done??;
        }
        anyhow::Ok(start.elapsed())
    };
    let (known, joined) = tokio::join!(known, joined);
    let (known, joined) = (known?, joined?);
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
    let mut page =
        format!("{HOSTS} hosts join at once: all claims made after {:.2} s\n", joined.as_secs_f64());
    for (what, mut times) in
        [("everybody knows everybody", known), ("one change is known everywhere", changes)]
    {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        writeln!(page, "{what}: p50 {:.0} ms, p99 {:.0} ms, last {:.0} ms", at(50), at(99), at(100))?;
    }
    Ok(page)
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
        cluster: Cluster::new(ClusterId::random()),
    }
}

fn network() -> Result<NewNetwork> {
    Ok(NewNetwork {
        id: NetworkId::random(),
        name: "blue".parse()?,
        vni: None,
        subnets: vec!["10.64.0.0/12".parse()?],
        encryption: Encryption::None,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    })
}
