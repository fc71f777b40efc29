//! What this host's kernel lacks of what is desired.

use std::collections::BTreeMap;

use weft_model::NetworkName;
use weft_plan::{Kernel, Slow};

use super::devices::devices;
use super::error::KernelError;
use super::home::home;
use super::peers::Subject;
use super::reconcile::Reconciler;
use super::shortcuts::why_slow;
use super::uplink::uplink;
use crate::desired::Desired;

/// Something that is not as desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Of which network; none when it is of all.
    pub network: Option<NetworkName>,
    /// What it is about.
    pub subject: Subject,
    /// What is missing, or different, or too much.
    pub what: String,
}

impl Reconciler {
    /// Returns what is not as desired; nothing when all is well.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn verify(&self, desired: &Desired) -> Result<Vec<Drift>, KernelError> {
        let mut drifts = Vec::new();
        let missing = match &desired.tunnels {
            Some(tunnels) if !desired.is_empty() => tunnels.observe()?,
            _ => Vec::new(),
        };
        drifts.extend(missing.into_iter().map(|what| Drift {
            network: None,
            subject: Subject::Device,
            what,
        }));
        for network in &desired.networks {
            let mut note = |subject: Subject, what: String| {
                drifts.push(Drift { network: Some(network.local.name.clone()), subject, what });
            };
            let home = home(&network.local, &self.root, false)?;
            if network.local.isolated && home.is_none() {
                note(Subject::Device, "its namespace does not exist".into());
                continue;
            }
            let mut kernel = Kernel::at(home.as_ref(), None)?;
            let found = kernel.observe(&devices(&network.local, &self.root))?;
            found.iter().for_each(|difference| note(Subject::Device, difference.to_string()));
            for why in why_slow(&network.local, home.as_ref())? {
                let subject = match why {
                    Slow::Kernel(_) => Subject::Incapable,
                    Slow::Missing { .. } => Subject::Shortcut,
                };
                note(subject, why.to_string());
            }
            let uplink = Kernel::at(None, home.as_ref())?.observe(&uplink(&network.local))?;
            uplink.iter().for_each(|difference| note(Subject::Device, difference.to_string()));
            let mut steps = self.steps(network, home.as_ref())?;
            steps.retain(|step| !(desired.partial && step.removes));
            for step in steps {
                let verb = match (step.removes, step.changes) {
                    (true, _) => "should not be there",
                    (false, true) => "is another",
                    (false, false) => "does not exist",
                };
                note(step.subject, format!("{} {verb}", step.what));
            }
        }
        Ok(drifts)
    }

    /// Returns why packets go the slow way, of the networks that have a fast path and where they do.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn slow(&self, desired: &Desired) -> Result<BTreeMap<NetworkName, String>, KernelError> {
        let mut slow = BTreeMap::new();
        for local in desired.networks.iter().map(|network| &network.local) {
            let why = why_slow(local, home(local, &self.root, false)?.as_ref())?;
            if let Some(first) = why.first() {
                slow.insert(local.name.clone(), first.to_string());
            }
        }
        Ok(slow)
    }
}

impl std::fmt::Display for Drift {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.network {
            Some(network) => write!(out, "network {network}: {}", self.what),
            None => out.write_str(&self.what),
        }
    }
}
