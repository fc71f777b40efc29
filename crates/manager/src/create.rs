//! `weft network create`.

use std::collections::BTreeMap;
use std::io::Read;

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_cni::json::get;
use weft_cni::{ComposeRequest, ComposedSubnet, Dns};
use weft_model::{NetworkId, NetworkName};
use weft_state::document::SCHEMA;
use weft_state::time;

use crate::drivers::{self, DriverAbout, plugin_of};
use crate::locks::Pools;
use crate::network::{About, Ipam, Network};
use crate::pools::{self, Pool, Taken, overlap};
use crate::routes::{self, Route};
use crate::subnets::Wanted;
use crate::{Error, Manager, host, predefined};

/// The option of drivers that masquerade which says who does it.
const BACKEND: &str = "masquerade-backend";

/// A network to create.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// Its name.
    pub name: String,
    /// Its driver, if not the usual one.
    pub driver: Option<String>,
    /// Its subnets and what belongs to them.
    pub wanted: Wanted,
    /// Whether containers get IPv4 addresses, if that was said.
    pub ipv4: Option<bool>,
    /// Whether containers get IPv6 addresses, if that was said.
    pub ipv6: Option<bool>,
    /// Whether the network is cut off from the outside.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Name servers for the containers.
    pub dns: Vec<String>,
}

/// The networks and routes a new subnet must keep clear of.
pub(crate) struct Surroundings {
    networks: Vec<(NetworkName, IpNetwork)>,
    routes: Vec<Route>,
}

impl Manager {
    /// Creates a network and returns it. Nothing is left behind if that fails.
    ///
    /// # Errors
    ///
    /// When the name is taken, the driver refuses, or the subnets do not fit.
    pub fn create(&self, request: &Create) -> Result<Network, Error> {
        self.create_telling(request, &mut |_| ())
    }

