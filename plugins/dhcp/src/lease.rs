//! Leases: what is on disk about them, and what time asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use weft_cni::{Code, Dns, Failure, IpConfig, NetworkResult, Route};
use weft_model::{Endpoint, Mac};
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, boot, document};

use crate::message::Terms;

/// A lease, as it is kept in a file of its own until it is released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The form of this file, [`document::SCHEMA`].
    pub(crate) schema: u64,
    /// The boot this is true in: times count from its begin.
    pub(crate) boot: String,
    /// Whose it is.
    pub(crate) endpoint: Endpoint,
    /// The namespace's path as the runtime gave it.
    pub(crate) netns: PathBuf,
    /// Which namespace that was: another one may have its path by now.
    pub(crate) namespace: String,
    /// The interface's Ethernet address.
    pub(crate) mac: String,
    /// The server's Ethernet address.
    pub(crate) server_mac: String,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    /// The network configuration.
    pub(crate) conf: String,
    /// When the lease began, in seconds since boot.
    pub(crate) since: u64,
    /// The terms.
    pub(crate) terms: Terms,
}

/// What a lease asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing for so long.
    Nothing(Duration),
    /// To be renewed with its server; until this many seconds have passed nobody else is asked.
    Renewal(Duration),
    /// To be renewed with any server.
    Rebinding(Duration),
    /// It is over.
    Expiry,
}

/// Returns the seconds since boot, also those that the machine slept.
///
/// # Errors
///
/// When the kernel has no such clock.
pub(crate) fn now() -> Result<u64, Failure> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| Failure::new(Code::Internal, error))?;
    Ok(u64::try_from(time.tv_sec()).unwrap_or_default())
}

impl Lease {
    /// Says what is due at `now`, in seconds since boot.
    pub(crate) fn due(&self, now: u64) -> Due {
        let age = now.saturating_sub(self.since);
        let until = |end: u32| Duration::from_secs(u64::from(end).saturating_sub(age));
        let Terms { renew, rebind, lease, .. } = self.terms;
        match age {
            age if age < u64::from(renew) => Due::Nothing(until(renew)),
            age if age < u64::from(rebind) => Due::Renewal(until(rebind)),
            age if age < u64::from(lease) => Due::Rebinding(until(lease)),
            _ => Due::Expiry,
        }
    }

    /// Returns the addresses of client and server on the link.
    pub(crate) fn macs(&self) -> Option<(Mac, Mac)> {
        Some((self.mac.parse().ok()?, self.server_mac.parse().ok()?))
    }

    /// Returns the result of an ADD. The MTU of the way is that of the link; `priority` is the routes' metric.
    pub(crate) fn result(&self, priority: Option<u32>) -> NetworkResult {
        let terms = &self.terms;
        let mtu = terms.mtu.map(u32::from);
        let route = |(dst, gateway): &(ipnetwork::Ipv4Network, std::net::Ipv4Addr)| Route {
            dst: (*dst).into(),
            gw: Some((*gateway).into()),
            mtu,
            advmss: None,
            priority,
            table: None,
            scope: None,
        };
        let address = IpConfig {
            address: terms.address.into(),
            gateway: terms.router.map(Into::into),
            interface: None,
        };
        NetworkResult {
            interfaces: Vec::new(),
            ips: vec![address],
            routes: terms.routes.iter().map(route).collect(),
            dns: Dns {
                nameservers: some(terms.dns.iter().map(ToString::to_string).collect()),
                domain: terms.domain.clone(),
                search: some(terms.search.clone()),
                ..Dns::default()
            },
        }
    }
}

/// An empty list would be a choice.
fn some(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

/// The directory of leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
}

impl Leases {
    /// Returns the leases below `root`.
    pub(crate) fn new(root: &Root) -> Self {
        Self { dir: root.dhcp_dir() }
    }

    fn path(&self, endpoint: &Endpoint) -> PathBuf {
        let Endpoint { network, container, ifname } = endpoint;
        self.dir.join(container.as_str()).join(format!("{network},{ifname}.json"))
    }

