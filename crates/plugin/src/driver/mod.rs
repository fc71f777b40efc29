//! Drivers: what a network plugin has to say, and the one engine that says the rest.
//!
//! A driver turns its configuration into settings and settings into plans. ADD, CHECK, DEL, GC and
//! STATUS are the same for every driver and live here, once.

mod add;
mod apart;
mod attach;
mod check;
mod compose;
mod del;
mod elsewhere;
mod gc;
mod held;
mod inherited;
mod later;
mod lease;
mod leases;
mod loopback;
mod masquerade;
mod master;
mod mend;
pub mod on_parent;
mod options;
mod result;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_cni::{Code, Failure, Finding, NetworkResult};
use weft_firewall::FirewallError;
use weft_model::{ContainerId, Endpoint};
use weft_netns::{Netns, NetnsError};
use weft_plan::{ApplyError, Cause, Kernel, Place, Plan};
use weft_state::Root;
use weft_state::attachment::Records;
use weft_state::lock::FileLock;
use weft_state::ports::PortsError;

pub use attach::ContainerRequest;
pub use compose::{default_routes, host_local};
pub use elsewhere::attachments_elsewhere;
pub use leases::Leases;
pub use loopback::loopback_addresses;
pub use masquerade::{Masqueraded, masquerade_backend};
pub use master::Master;
pub use mend::{examine_firewall, release_ports, restore_firewall};
pub use options::{Options, bad as bad_option};

use crate::{About, Attachment, Call, ComposeRequest, Plugin};

/// A network driver: a function from a request to a plan.
///
/// The plan comes in two parts, because the links can be built while the IPAM plugin, a process of
/// its own, is still looking for addresses.
pub trait Driver: Sync {
    /// The configuration as meant: every value chosen, every combination legal.
    type Settings;

    /// Returns what `describe` tells.
    fn about(&self) -> &'static About;

    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// If a value or a combination of values is not legal.
    fn settings(&self, call: &Call) -> Result<Self::Settings, Failure>;

    /// Completes the settings with what depends on the attachment, and refuses what cannot be for it. Nothing has
    /// been changed yet. ADD and CHECK only: what DEL and GC take apart is known by its endpoint. Most drivers have
    /// nothing to add.
    ///
    /// # Errors
    ///
    /// If what was asked for does not go with this attachment, or not with the host as it is.
    fn fit(&self, _settings: &mut Self::Settings, _endpoint: &Endpoint) -> Result<(), Failure> {
        Ok(())
    }

