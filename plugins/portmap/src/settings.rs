//! What the plugin does for one call.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use weft_cni::{Code, Failure, NetworkResult};
use weft_firewall::{Backend, Occupied};
use weft_model::port::Publication;
use weft_model::{Endpoint, IfName, NetworkName};
use weft_plan::Port;
use weft_plugin::{Call, Verb};
use weft_state::ports::Books;

use crate::conf::{Conf, ConfError, Rules};
use crate::fold::fold;
use crate::host::{self, HostError};
use crate::resolve::{Addresses, ResolveError, Wanted, resolve};

/// What the plugin will do. What depends on the attachment is empty until [`Settings::settle`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The network's name.
    pub network: NetworkName,
    /// What the configuration says.
    pub rules: Rules,
    /// Where the firewall keeps its books.
    pub folders: Folders,
    /// What the plugins before this one made.
    previous: Option<NetworkResult>,
    /// Whether something is about to be published, and not only looked at.
    adds: bool,
    /// Whether what was published goes. The books say what that was.
    pub dismantles: bool,
    /// What is published.
    pub wanted: Wanted,
    /// What a choice passes over.
    pub occupied: Vec<Occupied>,
    /// The container's subnets.
    pub subnets: Vec<IpNetwork>,
    /// The link that packets from 127.0.0.1 take to the container, if published ports are called from there.
    pub loopback_link: Option<IfName>,
    /// The same for `::1`.
    pub loopback6_link: Option<IfName>,
    /// The bridge port that has to send frames back where they came from.
    pub hairpin_port: Option<(IfName, Port)>,
    /// Whether nothing is asked for and nothing was.
    pub is_idle: bool,
}