    /// Does what [`create`](Self::create) does, and tells what it waits for where that is other hosts.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_telling(&self, request: &Create, said: &mut dyn FnMut(&str)) -> Result<Network, Error> {
        let name = new_name(&request.name)?;
        let driver = plugin_of(request.driver.as_deref().unwrap_or(&self.config.driver));
        if let Some(shared) = self.create_shared(request, driver, said)? {
            return Ok(shared);
        }
        let subnets = request.wanted.matched()?;
        let families = Families::of(request)?;
        let pools = self.locks.pools()?;
        self.alone_to_make(&name, || {
            if self.store.path(&name).exists() {
                return Err(Error::NameTaken(name.clone()));
            }
            let (described, about) = self.drivers.driver(driver)?;
            self.check_instances(driver, &about)?;

            let mut network = Network { name: name.clone(), about: self.about(request, driver)? };
            network.about.ipam.subnets = match about.addressing {
                true => self.subnets(&pools, &network, subnets, families)?,
                // A driver without addresses says itself what it thinks of a subnet.
                false => subnets,
            };
            let plugins = self.compose(&network, &described)?;
            self.check_bridges(&network.name, &plugins)?;
            self.write_new(&network, &plugins)?;
            Ok(network)
        })
    }

    /// Makes a network with its lock held. Where that fails, the lock's file goes, too.
    pub(crate) fn alone_to_make<T>(
        &self,
        name: &NetworkName,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let alone = self.locks.alone(name)?;
        let outcome = make();
        if outcome.is_err() && !self.store.path(name).exists() {
            // The error being returned says more than one about an empty file.
            alone.finish().ok();
        }
        outcome
    }

    /// Refuses plugins with a bridge that is another network's: each would take the other's addresses and
    /// rules for its own.
    fn check_bridges(&self, name: &NetworkName, plugins: &[Value]) -> Result<(), Error> {
        let part = |plugin: &Value| {
            let text = |key: &str| Some(get(plugin, key)?.as_str()?.to_owned());
            Some((text("type")?, text("bridge")?, get(plugin, "vlan").cloned()))
        };
        let mut others: Vec<(NetworkName, _)> = Vec::new();
        for stored in self.store.known()? {
            let parts = stored.list.plugins.iter().filter_map(part);
            others.extend(parts.map(|part| (stored.network.name.clone(), part)));
        }
        let first: Option<NetworkName> = predefined::NAMES[0].parse().ok();
        if let Some(first) = first.filter(|first| !self.store.path(first).exists()) {
            // Nobody has used it yet, but its bridge is its own all the same.
            others.push((first, (predefined::NAMES[0].into(), predefined::BRIDGE.into(), None)));
        }
        for part in plugins.iter().filter_map(part) {
            if let Some((network, _)) = others.iter().find(|(other, taken)| other != name && *taken == part) {
                return Err(Error::BridgeTaken { bridge: part.1, network: network.clone() });
            }
        }
        Ok(())
    }

    pub(crate) fn about(&self, request: &Create, driver: &str) -> Result<About, Error> {
        Ok(About {
            schema: SCHEMA,
            id: random_id()?,
            created: time::now(),
            driver: driver.into(),
            internal: request.internal,
            clustered: false,
            labels: request.labels.clone(),
            options: request.options.clone(),
            ipam: Ipam::default(),
            dns: Dns {
                nameservers: (!request.dns.is_empty()).then(|| request.dns.clone()),
                ..Dns::default()
            },
        })
    }

    /// DOCKER: there is one `host` and one `null` network, and that is the predefined one.
    fn check_instances(&self, driver: &str, about: &DriverAbout) -> Result<(), Error> {
        let Some(limit) = about.instances else { return Ok(()) };
        let (stored, _) = self.store.all();
        let custom = |network: &Network| network.about.driver == driver && !predefined::is(&network.name);
        let custom = stored.iter().filter(|stored| custom(&stored.network)).count();
        let built_in = predefined::NAMES.iter().filter(|name| **name == driver).count();
        if custom + built_in >= limit { Err(Error::SingleInstance(driver.into())) } else { Ok(()) }
    }

    /// Returns the subnets of a new network: those given, checked, or free ones for each family wanted.
    fn subnets(
        &self,
        pools: &Pools,
        network: &Network,
        given: Vec<ComposedSubnet>,
        families: Families,
    ) -> Result<Vec<ComposedSubnet>, Error> {
        let surroundings = self.surroundings(pools)?;
        let apart = is_apart(&network.about.options);
        for subnet in given.iter().filter(|_| !apart) {
            // An existing interface the network is to use has its subnet already.
            surroundings.check(&subnet.subnet, |route| is_named(network, route))?;
        }
        let mut subnets = given;
        for (v4, wanted) in [(true, families.v4), (false, families.v6)] {
            if wanted && !subnets.iter().any(|subnet| subnet.subnet.is_ipv4() == v4) {
                let free = self.free_subnet(&surroundings, &subnets, network, v4)?;
                let wanted = Wanted { subnets: vec![free], ..Wanted::default() };
                subnets.extend(wanted.matched()?);
            }
        }
        if subnets.is_empty() {
            return Err(Error::NoFamily);
        }
        // People expect IPv4 first, whatever the order on the command line.
        subnets.sort_by_key(|subnet| subnet.subnet.is_ipv6());
        Ok(subnets)
    }

    fn free_subnet(
        &self,
        surroundings: &Surroundings,
        own: &[ComposedSubnet],
        network: &Network,
        v4: bool,
    ) -> Result<IpNetwork, Error> {
        if let Some(own) = surroundings.own_subnet(network, v4) {
            return Ok(own);
        }
        let mut taken: Vec<IpNetwork> =
            surroundings.taken().chain(own.iter().map(|own| own.subnet)).collect();
        let pools = self.pools(v4);
        // The first network is `bridge`, even if nobody has used it yet.
        if v4 && !predefined::is(&network.name) && !self.bridge_has_file() {
            taken.extend(taken.iter().copied().collect::<Taken>().first_free(&pools, true));
        }
        taken.into_iter().collect::<Taken>().first_free(&pools, v4).ok_or(Error::Exhausted)
    }

    fn pools(&self, v4: bool) -> Vec<Pool> {
        let mut pools = self.config.pools.clone();
        if !v4 && !pools.iter().any(|pool| pool.base.is_ipv6()) {
            pools.push(pools::unique_local(crate::network::hash(&[&host::machine_id()])));
        }
        pools
    }

    fn bridge_has_file(&self) -> bool {
        predefined::NAMES[0].parse().is_ok_and(|bridge| self.store.path(&bridge).exists())
    }

    pub(crate) fn surroundings(&self, _: &Pools) -> Result<Surroundings, Error> {
        self.survey()
    }

    pub(crate) fn survey(&self) -> Result<Surroundings, Error> {
        let subnets = |network: Network| {
            let name = network.name.clone();
            network.subnets().map(|subnet| (name.clone(), subnet)).collect::<Vec<_>>()
        };
        let networks = self.store.known()?.into_iter().map(|stored| stored.network);
        let networks =
            networks.filter(|network| !is_apart(&network.about.options)).flat_map(subnets).collect();
        Ok(Surroundings { networks, routes: routes::of_host() })
    }

    /// Asks the driver for a network's plugins.
    pub(crate) fn compose(&self, network: &Network, about: &drivers::About) -> Result<Vec<Value>, Error> {
        let mut options = about.canonical(&network.about.options);
        if let Some(backend) = self.config.firewall.as_ref().filter(|_| about.has_option(BACKEND)) {
            options.entry(BACKEND.into()).or_insert_with(|| backend.clone());
        }
        let request = ComposeRequest {
            name: network.name.clone(),
            id: network.about.id,
            internal: network.about.internal,
            subnets: network.about.ipam.subnets.clone(),
            dns: network.about.dns.clone(),
            options,
        };
        self.drivers.compose(&network.about.driver, &request)
    }

    /// Gives a predefined network its file, unless it has one.
    ///
    /// # Errors
    ///
    /// When its driver lets no container be connected, or as for any new network.
    pub(crate) fn materialize(&self, name: &NetworkName) -> Result<(), Error> {
        if !predefined::is(name) || self.store.path(name).exists() {
            return Ok(());
        }
        let mut network = predefined::network(name);
        let (described, about) = self.drivers.driver(&network.about.driver)?;
        if !about.attachable {
            let why =
                about.refusal.unwrap_or_else(|| format!("no container can be connected to network {name}"));
            return Err(Error::Unattachable { why, hint: about.hint });
        }
        let pools = self.locks.pools()?;
        self.alone_to_make(name, || {
            if self.store.path(name).exists() {
                return Ok(());
            }
            network.about.created = time::now();
            if about.addressing {
                let v4 = Families { v4: true, v6: false };
                network.about.ipam.subnets = self.subnets(&pools, &network, Vec::new(), v4)?;
            }
            let plugins = self.compose(&network, &described)?;
            self.write_new(&network, &plugins)
        })
    }

    pub(crate) fn write_new(&self, network: &Network, plugins: &[Value]) -> Result<(), Error> {
        self.store.write(network, plugins)?;
        // Without the mark the first connection looks for leftovers in vain, that is all.
        self.sweeps.mark(&network.name).ok();
        Ok(())
    }

    /// Returns a predefined network without a file as it would be made now.
    pub(crate) fn imagined(&self, name: &NetworkName) -> Network {
        let mut network = predefined::network(name);
        if name.as_str() == predefined::NAMES[0]
            && let Ok(free) =
                self.survey().and_then(|surroundings| self.free_subnet(&surroundings, &[], &network, true))
        {
            let wanted = Wanted { subnets: vec![free], ..Wanted::default() };
            network.about.ipam.subnets = wanted.matched().unwrap_or_default();
        }
        network
    }
}

