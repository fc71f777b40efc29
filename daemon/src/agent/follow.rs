//! Hearing what the store says, and telling it what it should know of this host and does not.
//!
//! What is owed to the store is owed until it is there: whatever is refused, or lost on the way, is said again later, also by the
//! next agent, for what the store has lost is kept on disk as such.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_manager::overlay::protocol::Join;
use weft_overlay::records::{Cluster, Slots, decode};
use weft_overlay::snapshot::Record;
use weft_overlay::{ClusterId, Event, HostId, Key, keys};
use weft_state::boot;
use weft_store::claims::{ClaimError, Claims, JoinRequest};
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::file::FileStore;
use weft_store::{Follower, SharedStore, StoreError, Update};

use super::agent::Agent;
use super::known::Inner;
use super::membership::Membership;
use super::underlay::Place;

/// How soon settings of the store are looked at again that could not be used, and how soon something is said again.
const AGAIN: Duration = Duration::from_secs(5);
/// What is said over and over is said no less often than this.
const LONGEST: Duration = Duration::from_secs(300);

/// Hears what the store says, from when it can be asked at all.
pub(super) async fn follow(agent: Rc<Agent>, membership: Membership) {
    let store = loop {
        match store(&membership.join, false).await {
            Ok(store) => break store,
            Err(error) => agent.hear(Update::Lost(with_hint(&ClaimError::Store(error)))),
        }
        // Certificates may be on their way.
        tokio::time::sleep(AGAIN).await;
    };
    agent.change(|inner| inner.store = Some(store.clone()));
    let mut follower = Follower::new(store.clone(), keys::PREFIX);
    let mut owed = Owed::default();
    loop {
        let lacking = agent.with(Inner::lacking);
        // A follower may be dropped while it waits.
        let update = tokio::select! {
            update = follower.next() => Some(update),
            () = agent.to_be_told() => None,
            () = owed.due() => None,
        };
        let there = update.as_ref().and_then(cluster_in);
        if let Some(there) = there.filter(|there| *there != membership.cluster) {
            // Nothing of it is taken over, and nothing is said to it: what is known stays, until our own is back.
            let other = ClaimError::OtherCluster { there, ours: membership.cluster };
            agent.change(|inner| inner.store = None);
            agent.hear(Update::Lost(with_hint(&other)));
            tokio::time::sleep(AGAIN).await;
            follower.again();
            continue;
        }
        match update {
            Some(update) => {
                if !matches!(update, Update::Lost(_)) {
                    agent.change(|inner| inner.store = Some(store.clone()));
                }
                let back = matches!(update, Update::Listed(..) | Update::Back);
                agent.hear(update);
                // Everything may also be lost while we listen: somebody deletes it.
                if back || agent.with(Inner::lacking) > lacking {
                    owed.now();
                }
            }
            None if !owed.is_due() => owed.now(),
            None => {}
        }
        if owed.is_due() {
            // One that does not answer is heard of when it does.
            let answers = agent.with(|inner| inner.hearing.connected);
            owed.done(answers && tell(&agent, &membership, &store).await);
        }
    }
}

/// Returns which cluster's store it is, where an update says so.
fn cluster_in(update: &Update) -> Option<ClusterId> {
    let key = Key::Cluster.to_string();
    let entry = match update {
        Update::Listed(listing, _) => listing.entries.iter().find(|entry| entry.key == key),
        Update::Changes(events) => events.iter().rev().find_map(|event| match event {
            Event::Put(entry) if entry.key == key => Some(entry),
            _ => None,
        }),
        _ => None,
    };
    decode::<Cluster>(&entry?.value).ok().map(|cluster| cluster.id)
}

/// When the store is told next what it should know.
#[derive(Debug, Default)]
struct Owed {
    at: Option<Instant>,
    wait: Option<Duration>,
}

impl Owed {
    fn now(&mut self) {
        *self = Self { at: Some(Instant::now()), wait: None };
    }

