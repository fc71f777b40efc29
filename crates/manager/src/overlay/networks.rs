//! Networks of a cluster, as files of this host.
//!
//! INVARIANT: only the agent makes and removes these files. Whoever runs `weft` asks the agent, without holding any
//! lock: the agent takes the same ones.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;
use sha2::{Digest, Sha256};
use weft_cni::json::get;
use weft_cni::{Code, ComposedSubnet, Dns, Failure};
use weft_model::{NetworkId, NetworkName};
use weft_runtime::{CallError, ChainError};
use weft_state::document::SCHEMA;

use super::AgentError;
use super::protocol::{BlockUsage, Made, NewNetwork, Request};
use crate::create::{Create, Families, is_apart, new_name};
use crate::network::{About, Ipam, Network};
use crate::pools::{address, bounds};
use crate::store::Stored;
use crate::{Error, Manager, drivers};

/// A network of the cluster that this host is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Its name.
    pub name: NetworkName,
    /// Its id in the cluster.
    pub id: [u8; 16],
    /// Its driver.
    pub driver: String,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// Whether it is cut off from the outside.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its subnets: those of all hosts together.
    pub subnets: Vec<IpNetwork>,
}

impl Shared {
    /// Returns the id that the network has on every host. It begins with the one it has in the cluster.
    fn id(&self) -> NetworkId {
        let mut id = [0; 32];
        id[..16].copy_from_slice(&self.id);
        id[16..].copy_from_slice(&Sha256::digest(self.id)[..16]);
        NetworkId::new(id)
    }

    fn about(&self) -> About {
        let first = |subnet: &IpNetwork| address(bounds(subnet).0 + 1, subnet.is_ipv4());
        let subnet = |subnet: &IpNetwork| ComposedSubnet {
            subnet: *subnet,
            gateway: first(subnet),
            range: None,
            aux: BTreeMap::new(),
        };
        About {
            schema: SCHEMA,
            id: self.id(),
            created: self.created.clone(),
            driver: self.driver.clone(),
            internal: self.internal,
            clustered: true,
            labels: self.labels.clone(),
            options: self.options.clone(),
            ipam: Ipam { subnets: self.subnets.iter().map(subnet).collect() },
            dns: Dns::default(),
        }
    }
}

impl Manager {
    /// Gives a network of the cluster its file on this host, or brings the file up to date. Returns whether anything
    /// was written.
    ///
    /// # Errors
    ///
    /// When another network has the name or a subnet of it, or the driver
    /// refuses.
    pub fn adopt(&self, shared: &Shared) -> Result<bool, Error> {
        let network = Network { name: shared.name.clone(), about: shared.about() };
        let known = self.store.load(&shared.name).ok().flatten();
        if known.as_ref().is_some_and(|known| known.network.about.id != network.about.id) {
            return Err(Error::NameTaken(shared.name.clone()));
        }
        let (described, _) = self.drivers.driver(&shared.driver)?;
        let Some(known) = known else {
            let pools = self.locks.pools()?;
            return self.alone_to_make(&shared.name, || {
                let surroundings = self.surroundings(&pools)?;
                for subnet in shared.subnets.iter().filter(|_| !is_apart(&shared.options)) {
                    // Whoever made the network's devices has looked at the routes, before there were its own.
                    surroundings.check(subnet, |_| true)?;
                }
                let plugins = self.compose(&network, &described)?;
                self.write_new(&network, &plugins)?;
                Ok(true)
            });
        };
        self.update(&known, &network, &described)
    }

    /// A connection in the making has read the old file, whose ranges are still this host's.
    fn update(&self, known: &Stored, network: &Network, described: &drivers::About) -> Result<bool, Error> {
        let plugins = self.compose(network, described)?;
        if known.network == *network && known.list.plugins == plugins {
            return Ok(false);
        }
        self.store.write(network, &plugins)?;
        Ok(true)
    }