/// Which addresses containers get.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    /// IPv4 unless it was refused or only IPv6 subnets were given; IPv6 if it was asked for.
    ///
    /// A subnet of a family that was refused is a contradiction.
    pub(crate) fn of(request: &Create) -> Result<Self, Error> {
        let given = &request.wanted.subnets;
        let refused = |subnet: &&IpNetwork| {
            let asked = if subnet.is_ipv4() { request.ipv4 } else { request.ipv6 };
            asked == Some(false)
        };
        if let Some(subnet) = given.iter().find(refused) {
            return Err(Error::RefusedFamily(*subnet));
        }
        let only_v6 = !given.is_empty() && given.iter().all(IpNetwork::is_ipv6);
        Ok(Self {
            v4: request.ipv4.unwrap_or(!only_v6 || request.ipv6.is_some()),
            v6: request.ipv6.unwrap_or(false),
        })
    }
}

impl Surroundings {
    pub(crate) fn taken(&self) -> impl Iterator<Item = IpNetwork> {
        let networks = self.networks.iter().map(|(_, subnet)| *subnet);
        networks.chain(self.routes.iter().map(|route| route.to))
    }

    /// Returns the subnet that a predefined network's bridge still has from before the network's file was
    /// removed: with another one the bridge could not be used.
    fn own_subnet(&self, network: &Network, v4: bool) -> Option<IpNetwork> {
        let of_bridge = |route: &&Route| {
            let usable = route.via.is_none() && route.to.is_ipv4() == v4 && pools::host_mask(&route.to) > 1;
            usable && predefined::is(&network.name) && is_named(network, route)
        };
        let free = |subnet: &IpNetwork| !self.networks.iter().any(|(_, other)| overlap(other, subnet));
        self.routes.iter().filter(of_bridge).map(|route| route.to).find(free)
    }

    /// Refuses a subnet that is not free, and says who has it. Routes that are `own` are in nobody's way.
    pub(crate) fn check(&self, subnet: &IpNetwork, own: impl Fn(&Route) -> bool) -> Result<(), Error> {
        if let Some((owner, existing)) = self.networks.iter().find(|(_, other)| overlap(other, subnet)) {
            let (subnet, network, existing) = (*subnet, owner.clone(), *existing);
            return Err(Error::Overlap { subnet, network, existing });
        }
        let in_the_way = |route: &&Route| overlap(&route.to, subnet) && !own(route);
        match self.routes.iter().find(in_the_way) {
            Some(route) => Err(Error::Routed { subnet: *subnet, route: route.clone() }),
            None => Ok(()),
        }
    }
}