    /// Returns the namespace that the network has in the host's place, where its links are: none for most. It is made
    /// if this is an ADD.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn home(&self, _call: &Call) -> Result<Option<Netns>, Failure> {
        Ok(None)
    }

    /// Says why an ADD could not work, or not well, as far as only the driver knows: STATUS. What the kernel and
    /// the IPAM plugin say is asked for besides.
    ///
    /// # Errors
    ///
    /// With code 50 when no ADD would work, 51 when one would, and the container not reach everybody.
    fn ready(&self, _settings: &Self::Settings) -> Result<(), Failure> {
        Ok(())
    }

    /// Fills in what an ADD takes from the host as it is now, such as the uplink's MTU. The IPAM plugin runs
    /// meanwhile. STATUS asks, too, to say whether an ADD could work; there is no container then. Most drivers take
    /// nothing.
    ///
    /// # Errors
    ///
    /// If the host lacks what an ADD needs.
    fn survey(&self, _settings: &mut Self::Settings, _kernel: &mut Kernel) -> Result<(), Failure> {
        Ok(())
    }

    /// Makes what the network has on this host when nobody has yet, where that is more than a plan of one attachment:
    /// ADD only, after [`Driver::survey`]. It stays if the ADD fails. Most drivers have nothing of the kind.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    fn establish(&self, _settings: &mut Self::Settings, _kernel: &mut Kernel) -> Result<(), Failure> {
        Ok(())
    }

    /// Returns what was found by [`Driver::survey`] and nobody will know later. It is recorded before the kernel is
    /// touched. Most drivers need none of it.
    fn remember(&self, _settings: &Self::Settings) -> Value {
        Value::Null
    }

    /// Completes settings with what [`Driver::remember`] returned when the attachment was made.
    fn recall(&self, _settings: &mut Self::Settings, _memory: &Value) {}

    /// Returns what can be built before addresses are known.
    fn links(&self, settings: &Self::Settings, endpoint: &Endpoint) -> Plan;

    /// Completes what the IPAM plugin returned or, for a chained plugin, what the plugins before it made: gateways,
    /// default routes, DNS. An IPAM plugin that was asked has returned an address.
    ///
    /// # Errors
    ///
    /// If the addresses do not fit the settings.
    fn resolve(
        &self,
        _settings: &Self::Settings,
        _endpoint: &Endpoint,
        leases: Leases,
    ) -> Result<Leases, Failure> {
        Ok(leases)
    }

    /// Says what it means that the IPAM plugin gave no address.
    fn unleased(&self, _settings: &Self::Settings, failure: Failure) -> Failure {
        failure
    }

    /// Returns what is built on the links once addresses are known.
    fn addresses(&self, settings: &Self::Settings, endpoint: &Endpoint, leases: &Leases) -> Plan;

    /// Returns what belongs to the network and to no container, to be removed with the network.
    fn network(&self, _settings: &Self::Settings) -> Plan {
        Plan::new()
    }

    /// Completes the result with what only the kernel knows. Most drivers have nothing to add.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked, or holds something the driver must not accept.
    fn report(&self, _kernel: &mut Kernel, _result: &mut NetworkResult) -> Result<(), Failure> {
        Ok(())
    }

    /// Finds what the attachment's interface is connected to, for drivers that work on what others made. Called by
    /// ADD, CHECK, DEL and GC before plans are made; what DEL and GC do not find has gone.
    ///
    /// # Errors
    ///
    /// If it is not there, or the kernel cannot be asked.
    fn locate(
        &self,
        _settings: &mut Self::Settings,
        _endpoint: &Endpoint,
        _kernel: &mut Kernel,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Returns what is written down about attachments, for GC and for `weft ps`.
    fn keeps(&self) -> Keeps {
        Keeps::Attachment
    }

    /// Returns the attachments to the network that this plugin keeps something for by its own books, beside the
    /// records: GC takes apart those that are not valid.
    fn holds(&self, _call: &Call) -> Vec<Endpoint> {
        Vec::new()
    }

    /// Gives up what this plugin keeps for attachments to the network of which its books know nothing any more, for GC. Most have
    /// no books.
    ///
    /// # Errors
    ///
    /// When the books cannot be read, or the kernel refuses.
    fn give_up(&self, _call: &Call) -> Result<(), Failure> {
        Ok(())
    }

    /// Completes the previous result that a chained plugin passes on. Most have nothing to add.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    fn amend(
        &self,
        _settings: &Self::Settings,
        _endpoint: &Endpoint,
        _kernel: &mut Kernel,
        _previous: &mut NetworkResult,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Returns whether the plugin works on what others made: it passes a previous result on, and CHECK
    /// needs none.
    fn is_chained(&self) -> bool {
        false
    }

    /// Called when what belonged to a network and to no attachment is gone, with the namespace it may have had: for what
    /// all networks of the driver share.
    ///
    /// # Errors
    ///
    /// When something of that cannot be removed.
    fn removed(&self, _call: &Call) -> Result<(), Failure> {
        Ok(())
    }

    /// Writes what the driver's networks share in the firewall again, whoever took it away. What single attachments
    /// have there follows from their plans and is not asked for here.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the records cannot be read.
    fn restore(&self, _root: &Root) -> Result<(), Failure> {
        Ok(())
    }

    /// Says what is missing of it.
    ///
    /// # Errors
    ///
    /// As for [`Driver::restore`].
    fn diagnose(&self, _root: &Root) -> Result<Vec<Finding>, Failure> {
        Ok(Vec::new())
    }

    /// As [`Driver::compose`], for a network that is another one on each host: what it is here is written below `root`.
    ///
    /// # Errors
    ///
    /// As [`Driver::compose`], or when what is written cannot be read.
    fn compose_here(&self, request: &ComposeRequest, _root: &Root) -> Result<Vec<Value>, Failure> {
        self.compose(request)
    }

    /// Returns the plugins of a conflist for a network of the manager.
    ///
    /// # Errors
    ///
    /// If an option is unknown or has a bad value.
    fn compose(&self, _request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        Err(Failure::text(Code::InvalidConfig, format!("{} is not a network driver", self.about().kind)))
    }
}

/// What a driver writes down about attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// The attachment: its links, addresses and leases are this driver's.
    Attachment,
    /// What it did to somebody else's attachment, in records of its own: one call per container at a time, GC and a
    /// DEL without a namespace or a previous result then work as they do for the attachment.
    Own,
    /// Nothing here: what it made is told by its name, or by books of another kind.
    Nothing,
}

impl Keeps {
    /// Returns the records of a driver of this kind.
    fn records(self, root: &Root, kind: &str) -> Records {
        match self {
            Self::Own => Records::of_plugin(root, kind),
            Self::Attachment | Self::Nothing => Records::new(root),
        }
    }
}