    fn is_due(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Notes whether the store knows all; if not, it is told again, a little later each time.
    fn done(&mut self, all: bool) {
        let wait = self.wait.map_or(AGAIN, |wait| (wait * 2).min(LONGEST));
        *self = match all {
            true => Self::default(),
            false => Self { at: Some(Instant::now() + wait), wait: Some(wait) },
        };
    }
}

/// Tells the store what it should know of this host and does not: after a boot, when the host is somewhere else, and when the
/// store has lost something. Returns whether nothing is left to be told.
async fn tell(agent: &Rc<Agent>, membership: &Membership, store: &SharedStore) -> bool {
    if agent.with(|inner| inner.is_out().is_some()) {
        return true;
    }
    let claims = Claims::new(store.clone());
    let lacking = agent.with(Inner::lacking) > 0;
    if lacking {
        let snapshot = agent.with(|inner| inner.snapshot.clone());
        let why = match claims.reassert(membership.host, &snapshot).await {
            Ok(done) if done.lost.is_empty() => None,
            Ok(done) => {
                let lost: Vec<String> =
                    done.lost.iter().map(|(key, host)| format!("{key} to {}", host.short())).collect();
                Some(format!("another host has what this one had: {}", lost.join(", ")))
            }
            Err(error) => Some(format!("what the store has lost is not there again: {}", with_hint(&error))),
        };
        agent.trouble("what the store has lost", why);
    } else {
        agent.trouble("what the store has lost", None);
    }
    let told = tell_place(agent, membership, &claims).await;
    // Whether it is there again is heard from the store.
    told && !lacking
}

/// Returns an error with what to do next.
fn with_hint(error: &ClaimError) -> String {
    match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

/// Tells where this host is, unless that is known; returns whether it is now.
async fn tell_place(agent: &Agent, membership: &Membership, claims: &Claims) -> bool {
    let (known, place, cluster) = agent.with(|inner| {
        let snapshot = &inner.snapshot;
        (snapshot.host(membership.host).cloned(), inner.place.clone(), snapshot.cluster().cloned())
    });
    let (Some(place), Some(cluster)) = (place, cluster) else { return true };
    let request = request(membership.host, &membership.join, &place, cluster);
    let same = known.is_some_and(|known| {
        known.boot == request.boot
            && known.underlay == request.underlay
            && known.mtu == request.mtu
            && known.version == request.version
            && known.superseded_by.is_none()
    });
    let outcome = if same { Ok(()) } else { claims.join(&request).await.map(drop) };
    let why = outcome.err().map(|error| with_hint(&error));
    let told = why.is_none();
    agent.trouble("this host's record", why);
    told
}

impl Inner {
    /// Returns how many records the store lacks that it is this host's to say again.
    fn lacking(&self) -> usize {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return 0 };
        let is_ours = |key: &&Key| match key {
            // What belongs to nobody in particular is said by whoever knows it.
            Key::Cluster | Key::Network(_) | Key::Vni(_) => true,
            key => self.snapshot.get(key).and_then(Record::owner) == Some(own),
        };
        self.snapshot.held().filter(is_ours).count()
    }
}

/// Returns the store of the cluster. A directory that is `new` is made; one that a host has met others in is waited for. Of settings
/// that are `new` more is asked than of those that a host has joined with.
pub(super) async fn store(join: &Join, new: bool) -> Result<SharedStore, StoreError> {
    match &join.dir {
        Some(dir) if new => return Ok(Arc::new(FileStore::open(dir).await?)),
        Some(dir) => return Ok(Arc::new(FileStore::existing(dir))),
        None => {}
    }
    let settings = EtcdSettings {
        endpoints: join.endpoints.clone(),
        ca: join.ca.clone(),
        cert: join.cert.clone(),
        key: join.key.clone(),
        timeout: None,
        progress: None,
        watchdog: None,
    };
    if new {
        settings.check_given()?;
    }
    Ok(Arc::new(EtcdStore::new(settings)?))
}

pub(super) fn request(host: HostId, join: &Join, place: &Place, cluster: Cluster) -> JoinRequest {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions before took files with `http://`, and did nothing with them.
    #[tokio::test]
    async fn a_membership_with_files_that_nothing_is_done_with_is_followed() {
        let join = Join {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            ca: Some("/nonexistent/ca.crt".into()),
            ..Join::default()
        };
        assert!(store(&join, false).await.is_ok());
        let refusal = store(&join, true).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refusal.contains("http:// is without TLS"), "{refusal}");
    }

    #[test]
    fn what_is_owed_is_said_ever_more_rarely_until_it_is_there() {
        let mut owed = Owed::default();
        assert!(!owed.is_due());
        owed.now();
        assert!(owed.is_due());
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                owed.done(false);
                assert!(!owed.is_due());
                owed.wait.unwrap().as_secs()
            })
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        owed.now();
        owed.done(false);
        assert_eq!(owed.wait, Some(AGAIN), "what is lost anew is said again soon");
        owed.done(true);
        assert!(owed.at.is_none() && !owed.is_due());
    }
}
