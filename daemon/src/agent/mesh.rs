//! The mesh that encrypted networks ride in: made when the first of them appears, and kept in step.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv6Network;
use serde_json::Value;
use tokio::task::spawn_blocking;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Difference, Peer, Refusal, Tunnel};
use weft_overlay::ids::PublicKey;
use weft_overlay::records::{Encryption, Host, Slots};
use weft_overlay::{NetworkId, Snapshot};
use weft_state::Root;
use weft_store::claims::Claims;
use weft_tunnel::rotation::Remote;
use weft_tunnel::{ClusterSecret, Driver, MeshError, Outcome, PeerStats, Slot, View, device_mtu};

use super::agent::Agent;
use super::known::Inner;
use super::program;

/// How often a tunnel that died is looked for, and a rotation goes on.
const BEAT: Duration = Duration::from_secs(1);
/// How soon after a look there is another, whatever is heard: what we do ourselves is heard, too.
const SOON: Duration = Duration::from_millis(100);

/// The mesh, opened when it is needed for the first time. It is worked on in threads that may wait.
#[derive(Clone, Default)]
pub(crate) struct Mesh(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    driver: Option<Driver>,
    /// This host leaves: who waits for their turn still finds nothing to do.
    closed: bool,
}

impl Mesh {
    /// Works on the mesh, in the place of other work.
    async fn work<T: Send + 'static>(
        &self,
        root: &Root,
        work: impl FnOnce(&mut Driver) -> Result<T, MeshError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (mesh, root) = (self.clone(), root.clone());
        let worked = spawn_blocking(move || mesh.work_here(&root, work));
        worked.await.unwrap_or_else(|error| Err(Refusal::new(Kind::Failed, error)))
    }

    /// Works on the mesh in the calling thread, which waits for other work to end.
    pub(super) fn work_here<T>(
        &self,
        root: &Root,
        work: impl FnOnce(&mut Driver) -> Result<T, MeshError>,
    ) -> Result<T, Refusal> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Refusal::new(Kind::Conflict, "this host leaves its cluster"));
        }
        work(state.driver(root.clone())?).map_err(|error| refused(&error))
    }

    /// Takes everything away that there is, and keeps others from making it again.
    async fn close(&self, root: &Root, prefix: Ipv6Network) -> Result<(), Refusal> {
        let (mesh, root) = (self.0.clone(), root.clone());
        let closed = spawn_blocking(move || {
            let mut state = mesh.lock().unwrap_or_else(PoisonError::into_inner);
            state.closed = true;
            if !Driver::is_there(&root).map_err(|error| refused(&error))? {
                return Ok(());
            }
            let left = state.driver(root)?.leave(prefix);
            // What it was told is true no more.
            state.driver = None;
            left.map_err(|error| refused(&error))
        });
        closed.await.unwrap_or_else(|error| Err(Refusal::new(Kind::Failed, error)))
    }

    /// Says that this host is one of a cluster.
    pub(crate) fn open(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed = false;
    }
}

impl State {
    fn driver(&mut self, root: Root) -> Result<&mut Driver, Refusal> {
        match &mut self.driver {
            Some(driver) => Ok(driver),
            none => Ok(none.insert(opened(root)?)),
        }
    }
}

fn opened(root: Root) -> Result<Driver, Refusal> {
    Driver::open(root, program::own, None).map_err(|error| refused(&error))
}

fn refused(error: &MeshError) -> Refusal {
    Refusal { hint: error.hint(), ..Refusal::new(Kind::Failed, error) }
}

/// A refusal in one line, with the next command to type.
fn said(refusal: &Refusal) -> String {
    let hint = refusal.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
    format!("{}{hint}", refusal.why)
}

/// Keeps the mesh in step until the agent ends.
pub(crate) async fn keep(agent: Rc<Agent>) {
    loop {
        advance(&agent).await;
        tokio::time::sleep(SOON).await;
        drop(tokio::time::timeout(BEAT - SOON, agent.mesh_touched()).await);
    }
}