/// Returns whether a network lives in a namespace of its own, where no other network and no route of the host is in its
/// way: what a driver's option `isolated` means, whatever the driver.
pub(crate) fn is_apart(options: &BTreeMap<String, String>) -> bool {
    matches!(
        options.get("isolated").map(String::as_str),
        Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True")
    )
}

/// Returns whether a network's options name the interface of a route.
fn is_named(network: &Network, route: &Route) -> bool {
    network.about.options.values().any(|value| *value == route.dev)
}

pub(crate) fn new_name(text: &str) -> Result<NetworkName, Error> {
    if predefined::RESERVED.contains(&text) {
        return Err(Error::Reserved(text.into()));
    }
    let bad = |why: String| Error::BadName { what: "network name", name: text.into(), why };
    text.parse().map_err(|error: weft_model::IdError| bad(error.to_string()))
}

/// Returns an id nobody has.
fn random_id() -> Result<NetworkId, Error> {
    let mut bytes = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").map_err(Error::Random)?;
    source.read_exact(&mut bytes).map_err(Error::Random)?;
    Ok(NetworkId::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(subnets: &[&str], ipv4: Option<bool>, ipv6: Option<bool>) -> (bool, bool) {
        let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        let wanted = Wanted { subnets, ..Wanted::default() };
        let families = Families::of(&Create { wanted, ipv4, ipv6, ..Create::default() }).unwrap();
        (families.v4, families.v6)
    }

    #[test]
    fn families_follow_from_what_was_said() {
        assert_eq!(families(&[], None, None), (true, false));
        assert_eq!(families(&[], None, Some(true)), (true, true));
        assert_eq!(families(&["fd01::/64"], None, None), (false, false), "the subnet given is all");
        assert_eq!(families(&["fd01::/64"], None, Some(true)), (true, true));
        assert_eq!(families(&["fd01::/64"], Some(true), None), (true, false));
        assert_eq!(families(&[], Some(false), Some(true)), (false, true));
        assert_eq!(families(&["10.1.0.0/24", "fd01::/64"], None, None), (true, false));
    }

    #[test]
    fn overlaps_name_what_is_in_the_way() {
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let route =
            Route { to: net("10.0.0.0/8"), via: Some("10.8.0.1".parse().unwrap()), dev: "tun0".into() };
        let surroundings =
            Surroundings { networks: vec![("n1".parse().unwrap(), net("10.1.0.0/16"))], routes: vec![route] };
        let mut network = predefined::network(&"bridge".parse().unwrap());
        let error = surroundings.check(&net("10.1.2.0/24"), |route| is_named(&network, route)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid pool request: Pool overlaps with other one on this address space: \
             10.1.2.0/24 conflicts with network n1 (10.1.0.0/16)"
        );
        assert_eq!(error.kind(), crate::Kind::Conflict);
        let error = surroundings.check(&net("10.2.0.0/24"), |route| is_named(&network, route)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnet 10.2.0.0/24 overlaps the host's route 10.0.0.0/8 via 10.8.0.1 dev tun0"
        );
        network.about.options.insert("bridge".into(), "tun0".into());
        assert!(surroundings.check(&net("10.2.0.0/24"), |route| is_named(&network, route)).is_ok());
        assert!(surroundings.check(&net("192.168.0.0/24"), |route| is_named(&network, route)).is_ok());
    }

    #[test]
    fn a_bridge_that_is_there_keeps_its_subnet() {
        let route = |to: &str, dev: &str| Route { to: to.parse().unwrap(), via: None, dev: dev.into() };
        let routes = vec![
            route("10.9.0.0/16", "eth0"),
            route("fd01::1/128", predefined::BRIDGE),
            route("172.18.0.0/16", predefined::BRIDGE),
            route("172.19.0.0/16", predefined::BRIDGE),
        ];
        let mut surroundings = Surroundings {
            networks: vec![("n1".parse().unwrap(), "172.18.0.0/16".parse().unwrap())],
            routes,
        };
        let network = predefined::network(&"bridge".parse().unwrap());
        assert_eq!(surroundings.own_subnet(&network, true), "172.19.0.0/16".parse().ok());
        assert_eq!(surroundings.own_subnet(&network, false), None);
        let custom = Network { name: "n2".parse().unwrap(), ..network.clone() };
        assert_eq!(surroundings.own_subnet(&custom, true), None);
        surroundings.routes.truncate(1);
        assert_eq!(surroundings.own_subnet(&network, true), None);
    }
}