    /// Writes a lease in one step.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub(crate) fn write(&self, lease: &Lease) -> Result<(), StateError> {
        document::write(&self.path(&lease.endpoint), lease, Durability::Boot)
    }

    /// Returns a lease of this boot. A file that is damaged is none.
    pub(crate) fn get(&self, endpoint: &Endpoint) -> Option<Lease> {
        self.read(&self.path(endpoint)).filter(|lease| lease.endpoint == *endpoint)
    }

    fn read(&self, path: &Path) -> Option<Lease> {
        let lease = document::read::<Lease>(path).ok().flatten()?;
        Some(lease).filter(|lease| boot::id().is_ok_and(|boot| boot == lease.boot))
    }

    /// Forgets a lease; one that never was is no error.
    ///
    /// # Errors
    ///
    /// Names what could not be removed.
    pub(crate) fn remove(&self, endpoint: &Endpoint) -> Result<(), StateError> {
        let path = self.path(endpoint);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StateError::io("remove", &path)(error));
            }
            _ => {}
        }
        // One that is not empty has another lease of the container.
        std::fs::remove_dir(self.dir.join(endpoint.container.as_str())).ok();
        Ok(())
    }

    /// Returns whose leases of a network are not those of these containers' interfaces.
    pub(crate) fn stale(&self, network: &str, valid: &[(String, String)]) -> Vec<Endpoint> {
        let is_stale = |one: &Endpoint| {
            let is =
                |(id, name): &(String, String)| id == one.container.as_str() && name == one.ifname.as_str();
            one.network.as_str() == network && !valid.iter().any(is)
        };
        self.all().into_iter().map(|lease| lease.endpoint).filter(is_stale).collect()
    }

    /// Returns this boot's leases. What earlier boots have left is removed: those containers are gone.
    pub(crate) fn all(&self) -> Vec<Lease> {
        let mut leases = Vec::new();
        for dir in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            for file in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
                match self.read(&file.path()) {
                    Some(lease) => leases.push(lease),
                    None => drop(std::fs::remove_file(file.path())),
                }
            }
        }
        leases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(container: &str) -> Lease {
        Lease {
            schema: document::SCHEMA,
            boot: boot::id().unwrap(),
            endpoint: Endpoint {
                network: "n".parse().unwrap(),
                container: container.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            netns: "/run/netns/c".into(),
            namespace: "1:2@3".into(),
            mac: "02:00:00:00:00:01".into(),
            server_mac: "02:00:00:00:00:02".into(),
            args: String::new(),
            conf: "{}".into(),
            since: 1000,
            terms: Terms {
                address: "10.0.0.9/24".parse().unwrap(),
                server: [10, 0, 0, 1].into(),
                renew: 40,
                rebind: 70,
                lease: 80,
                router: Some([10, 0, 0, 1].into()),
                routes: vec![("0.0.0.0/0".parse().unwrap(), [10, 0, 0, 1].into())],
                dns: vec![[10, 0, 0, 2].into()],
                domain: Some("a.b".into()),
                search: vec!["c.d".into()],
                mtu: Some(1280),
            },
        }
    }

    #[test]
    fn time_asks_for_one_thing_after_the_other() {
        let secs = Duration::from_secs;
        for (now, due) in [
            (0, Due::Nothing(secs(40))),
            (1000, Due::Nothing(secs(40))),
            (1039, Due::Nothing(secs(1))),
            (1040, Due::Renewal(secs(30))),
            (1069, Due::Renewal(secs(1))),
            (1070, Due::Rebinding(secs(10))),
            (1080, Due::Expiry),
            (u64::MAX, Due::Expiry),
        ] {
            assert_eq!(lease("c").due(now), due, "{now}");
        }
    }

    #[test]
    fn a_lease_comes_back_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(&Root::new(Some(dir.path().into())));
        let (one, two) = (lease("one"), Lease { boot: "another".into(), ..lease("two") });
        leases.write(&one).unwrap();
        leases.write(&two).unwrap();
        assert_eq!(leases.get(&one.endpoint).as_ref(), Some(&one));
        assert_eq!(leases.get(&two.endpoint), None, "another boot's");
        assert_eq!(leases.all(), std::slice::from_ref(&one));
        assert_eq!(leases.stale("n", &[]), std::slice::from_ref(&one.endpoint));
        assert!(
            leases.stale("m", &[]).is_empty()
                && leases.stale("n", &[("one".into(), "eth0".into())]).is_empty()
        );
        assert_eq!(leases.stale("n", &[("one".into(), "eth1".into())]).len(), 1);
        leases.remove(&one.endpoint).unwrap();
        leases.remove(&one.endpoint).unwrap();
        assert_eq!(leases.get(&one.endpoint), None);
        assert!(!dir.path().join("run/weft/dhcp/one").exists());
    }

    #[test]
    fn the_result_has_all_of_the_terms() {
        let result = lease("c").result(Some(50));
        assert_eq!(result.ips[0].address.to_string(), "10.0.0.9/24");
        assert_eq!((result.routes[0].priority, result.routes[0].mtu), (Some(50), Some(1280)));
        assert_eq!(
            (result.dns.nameservers.map(|list| list.len()), result.dns.domain.as_deref()),
            (Some(1), Some("a.b"))
        );
    }
}