/// Does what can be done now, and tells others of new keys.
pub(crate) async fn advance(agent: &Rc<Agent>) {
    let secret = ClusterSecret::load(&agent.root);
    let missing = match &secret {
        Ok(Some(secret)) => agent.with(|inner| {
            let checked = inner.snapshot.cluster().map(|cluster| super::secret::check(cluster, Some(secret)));
            checked.and_then(Result::err).map(|refusal| said(&refusal))
        }),
        Ok(None) => {
            Some("this host has no cluster secret: weft overlay leave, and join with --secret".to_owned())
        }
        Err(error) => {
            let hint = error.hint();
            Some(said(&Refusal { hint, ..Refusal::new(Kind::Failed, error) }))
        }
    };
    let is_usable = missing.is_none();
    let encrypted = agent.with(Inner::encrypted);
    let without =
        missing.map(|why| encrypted.iter().map(|id| (*id, why.clone())).collect::<BTreeMap<_, _>>());
    agent.refuse("secret", without.unwrap_or_default());
    let (Some(view), Ok(Some(secret))) = (agent.with(Inner::view), secret) else { return };
    // No device without its guard; why there is none is said of the kernel.
    if encrypted.is_empty() || !is_usable || !agent.with(|inner| inner.guarded) {
        return;
    }
    let outcome = agent.mesh.work(&agent.root, move |driver| driver.advance(&view, &secret)).await;
    if outcome.as_ref().is_ok_and(|outcome| outcome.changed) {
        // A device that was made is listened to from the next round on.
        agent.touch();
    }
    let why = match outcome {
        Ok(outcome) => {
            agent.change(|inner| inner.tunnels.clone_from(&outcome.versions));
            let failure = outcome.failure.as_ref().map(refused);
            publish(agent, outcome).await.err().or(failure)
        }
        Err(refusal) => Some(refusal),
    };
    agent.trouble("the mesh", why.map(|why| format!("the mesh of encrypted networks: {}", said(&why))));
}

/// Returns what of the mesh is not as it should be, if anything needs it.
pub(crate) async fn verify(agent: &Rc<Agent>) -> Vec<Difference> {
    let difference = |why: String| Difference { what: "the mesh".into(), why };
    if agent.with(Inner::encrypted).is_empty() {
        return Vec::new();
    }
    // Without a secret its networks are refused, which says why.
    let (Some(view), Ok(Some(secret))) = (agent.with(Inner::view), ClusterSecret::load(&agent.root)) else {
        return Vec::new();
    };
    match agent.mesh.work(&agent.root, move |driver| driver.verify(&view, &secret)).await {
        Ok(drifts) => drifts.into_iter().map(difference).collect(),
        Err(refusal) => vec![difference(said(&refusal))],
    }
}

/// Tells others which keys this host has.
async fn publish(agent: &Rc<Agent>, outcome: Outcome) -> Result<(), Refusal> {
    for line in &outcome.done {
        eprintln!("weftd: mesh: {line}");
    }
    let told = agent.with(|inner| {
        let own = inner.membership.as_ref()?.host;
        let told = inner.snapshot.host(own)?.wireguard;
        let wireguard = outcome.record(&told);
        (told != wireguard).then_some((own, wireguard))
    });
    let (Some((host, wireguard)), Ok((_, store))) = (told, agent.joined()) else { return Ok(()) };
    if !agent.with(|inner| inner.hearing.connected) {
        return Ok(());
    }
    let told = Claims::new(store).update_host(host, |record| record.wireguard = wireguard).await;
    told.map(drop).map_err(|error| super::claim::refused(&error))
}

/// Replaces this host's keys.
///
/// # Errors
///
/// When this host has no encrypted network, or a key is being replaced already.
pub(crate) async fn rotate(agent: &Rc<Agent>) -> Result<Value, Refusal> {
    agent.at_home()?;
    if agent.with(Inner::encrypted).is_empty() {
        let why = "the cluster has no encrypted network, so this host has no keys";
        return Err(
            Refusal::new(Kind::NotFound, why).hint("weft network create -d overlay -o encrypted NAME")
        );
    }
    let view =
        agent.with(Inner::view).ok_or_else(|| Refusal::new(Kind::Failed, "the cluster is not known yet"))?;
    match agent.mesh.work(&agent.root, move |driver| driver.rotate(&view)).await? {
        Some(_) => {
            advance(agent).await;
            Ok(Value::Null)
        }
        None => {
            let why = "a key is being replaced already: the old one goes when no host needs it any more";
            Err(Refusal::new(Kind::Conflict, why).hint("weft overlay peers"))
        }
    }
}

