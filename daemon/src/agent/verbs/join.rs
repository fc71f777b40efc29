//! `weft overlay join`, and going on after a restart.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use ipnetwork::IpNetwork;
use tokio::task::spawn_local;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Join, Refusal, Status};
use weft_overlay::records::{Cluster, Pool, Slots};
use weft_overlay::{ClusterId, HostId, Snapshot, keys};
use weft_state::{boot, document};
use weft_store::claims::{ClaimError, Claims, JoinRequest, Joined};
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::{Follower, SharedStore, StoreError, Update};
use weft_tunnel::ClusterSecret;

use crate::agent::agent::Agent;
use crate::agent::claim::refused;
use crate::agent::membership::Membership;
use crate::agent::socket::Reply;
use crate::agent::underlay::{self, Place};
use crate::agent::{alive, secret, status};

/// How long the store may take to tell the rest after a join.
const LIMIT: Duration = Duration::from_secs(15);
/// How soon settings of the store are looked at again that could not be used.
const AGAIN: Duration = Duration::from_secs(5);
/// The length of the subnets that networks get, of each family.
const SIZES: (u8, u8) = (16, 64);
/// Where subnets come from when nobody says it.
const POOL: &str = "10.96.0.0/12";

/// Makes this host one of a cluster.
pub(crate) async fn join(agent: &Rc<Agent>, join: Join, reply: &Reply) -> Result<Status, Refusal> {
    let _turn = agent.turn.lock().await;
    if let Some(membership) = agent.with(|inner| inner.membership.clone()) {
        let why =
            format!("this host is one of cluster {} already, as {}", membership.cluster, membership.name);
        return Err(Refusal::new(Kind::Conflict, why).hint("weft overlay leave"));
    }
    let place = underlay::find(&join)?;
    let brought = secret::brought(join.secret.as_deref())?;
    let store = store(&join).map_err(|error| refused(&ClaimError::Store(error)))?;
    reply.progress(format!("asking {}", join.endpoints.join(",")));
    let claims = Claims::new(store.clone());
    let (cluster, secret) = match claims.cluster().await {
        Ok(cluster) => (cluster, brought),
        Err(ClaimError::NoCluster(_)) => {
            reply.progress("making a new cluster");
            let secret = secret::made(brought)?;
            (founded(&join, &secret)?, Some(secret))
        }
        Err(error) => return Err(refused(&error)),
    };
    secret::check(&cluster, secret.as_ref())?;
    let host = HostId::random();
    let request = request(host, &join, &place, cluster.clone());
    let Joined { cluster: agreed, host: record, .. } =
        claims.join(&request).await.map_err(|error| refused(&error))?;
    let mut secret = secret;
    if agreed.id != cluster.id {
        // Somebody else made a cluster at the same moment, with a secret of its own.
        secret = secret.filter(|_| join.secret.is_some());
        if let Err(refusal) = secret::check(&agreed, secret.as_ref()) {
            claims.leave(host, "it has another secret").await.map_err(|error| refused(&error))?;
            return Err(refusal);
        }
    }
    secret::keep(&agent.root, secret.as_ref())?;
    let told = format!(
        "joined as {} at {} ({}, mtu {})",
        record.name,
        record.underlay.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(", "),
        place.interface,
        place.mtu
    );
    let membership = Membership {
        schema: document::SCHEMA,
        cluster: agreed.id,
        host,
        name: record.name,
        interface: place.interface.clone(),
        join: Join { takeover: false, ..join },
    };
    let failed = |error: anyhow::Error| Refusal::new(Kind::Failed, format!("{error:#}"));
    agent.file.save(&membership).map_err(failed)?;
    begin(agent, membership, Some(place), Snapshot::default());
    reply.progress(told);
    let known = || agent.with(|inner| inner.snapshot.host(host).map(drop));
    agent.wait_for("the cluster as the store has it", LIMIT, known).await?;
    Ok(status::status(agent))
}

/// Goes on after a restart, if this host is one of a cluster.
///
/// # Errors
///
/// When what says so cannot be used.
pub(crate) fn resume(agent: &Rc<Agent>) -> Result<()> {
    let Some(membership) = agent.file.load()? else { return Ok(()) };
    let snapshot = Snapshot::last(&agent.root).unwrap_or_else(|error| {
        eprintln!("weftd: {error}: nothing is known until the store answers");
        None
    });
    let place = underlay::find(&membership.join)
        .inspect_err(|refusal| agent.trouble("underlay", Some(refusal.to_string())))
        .ok();
    begin(agent, membership, place, snapshot.unwrap_or_default());
    Ok(())
}

