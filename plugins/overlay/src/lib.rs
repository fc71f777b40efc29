//! The `overlay` CNI plugin: networks that containers on several hosts share.
//!
//! An ADD reads one file, [`weft_overlay::local::LocalNetwork`], and works in the kernel. It asks no store, starts no
//! process, and tells nobody: peers have a route to this host's whole block already.

mod compose;
mod conf;
mod plan;

use std::path::Path;

use serde_json::Value;
use weft_cni::{Code, Failure, Finding, Version};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_overlay::here::{self, Health, Here};
use weft_overlay::kernel::{KernelError, Reconciler, Trouble, home};
use weft_plan::{Kernel, Place, Plan};
use weft_plugin::{
    About, Call, ComposeRequest, Driven, Driver, DriverAbout, Leases, Verb, examine_firewall,
    restore_firewall,
};
use weft_state::{Root, StateError};

pub use conf::Settings;

/// The `overlay` driver.
pub struct Overlay;

/// The plugin.
pub static PLUGIN: Driven<Overlay> = Driven(Overlay);

static ABOUT: About = About {
    kind: "overlay",
    summary: "networks that containers on several hosts share",
    versions: &Version::ALL,
    options: compose::OPTIONS,
    driver: Some(DriverAbout {
        addressing: true,
        attachable: true,
        clustered: true,
        instances: None,
        refusal: None,
        hint: None,
    }),
};

impl Driver for Overlay {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn home(&self, call: &Call) -> Result<Option<Netns>, Failure> {
        let Some(local) = conf::local(call)? else { return Ok(None) };
        let made = home(&local, &call.root, call.verb == Verb::Add);
        made.map_err(|error| Failure::new(Code::Internal, error))
    }

    /// Devices go with a reboot, or by somebody's hand. Whoever comes first makes them, with the ways to all peers, so
    /// that the container's first packet arrives.
    fn establish(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        let local = settings.required()?;
        if kernel.exists(Place::Host, &local.vxlan).is_ok_and(|exists| exists) {
            return Ok(());
        }
        let here = Here::read(&settings.root).map_err(unreadable)?.ok_or_else(|| settings.unknown())?;
        let desired = here.desired();
        match desired.network(&local.name) {
            Some(Ok(network)) => {
                Reconciler::new(&settings.root).apply_network(&desired, network).map_err(refused)?;
                // What was written for earlier ADDs may be older than what was made.
                settings.local = Some(network.local.clone());
                Ok(())
            }
            Some(Err(refused)) => Err(conf::cannot_be(refused)),
            None => Err(settings.unknown()),
        }
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn resolve(&self, settings: &Settings, _endpoint: &Endpoint, leases: Leases) -> Result<Leases, Failure> {
        plan::resolve(settings, leases)
    }

    /// A host of a cluster gets another block when the store answers.
    fn unleased(&self, settings: &Settings, failure: Failure) -> Failure {
        if failure.code != Code::EXHAUSTED || !here::has_joined(&settings.root) {
            return failure;
        }
        let hint = "this host gets another block when the store answers: weft overlay status";
        Failure { code: Code::TryAgainLater, ..failure }.with_hint(Some(hint.into()))
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }

    fn network(&self, settings: &Settings) -> Plan {
        plan::network(settings)
    }

    fn ready(&self, settings: &Settings) -> Result<(), Failure> {
        settings.required().map_err(|failure| Failure { code: Code::NotAvailable, ..failure })?;
        match Health::load(&settings.root).map_err(unreadable)?.and_then(|health| health.degraded) {
            Some(why) => Err(Failure::text(Code::LimitedConnectivity, why)
                .with_hint(Some("weft overlay status tells more".into()))),
            None => Ok(()),
        }
    }

    /// The guard of outer packets goes with the last network.
    fn removed(&self, call: &Call) -> Result<(), Failure> {
        Reconciler::new(&call.root).open().map_err(refused)
    }

    /// Brings devices, guard and the ways to all peers to what is known, besides the firewall's own books.
    fn restore(&self, root: &Root) -> Result<(), Failure> {
        let mut problems: Vec<Failure> = restore_firewall(root).err().into_iter().collect();
        let mut bad = Vec::new();
        let read = || {
            let here = Here::read(root)?;
            Ok(here.map(|here| {
                let desired = here.desired();
                bad = here.bad;
                desired
            }))
        };
        let applied: Result<_, StateError> = Reconciler::new(root).apply_read(read);
        if let Some((desired, report)) = applied.map_err(unreadable)? {
            problems.extend(report.troubles.iter().map(told));
            problems.extend(desired.refused.iter().map(conf::cannot_be));
        }
        problems.extend(bad.iter().map(|(path, why)| wrong(path, why)));
        Failure::all(problems)
    }

    fn diagnose(&self, root: &Root) -> Result<Vec<Finding>, Failure> {
        let mut findings = examine_firewall(root)?;
        if let Some(here) = Here::read(root).map_err(unreadable)? {
            findings.extend(here.bad.iter().map(|(path, why)| Finding {
                what: path.display().to_string(),
                why: format!("it is passed over: {why}"),
                mend: "weft overlay apply, when it is right".into(),
            }));
            let drifts = Reconciler::new(root).verify(&here.desired()).map_err(refused)?;
            findings.extend(drifts.into_iter().map(|drift| Finding {
                what: drift.network.map_or_else(|| "the overlay".into(), |name| format!("network {name}")),
                why: drift.what,
                mend: "weft overlay apply".into(),
            }));
        }
        Ok(findings)
    }

    fn compose(&self, request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        Err(conf::unknown(&request.name))
    }

    fn compose_here(&self, request: &ComposeRequest, root: &Root) -> Result<Vec<Value>, Failure> {
        compose::compose(request, root)
    }
}

fn unreadable(error: StateError) -> Failure {
    Failure::new(Code::Io, error)
}

fn refused(error: KernelError) -> Failure {
    let hint = error.hint();
    let code = match error {
        KernelError::Overlap { .. } => Code::InvalidConfig,
        _ => Code::Internal,
    };
    Failure::new(code, error).with_hint(hint)
}

/// A file that is passed over: what it is about stays as it is.
fn wrong(path: &Path, why: &str) -> Failure {
    let text = match why.contains(&*path.to_string_lossy()) {
        true => why.to_owned(),
        false => format!("{}: {why}", path.display()),
    };
    Failure::text(Code::InvalidConfig, text)
        .with_hint(Some("nothing is taken away until it is right: weft overlay apply then".into()))
}

fn told(trouble: &Trouble) -> Failure {
    Failure::text(Code::Internal, trouble.to_string()).with_hint(trouble.error.hint())
}
