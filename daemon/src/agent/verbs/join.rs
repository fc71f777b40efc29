//! `weft overlay join`, and going on after a restart.

use std::rc::Rc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use tokio::task::spawn_local;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Join, Refusal, Status};
use weft_model::NetworkName;
use weft_overlay::records::{Cluster, Network, Pool};
use weft_overlay::{ClusterId, Snapshot};
use weft_state::{StateError, document};
use weft_store::claims::{ClaimError, Claims, Joined};
use weft_tunnel::ClusterSecret;

use crate::agent::agent::Agent;
use crate::agent::claim::refused;
use crate::agent::follow::{follow, request, store};
use crate::agent::membership::{Membership, UNREADABLE};
use crate::agent::socket::Reply;
use crate::agent::underlay::{self, Place};
use crate::agent::{alive, secret, status};

/// How long the store may take to tell the rest after a join.
const LIMIT: Duration = Duration::from_secs(15);
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
    if let Some(why) = agent.with(|inner| inner.troubles.get(UNREADABLE).cloned()) {
        return Err(Refusal::new(Kind::Conflict, why).hint("weft overlay leave -f"));
    }
    let place = underlay::find(&join)?;
    underlay::carries_networks(&place)?;
    let brought = secret::brought(join.secret.as_deref())?;
    let store = store(&join, true).await.map_err(|error| match join.dir {
        Some(_) => Refusal::new(Kind::Failed, error).hint("give a directory on this host's own disk: --dir"),
        None => refused(&ClaimError::Store(error)),
    })?;
    reply.progress(format!("asking {}", join.places().join(",")));
    let claims = Claims::new(store);
    // One of an attempt that was cut short, or of an earlier membership.
    let kept = secret::kept(&agent.root);
    let (cluster, secret) = match claims.cluster().await {
        Ok(cluster) => {
            let fits = |kept: &ClusterSecret| secret::check(&cluster, Some(kept)).is_ok();
            let kept = kept.ok().flatten().filter(fits);
            (cluster, brought.or(kept))
        }
        Err(ClaimError::NoCluster(_)) => {
            reply.progress("making a new cluster");
            let secret = secret::made(brought.or(kept?))?;
            // The store is about to have the proof of it, so it may not be lost.
            secret::keep(&agent.root, Some(&secret))?;
            (founded(&join, &secret)?, Some(secret))
        }
        Err(error) => return Err(refused(&error)),
    };
    secret::check(&cluster, secret.as_ref())?;
    let Joined { cluster: agreed, host: record, .. } = enter(agent, &claims, &join, &place, &cluster).await?;
    let (host, mut secret) = (record.id, secret);
    if agreed.id != cluster.id {
        // Somebody else made a cluster at the same moment, with a secret of its own.
        secret = secret.filter(|_| join.secret.is_some());
        if let Err(refusal) = secret::check(&agreed, secret.as_ref()) {
            claims.leave(host, "it has another secret").await.map_err(|error| refused(&error))?;
            agent.file.give_up().map_err(failed)?;
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
    agent.file.save(&membership).map_err(failed)?;
    agent.file.give_up().map_err(failed)?;
    begin(agent, membership, Some(place), Snapshot::default());
    reply.progress(told);
    let known = || agent.with(|inner| inner.snapshot.host(host).map(drop));
    agent.wait_for("the cluster as the store has it", LIMIT, known).await?;
    take_part(agent, reply).await;
    Ok(status::status(agent))
}

/// Waits until this host has the cluster's networks, and tells which it cannot have. It is a member without them, too.
async fn take_part(agent: &Rc<Agent>, reply: &Reply) {
    let networks: Vec<Network> = agent.with(|inner| inner.snapshot.networks().cloned().collect());
    if networks.is_empty() {
        return;
    }
    reply.progress("waiting until the cluster's networks are to be had here");
    let look = || -> Vec<Outcome> {
        agent.change(|inner| networks.iter().map(|network| inner.is_to_be_had(network)).collect())
    };
    let all = || Some(look()).filter(|outcomes| outcomes.iter().all(Option::is_some));
    let outcomes = agent.wait_for("networks of the cluster", LIMIT, all).await.unwrap_or_else(|_| look());
    let names = networks.iter().map(|network| &network.name);
    for line in told(names.zip(outcomes)) {
        reply.progress(line);
    }
}

/// Whether a network is to be had, or why not; nothing as long as that is open.
type Outcome = Option<Result<(), String>>;

/// Returns what is said of networks: which are not to be had, and which may come yet.
fn told<'a>(outcomes: impl Iterator<Item = (&'a NetworkName, Outcome)>) -> Vec<String> {
    let (mut lines, mut open) = (Vec::new(), Vec::new());
    for (name, outcome) in outcomes {
        match outcome {
            Some(Err(why)) => lines.push(format!("network {name} is not to be had on this host: {why}")),
            Some(Ok(())) => {}
            None => open.push(name.to_string()),
        }
    }
    if !open.is_empty() {
        lines.push(format!("not known yet of {}: weft overlay status", open.join(", ")));
    }
    lines
}