/// Returns the addresses inside the mesh, as long as the cluster is known.
pub(crate) fn prefix(snapshot: &Snapshot) -> Option<Ipv6Network> {
    snapshot.cluster().map(|cluster| cluster.mesh_prefix)
}

/// Takes the mesh away, whether or not anything needs it still: this host leaves.
pub(crate) async fn dismantle(agent: &Agent, prefix: Option<Ipv6Network>) -> Result<(), Refusal> {
    match prefix {
        Some(prefix) => agent.mesh.close(&agent.root, prefix).await,
        None => Ok(()),
    }
}

/// Fills in how the tunnels to hosts are.
pub(crate) async fn fill(agent: &Rc<Agent>, peers: &mut [Peer]) {
    let stats = stats(agent).await;
    for peer in peers {
        let host = peer.id.parse().ok().and_then(|id| agent.with(|inner| inner.snapshot.host(id).cloned()));
        peer.tunnels = host.map(|host| tunnels(&host, &stats)).unwrap_or_default();
    }
}

async fn stats(agent: &Rc<Agent>) -> Slots<Vec<PeerStats>> {
    let mut found = Slots::default();
    if agent.with(Inner::encrypted).is_empty() {
        return found;
    }
    for slot in Slot::ALL {
        // One that does not answer has shaken no hands.
        let stats = agent.mesh.work(&agent.root, move |driver| driver.stats(slot)).await;
        *slot.of_mut(&mut found) = stats.unwrap_or_default();
    }
    found
}

fn tunnels(host: &Host, stats: &Slots<Vec<PeerStats>>) -> Vec<Tunnel> {
    let of = |slot: &str, key: Option<PublicKey>, stats: &[PeerStats]| {
        let found = stats.iter().find(|one| Some(one.public_key) == key)?;
        Some(Tunnel {
            slot: slot.into(),
            key: found.public_key.to_string(),
            handshake: found.handshake.map(|age| age.as_secs()),
            received: found.received,
            sent: found.sent,
        })
    };
    let a = of("A", host.wireguard.a.map(|slot| slot.public_key), &stats.a);
    let b = of("B", host.wireguard.b.map(|slot| slot.public_key), &stats.b);
    a.into_iter().chain(b).collect()
}

impl Inner {
    /// Returns the networks that need the mesh.
    fn encrypted(&self) -> Vec<NetworkId> {
        let encrypted =
            |network: &&weft_overlay::records::Network| network.encryption == Encryption::Wireguard;
        self.snapshot.networks().filter(encrypted).map(|network| network.id).collect()
    }

    /// Returns what this host is to the mesh, and who else is in it.
    fn view(&self) -> Option<View> {
        let own = self.snapshot.host(self.membership.as_ref()?.host)?;
        let cluster = self.snapshot.cluster()?;
        let others =
            || self.snapshot.hosts().filter(|host| host.id != own.id && host.superseded_by.is_none());
        let remotes: Vec<Remote> = others()
            .filter_map(|host| {
                Some(Remote {
                    host: host.id,
                    address: cluster.mesh_address(host.mesh),
                    underlay: own.underlay.meets(host.underlay)?,
                    alive: self.snapshot.alive(host.id).is_some(),
                    wireguard: host.wireguard,
                })
            })
            .collect();
        // What the MTU of encrypted networks on this host follows from as well.
        let over_ipv4 = own.underlay.meets_by_v4(others().map(|host| host.underlay));
        Some(View {
            mtu: device_mtu(own.mtu, !over_ipv4),
            address: cluster.mesh_address(own.mesh),
            prefix: cluster.mesh_prefix,
            vxlan: cluster.secure_port,
            ports: cluster.wireguard_ports,
            remotes,
        })
    }
}