/// A driver with its verbs: the plugin.
pub struct Driven<D>(pub D);

impl<D: Driver> Plugin for Driven<D> {
    fn about(&self) -> &'static About {
        self.0.about()
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        add::add(&self.0, attachment)
    }

    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        check::check(&self.0, attachment)
    }

    fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        del::del(&self.0, attachment)
    }

    fn gc(&self, call: &Call) -> Result<(), Failure> {
        gc::gc(&self.0, call)
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        check::status(&self.0, call)
    }

    fn compose(&self, request: &ComposeRequest, root: &Root) -> Result<Vec<Value>, Failure> {
        self.0.compose_here(request, root)
    }

    fn reload(&self, root: &Root, networks: &[Call]) -> Result<(), Failure> {
        mend::reload(&self.0, root, networks)
    }

    fn doctor(&self, root: &Root, networks: &[Call]) -> Result<Vec<Finding>, Failure> {
        mend::doctor(&self.0, root, networks)
    }
}

/// Proof that nobody else changes this container's interfaces.
///
/// CNI: a runtime does not run two verbs for one container at once (SPEC 1.1.0, section 3). Two
/// runtimes that share a host do not know of each other.
struct Alone(Option<FileLock>);

/// How long a call waits for another one about the same container. Longer than any call that is not stuck takes.
const PATIENCE: Duration = Duration::from_secs(50);

impl Alone {
    fn with(call: &Call, container: &ContainerId) -> Result<Self, Failure> {
        let path = call.root.locks_dir().join(format!("attachment-{container}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match FileLock::try_exclusive(&path).map_err(|error| Failure::new(Code::Io, error))? {
                Some(lock) => return Ok(Self(Some(lock))),
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                None => {
                    let text = format!("another call for container {container} is still at work");
                    return Err(Failure::text(Code::TryAgainLater, text));
                }
            }
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A lock file that stays is empty and harmless; the next holder removes it.
        self.0.take().map(FileLock::unlink);
    }
}

/// Opens a container's namespace.
///
/// CNI: the words are those of the reference implementation, which callers look for.
fn open(path: &Path) -> Result<Netns, Failure> {
    Netns::open(path).map_err(|error| {
        let failure = match error {
            NetnsError::Missing { .. } => {
                Failure::text(Code::Internal, format!("failed to Statfs {path:?}: no such file or directory"))
            }
            error => Failure::new(Code::Internal, error),
        };
        failure.while_doing(format!("failed to open netns {path:?}"))
    })
}

/// Opens what the plans of a network are applied to.
fn kernel<D: Driver>(driver: &D, call: &Call, container: Option<&Netns>) -> Result<Kernel, Failure> {
    let home = driver.home(call)?;
    Kernel::at(home.as_ref(), container).map_err(kernel_says)
}

/// Returns whether an attachment's interface is there: the host's end of it, or itself in the container.
fn is_connected<D: Driver>(
    driver: &D,
    call: &Call,
    endpoint: &Endpoint,
    netns: Option<&Netns>,
) -> Result<bool, Failure> {
    let mut kernel = kernel(driver, call, netns)?;
    let mut exists = |place, name: &_| kernel.exists(place, name).map_err(kernel_says);
    Ok(exists(Place::Host, &endpoint.host_ifname())?
        || netns.is_some() && exists(Place::Container, &endpoint.ifname)?)
}

/// A step that the kernel refused, as CNI error.
fn refused(error: ApplyError) -> Failure {
    let (code, hint) = (code_of(&error.cause), error.cause.hint());
    Failure::new(code, error).with_hint(hint)
}

/// What the kernel says, as CNI error.
fn kernel_says(cause: Cause) -> Failure {
    let (code, hint) = (code_of(&cause), cause.hint());
    Failure::new(code, cause).with_hint(hint)
}

/// A conflict between the configuration and what the administrator made is one of configuration.
fn code_of(cause: &Cause) -> Code {
    match cause {
        Cause::OtherKind { .. }
        | Cause::AddressConflict { .. }
        | Cause::NoKind { .. }
        | Cause::Lacks { .. }
        | Cause::BadKey(_) => Code::InvalidConfig,
        Cause::NameTaken { .. }
        | Cause::Taken { .. }
        | Cause::Again { .. }
        | Cause::InUse { .. }
        | Cause::Firewall(FirewallError::Ports(PortsError::Taken { .. } | PortsError::NoneFree { .. })) => {
            Code::TAKEN
        }
        Cause::Firewall(FirewallError::Ports(PortsError::Twice { .. })) => Code::InvalidConfig,
        _ => Code::Internal,
    }
}