    /// Removes a network of the cluster from this host. Returns what is left of it.
    ///
    /// # Errors
    ///
    /// When containers are connected or a plugin fails; with `force` a plugin's failure is in nobody's way.
    pub fn abandon(&self, name: &NetworkName, force: bool) -> Result<Vec<Error>, Error> {
        match self.rm_unused(name, force) {
            Err(Error::NoNetwork(_)) => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// Returns the networks of a cluster that have a file on this host, with their ids in the cluster.
    ///
    /// # Errors
    ///
    /// When the directory of networks cannot be read.
    pub fn shared_networks(&self) -> Result<Vec<(NetworkName, [u8; 16])>, Error> {
        let mut shared = Vec::new();
        for stored in self.store.known()? {
            if stored.network.about.clustered {
                let mut id = [0; 16];
                let text = stored.network.about.id.to_string();
                for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(digits).unwrap_or_default();
                    *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
                }
                shared.push((stored.network.name, id));
            }
        }
        Ok(shared)
    }

    /// Returns who is connected to a network on this host: container, interface and addresses.
    pub fn connected_to(&self, name: &NetworkName) -> Vec<weft_state::attachment::Record> {
        self.records.of_network(name)
    }

    /// Returns the subnets and routes of this host that a network of the cluster must keep clear of.
    ///
    /// # Errors
    ///
    /// When the networks cannot be read.
    pub fn surroundings_of(&self) -> Result<Vec<IpNetwork>, Error> {
        Ok(self.survey()?.taken().collect())
    }

    /// Creates a network on all hosts of the cluster, if this host is of one and the driver's networks are; `None`
    /// otherwise.
    pub(crate) fn create_shared(
        &self,
        request: &Create,
        driver: &str,
        said: &mut dyn FnMut(&str),
    ) -> Result<Option<Network>, Error> {
        if !self.agent().has_joined() {
            return Ok(None);
        }
        let (described, about) = self.drivers.driver(driver)?;
        if !about.clustered {
            return Ok(None);
        }
        let name = new_name(&request.name)?;
        let subnets = request.wanted.matched()?;
        let wanted = &request.wanted;
        if !(wanted.gateways.is_empty() && wanted.ranges.is_empty() && wanted.aux.is_empty()) {
            return Err(Error::SharedRange(name));
        }
        check_options(&described, &request.options)?;
        let families = Families::of(request)?;
        if self.store.path(&name).exists() {
            return Err(Error::NameTaken(name));
        }
        let surroundings = self.survey()?;
        for subnet in subnets.iter().filter(|_| !is_apart(&request.options)) {
            surroundings.check(&subnet.subnet, |_| false)?;
        }
        let new = NewNetwork {
            name: name.to_string(),
            subnets: subnets.iter().map(|subnet| subnet.subnet).collect(),
            ipv4: families.v4,
            ipv6: families.v6,
            internal: request.internal,
            labels: request.labels.clone(),
            options: described.canonical(&request.options),
            avoid: surroundings.taken().collect(),
        };
        let made: Made = self.agent().ask(Request::Create(Box::new(new)), said)?;
        let missing = || Error::NoNetwork(made.network.clone());
        Ok(Some(self.store.load(&name)?.ok_or_else(missing)?.network))
    }

    /// Removes a network from all hosts of the cluster.
    pub(crate) fn remove_shared(&self, name: &NetworkName, force: bool) -> Result<Vec<Error>, Error> {
        let (live, errors) = self.sweep(name);
        if let Some(error) = errors.into_iter().next().filter(|_| !force) {
            return Err(error);
        }
        if !live.is_empty() {
            return Err(Error::InUse { network: name.clone(), holders: Self::holders(&live) });
        }
        let request = Request::Remove { network: name.to_string(), force };
        self.agent().ask::<Value>(request, &mut |_| ()).map(|_| Vec::new())
    }

    /// Sees to it that this host may give out addresses that a person asks for: those outside its blocks are
    /// borrowed.
    pub(crate) fn borrow_addresses(
        &self,
        name: &NetworkName,
        container: &str,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        let Some(stored) = self.store.load(name)?.filter(|stored| stored.network.about.clustered) else {
            return Ok(());
        };
        let ranges = ranges(&stored);
        let subnets: Vec<IpNetwork> = stored.network.subnets().collect();
        let foreign = |ip: &&IpAddr| {
            subnets.iter().any(|subnet| subnet.contains(**ip))
                && !ranges.iter().any(|(first, last)| (first..=last).contains(ip))
        };
        let addresses: Vec<IpAddr> = addresses.iter().filter(foreign).copied().collect();
        if addresses.is_empty() {
            return Ok(());
        }
        let (network, container) = (name.to_string(), container.to_owned());
        let request = Request::Borrow { network, addresses, container };
        self.agent().ask::<Value>(request, &mut |_| ()).map(drop)
    }

    /// Gets another block when an ADD failed because the host's are full; returns whether it is worth a second try. If not, the
    /// error has the agent's reason as well.
    pub(crate) fn got_a_block(&self, name: &NetworkName, error: &mut Error) -> bool {
        let Error::Chain(ChainError::Plugin { problem, .. }) = error else { return false };
        let CallError::Refused(failure) = &mut problem.cause else { return false };
        let shared =
            || self.store.load(name).ok().flatten().is_some_and(|stored| stored.network.about.clustered);
        if failure.code != Code::TryAgainLater || !shared() {
            return false;
        }
        let outcome =
            self.agent().ask::<Value>(Request::NeedBlock { network: name.to_string() }, &mut |_| ());
        if let Err(Error::Agent(error)) = &outcome
            && let AgentError::Refused(refusal) = &**error
        {
            let hint = refusal.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
            *failure = failure.clone().with_details(format!("{}{hint}", refusal.why));
        }
        outcome.is_ok()
    }

    /// Returns a network's blocks on all hosts, as the agent knows them; nothing when it does not answer.
    pub(crate) fn blocks(&self, network: &Network) -> Vec<BlockUsage> {
        if !network.about.clustered {
            return Vec::new();
        }
        let request = Request::Blocks { network: network.name.to_string() };
        self.agent().ask(request, &mut |_| ()).unwrap_or_default()
    }

    /// Writes the rules, devices and routes of every network of the cluster's driver again.
    ///
    /// # Errors
    ///
    /// When the networks cannot be read.
    pub fn reload_clusters(&self) -> Result<Vec<Error>, Error> {
        let mut errors = Vec::new();
        for stored in self.store.known()? {
            let driver = &stored.network.about.driver;
            if self.drivers.driver(driver).is_ok_and(|(_, about)| about.clustered) {
                errors.extend(self.reload(Some(stored.network.name.as_str()))?);
            }
        }
        Ok(errors)
    }
}

/// Refuses options that the driver does not have, before other hosts hear of them.
fn check_options(about: &drivers::About, options: &BTreeMap<String, String>) -> Result<(), Error> {
    let options = about.canonical(options);
    let Some(unknown) = options.keys().find(|key| !about.has_option(key)) else { return Ok(()) };
    let known: Vec<&str> = about.options.iter().map(|option| option.name.as_str()).collect();
    let failure =
        Failure::text(Code::InvalidConfig, format!("the {} driver has no option {unknown:?}", about.kind));
    let failure = failure.with_hint(Some(format!("its options are {}", known.join(", "))));
    Err(Error::Refused { kind: about.kind.clone(), failure })
}

/// Returns what this host gives addresses out of, the first and the last of each range. What was borrowed is a range of one
/// address in the whole network's subnet.
fn ranges(stored: &Stored) -> Vec<(IpAddr, IpAddr)> {
    let sets =
        stored.list.plugins.iter().filter_map(|plugin| get(get(plugin, "ipam")?, "ranges")?.as_array());
    let range = |range: &Value| {
        let subnet: IpNetwork = get(range, "subnet")?.as_str()?.parse().ok()?;
        let end = |key, default: IpAddr| match get(range, key) {
            Some(end) => end.as_str()?.parse().ok(),
            None => Some(default),
        };
        Some((end("rangeStart", subnet.network())?, end("rangeEnd", subnet.broadcast())?))
    };
    sets.flatten().filter_map(Value::as_array).flatten().filter_map(range).collect()
}