/// Takes a place among the hosts, as the same host if that was tried before and cut short.
async fn enter(
    agent: &Agent,
    claims: &Claims,
    join: &Join,
    place: &Place,
    cluster: &Cluster,
) -> Result<Joined, Refusal> {
    let host = agent.file.intended().map_err(failed)?;
    match claims.join(&request(host, join, place, cluster.clone())).await {
        // Somebody has forgotten it meanwhile, or taken its place.
        Err(ClaimError::Left { .. } | ClaimError::Superseded { .. }) => {
            agent.file.give_up().map_err(failed)?;
            let host = agent.file.intended().map_err(failed)?;
            claims.join(&request(host, join, place, cluster.clone())).await
        }
        joined => joined,
    }
    .map_err(|error| refused(&error))
}

fn failed(error: StateError) -> Refusal {
    Refusal::new(Kind::Failed, error)
}

/// Goes on after a restart, if this host is one of a cluster. When what says so cannot be used, everything stays as it is until
/// somebody mends it, or leaves by force.
pub(crate) fn resume(agent: &Rc<Agent>) {
    let membership = match agent.file.load() {
        Ok(Some(membership)) => membership,
        Ok(None) => return,
        Err(error) => {
            let why = format!(
                "{error}: networks stay as they are; put the file back and systemctl restart weft-agent, or \
                 weft overlay leave -f and join again"
            );
            return agent.trouble(UNREADABLE, Some(why));
        }
    };
    // The agent before this one may have been killed between the two files.
    if let Err(error) = agent.file.give_up() {
        eprintln!("weftd: {error}");
    }
    let snapshot = Snapshot::last(&agent.root).unwrap_or_else(|error| {
        eprintln!("weftd: {error}: nothing is known until the store answers");
        None
    });
    // Not yet there, perhaps: it is looked for until it is.
    let place = underlay::find(&membership.join);
    let why = place.as_ref().err().map(ToString::to_string);
    begin(agent, membership, place.ok(), snapshot.unwrap_or_default());
    agent.trouble(underlay::ABOUT, why);
}

/// Starts everything that a member does.
fn begin(agent: &Rc<Agent>, membership: Membership, place: Option<Place>, snapshot: Snapshot) {
    let host = membership.host;
    agent.enter(membership.clone(), place, snapshot);
    agent.employ(spawn_local(follow(agent.clone(), membership)));
    agent.employ(spawn_local(alive::beat(agent.clone(), host)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_networks_is_told_though_some_are_open() {
        let names = ["blue", "green", "large", "small"].map(|name| name.parse::<NetworkName>().unwrap());
        let told = |outcomes: [Outcome; 4]| told(names.iter().zip(outcomes));
        let refused = || Some(Err("it is large: raise the underlay's MTU".to_owned()));
        let line = "network large is not to be had on this host: it is large: raise the underlay's MTU";
        assert_eq!(told([Some(Ok(())), Some(Ok(())), refused(), Some(Ok(()))]), [line]);
        assert_eq!(
            told([None, Some(Ok(())), refused(), None]),
            [line, "not known yet of blue, small: weft overlay status"]
        );
        assert_eq!(told([Some(Ok(())), Some(Ok(())), Some(Ok(())), Some(Ok(()))]), [""; 0]);
    }
}