/// Where the firewall keeps its books.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Published ports.
    pub ports: PathBuf,
    /// Lock files.
    pub locks: PathBuf,
    /// What networks share.
    pub claims: PathBuf,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal, or ADD or CHECK lacks the previous result.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let dismantles = call.dismantles();
        let mut rules = match rules(call, dismantles) {
            // What is to be taken apart is in the books. A configuration that nobody could have used for an ADD is
            // no reason to leave it.
            Err(_) if dismantles => settle(Conf::default(), || Backend::Weft)?,
            // CNI: the words are those of the reference plugin.
            Err(failure) if call.connects() => {
                return Err(failure.while_doing("failed to parse config"));
            }
            rules => rules?,
        };
        if call.verb == Verb::Status {
            rules.backend.ready().map_err(|error| {
                let hint = error.hint();
                Failure::new(Code::NotAvailable, error).with_hint(hint)
            })?;
        }
        let previous = match call.verb {
            Verb::Add => Some(call.conf.prev_result()?.ok_or_else(not_chained)?),
            Verb::Check => Some(call.required_prev_result()?),
            _ => None,
        };
        // The manager passes on what somebody typed, and withdraws it as it was typed. The others' layouts have a rule for each port.
        if rules.backend == Backend::Weft && weft_cni::json::get(&call.conf.args, "weft").is_none() {
            rules.specs = fold(rules.specs);
        }
        Ok(Self {
            network: call.conf.name.clone(),
            rules,
            folders: Folders {
                ports: call.root.ports_dir(),
                locks: call.root.locks_dir(),
                claims: call.root.masquerade_dir(),
            },
            previous,
            adds: call.verb == Verb::Add,
            dismantles,
            wanted: Wanted::default(),
            occupied: Vec::new(),
            subnets: Vec::new(),
            loopback_link: None,
            loopback6_link: None,
            hairpin_port: None,
            is_idle: false,
        })
    }

    /// Says what is published for this attachment, and refuses what cannot be.
    ///
    /// # Errors
    ///
    /// If the container lacks an address for it, or the host is in the way.
    pub fn fit(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        let books = Books::at(&self.folders.ports, &self.folders.locks);
        // What a process that was killed has begun is undone by the next one, whatever that is asked for.
        if self.rules.specs.is_empty() && !books.knows(&endpoint.container, &endpoint.ifname) {
            self.is_idle = true;
            return Ok(());
        }
        let Some(previous) = &self.previous else { return Ok(()) };
        let before = books.owner(&endpoint.container, &endpoint.ifname);
        // Whom the reference plugin connected has none of what an ADD of ours makes for the network.
        let is_ours = self.adds || before.is_some();
        let addresses = Addresses::of(previous, &endpoint.ifname);
        self.wanted = resolve(&self.rules, &addresses).map_err(cannot)?;
        self.subnets.clone_from(&addresses.subnets);
        if self.adds {
            let known = before.map(|owner| owner.publications).unwrap_or_default();
            self.look_around(&known, &books, endpoint).map_err(in_the_way)?;
            self.occupied = host::occupied(&self.wanted.choices).map_err(in_the_way)?;
        }
        if self.rules.snat && is_ours {
            let called = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| self.called_from_loopback(family));
            [self.loopback_link, self.loopback6_link] = host::links_to(called).map_err(in_the_way)?;
            self.hairpin_port = self.find_hairpin_port().map_err(in_the_way)?;
        }
        Ok(())
    }

    /// Refuses what the host is in the way of. What is published already need not ask again.
    ///
    /// Nor what the container publishes at another interface: podman has a process of its own listen at a container's
    /// ports, so that nobody else takes them, and asks for the same ports at every network.
    fn look_around(
        &self,
        known: &[Publication],
        books: &Books,
        endpoint: &Endpoint,
    ) -> Result<(), HostError> {
        let translated = |one: &&Publication| self.rules.gateways.of(one.target).translates();
        if !self.rules.foreign_hosts {
            host::refuse_foreign(&self.wanted)?;
        }
        let new = self.wanted.publications.iter().filter(translated).filter(|one| !known.contains(one));
        let is_its_own = |one: &Publication, port| {
            let holder = books.holder(one.protocol, one.host, port).ok().flatten();
            holder.is_some_and(|holder| holder.container == endpoint.container)
        };
        host::refuse_listeners(&new.collect::<Vec<_>>(), is_its_own)
    }

    /// Returns the container's address that a port leads to which is called from `127.0.0.1` or, the other family's,
    /// from `::1`: one of all of the host's addresses, or of a loopback address.
    fn called_from_loopback(&self, is_family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let mut targets = self.wanted.targets();
        let called = |(host, target): &(IpAddr, IpAddr)| {
            let reached = host.is_unspecified() || host.is_loopback();
            is_family(host) && reached && self.rules.gateways.of(*target).translates()
        };
        targets.find(called).map(|(_, target)| target)
    }

    fn find_hairpin_port(&self) -> Result<Option<(IfName, Port)>, HostError> {
        let translates = |(_, target)| self.rules.gateways.of(target).translates();
        match &self.previous {
            Some(previous) if self.wanted.targets().any(translates) => host::hairpin_port(previous),
            _ => Ok(None),
        }
    }
}

fn rules(call: &Call, dismantles: bool) -> Result<Rules, Failure> {
    let conf: Conf = call.conf.conf()?;
    // Who carried the rules is in the books; whether there are nf_tables need not be asked.
    settle(conf, || match dismantles {
        true => Backend::Weft,
        false => Backend::usual_of(&call.conf.name, &call.root.masquerade_dir()),
    })
}

fn settle(conf: Conf, usual: impl FnOnce() -> Backend) -> Result<Rules, Failure> {
    conf.settle(usual).map_err(|error| {
        let hint = error.hint();
        Failure::new(Code::InvalidConfig, error).with_hint(hint)
    })
}

impl ConfError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Backend(_) => {
                Some("leave \"backend\" out, or set it to \"nftables\" or \"iptables\"".into())
            }
            _ => None,
        }
    }
}

/// CNI: the words are those of the reference plugin.
fn not_chained() -> Failure {
    let hint = "put it behind a plugin that makes the interface, in a list of plugins";
    Failure::text(Code::InvalidConfig, "must be called as chained plugin").with_hint(Some(hint.into()))
}

fn cannot(error: ResolveError) -> Failure {
    Failure::new(Code::UNFIT, error)
}

fn in_the_way(error: HostError) -> Failure {
    let code = match error {
        HostError::Foreign(_) => Code::UNFIT,
        HostError::Taken { .. } => Code::TAKEN,
        HostError::Kernel { .. } | HostError::Firewall(_) => Code::Internal,
    };
    let hint = error.hint();
    Failure::new(code, error).with_hint(hint)
}