/// Starts everything that a member does.
fn begin(agent: &Rc<Agent>, membership: Membership, place: Option<Place>, snapshot: Snapshot) {
    let host = membership.host;
    agent.enter(membership.clone(), place, snapshot);
    agent.employ(spawn_local(follow(agent.clone(), membership)));
    agent.employ(spawn_local(alive::beat(agent.clone(), host)));
}

/// Hears what the store says, from when it can be asked at all.
async fn follow(agent: Rc<Agent>, membership: Membership) {
    let store = loop {
        match store(&membership.join) {
            Ok(store) => break store,
            Err(error) => agent.hear(Update::Lost(error.to_string())),
        }
        // Certificates may be on their way.
        tokio::time::sleep(AGAIN).await;
    };
    agent.change(|inner| inner.store = Some(store.clone()));
    let mut follower = Follower::new(store.clone(), keys::PREFIX);
    loop {
        let update = follower.next().await;
        let alarmed = || agent.with(|inner| inner.hearing.alarm.is_some());
        let (listed, before) = (matches!(update, Update::Listed(..)), alarmed());
        agent.hear(update);
        // Everything may also be lost while we listen: somebody deletes it.
        if listed || (alarmed() && !before) {
            say_again(&agent, &membership, &store).await;
        }
    }
}

/// Tells the store what it should know of this host and does not: after a boot, and when it has lost something.
async fn say_again(agent: &Rc<Agent>, membership: &Membership, store: &SharedStore) {
    let claims = Claims::new(store.clone());
    let (snapshot, place, alarmed) =
        agent.with(|inner| (inner.snapshot.clone(), inner.place.clone(), inner.hearing.alarm.is_some()));
    let mut why = None;
    if alarmed {
        match claims.reassert(membership.host, &snapshot).await {
            Ok(done) if done.lost.is_empty() => {}
            Ok(done) => {
                let lost: Vec<String> =
                    done.lost.iter().map(|(key, host)| format!("{key} to {}", host.short())).collect();
                why = Some(format!("another host has what this one had: {}", lost.join(", ")));
            }
            Err(error) => why = Some(error.to_string()),
        }
    }
    agent.trouble("what the store has lost", why);
    let (Some(place), Some(cluster)) = (place, snapshot.cluster().cloned()) else { return };
    let request = request(membership.host, &membership.join, &place, cluster);
    let known = snapshot.host(membership.host);
    let same = known.is_some_and(|known| {
        known.boot == request.boot
            && known.underlay == request.underlay
            && known.mtu == request.mtu
            && known.version == request.version
            && known.superseded_by.is_none()
    });
    let outcome = if same { Ok(()) } else { claims.join(&request).await.map(drop) };
    let why = outcome.err().map(|error| match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    });
    agent.trouble("this host's record", why);
}

fn store(join: &Join) -> Result<SharedStore, StoreError> {
    let settings = EtcdSettings {
        endpoints: join.endpoints.clone(),
        ca: join.ca.clone(),
        cert: join.cert.clone(),
        key: join.key.clone(),
        timeout: None,
        progress: None,
        watchdog: None,
    };
    Ok(Arc::new(EtcdStore::new(settings)?))
}

fn request(host: HostId, join: &Join, place: &Place, cluster: Cluster) -> JoinRequest {
    let hostname =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    JoinRequest {
        id: host,
        name: join.name.clone().or_else(hostname).unwrap_or_else(|| host.short()),
        boot: boot::id().unwrap_or_default(),
        underlay: place.underlay,
        mtu: place.mtu,
        version: env!("CARGO_PKG_VERSION").into(),
        wireguard: Slots::default(),
        takeover: join.takeover,
        cluster,
    }
}

/// Returns a cluster as its first host makes it.
fn founded(join: &Join, secret: &ClusterSecret) -> Result<Cluster, Refusal> {
    let id = ClusterId::random();
    let mut cluster = Cluster::new(id);
    let size = |base: &IpNetwork| if base.is_ipv4() { SIZES.0 } else { SIZES.1 };
    let pool = |base: IpNetwork| Pool { base, size: size(&base).max(base.prefix()) };
    cluster.pools = join.pools.iter().copied().map(pool).collect();
    if !cluster.pools.iter().any(|pool| pool.base.is_ipv4()) {
        cluster.pools.extend(POOL.parse().map(pool));
    }
    if !cluster.pools.iter().any(|pool| pool.base.is_ipv6()) {
        // RFC 4193: a prefix that follows from the cluster's id, and is not that of its mesh.
        let [.., a, b, c, d, e] = *id.bytes();
        let base = std::net::Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        cluster.pools.extend(IpNetwork::new(base.into(), 48).map(pool));
    }
    cluster.secret_proof = Some(secret::proof(secret, id));
    Ok(cluster)
}
