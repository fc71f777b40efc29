//! A round: everything that is known becomes what the kernel has, and what is on disk.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use serde_json::Value;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Difference, Refusal};
use weft_overlay::NetworkId;
use weft_overlay::desired::Desired;
use weft_overlay::kernel::Report;

use super::agent::Agent;
use super::kernel::Kernel;
use super::known::Inner;
use super::{blocks, files, lending, mesh, removal};

/// Brings the kernel and the files in step. Whoever comes meanwhile waits for their turn.
pub(crate) async fn round(agent: &Rc<Agent>, kernel: &Rc<Kernel>) {
    let turn = kernel.turn().await;
    agent.save_ahead();
    let desired = agent.with(Inner::desired);
    if let Some(desired) = &desired {
        let start = Instant::now();
        let (report, same) = kernel.apply(desired.clone()).await;
        agent.change(|inner| {
            inner.counts.rounds += 1;
            inner.counts.applied = start.elapsed();
            inner.guarded = report.guarded;
        });
        note(agent, desired, &report, same);
        let underlay = agent.with(Inner::underlay);
        kernel.listen_to(agent, desired, underlay.as_deref());
    }
    let networks = desired.map(|desired| desired.networks).unwrap_or_default();
    let locals: Vec<_> = networks.into_iter().map(|network| network.local).collect();
    agent.save_now_and_then();
    removal::let_go(agent).await;
    files::conflists(agent, &locals).await;
    drop(turn);
    agent.tell_plugins();
    blocks::look(agent);
    lending::look(agent);
    agent.round_over();
}

/// Notes what was done and what could not be.
fn note(agent: &Agent, desired: &Desired, report: &Report, same: bool) {
    for step in report.steps.iter().filter(|_| same) {
        eprintln!("weftd: mended: {step}");
        let kind = step.trim_start_matches("no ").split(' ').next().unwrap_or_default();
        agent.change(|inner| *inner.counts.drift.entry(kind.into()).or_default() += 1);
    }
    let mut refused: BTreeMap<NetworkId, String> = BTreeMap::new();
    let id_of = |name: &weft_model::NetworkName| {
        agent.with(|inner| inner.snapshot.network_named(name).map(|network| network.id))
    };
    for one in &desired.refused {
        refused.extend(id_of(&one.network).map(|id| (id, format!("{}: {}", one.why, one.hint))));
    }
    let mut general = None;
    for trouble in &report.troubles {
        let why = match trouble.error.hint() {
            Some(hint) => format!("{trouble}: {hint}"),
            None => trouble.to_string(),
        };
        match trouble.network.as_ref().and_then(id_of) {
            Some(id) => drop(refused.insert(id, why)),
            None => general = Some(why),
        }
    }
    agent.trouble("the kernel", general);
    agent.trouble("records that do not fit", passed_over(desired));
    agent.refuse("kernel", refused);
}

/// Returns which records nothing follows from, the first ones: whoever writes to the store may write many.
fn passed_over(desired: &Desired) -> Option<String> {
    const SHOWN: usize = 3;
    let all = &desired.passed_over;
    let shown: Vec<String> = all.iter().take(SHOWN).map(|one| format!("{}: {}", one.key, one.why)).collect();
    let more = if all.len() > SHOWN { format!(", and {} more", all.len() - SHOWN) } else { String::new() };
    (!shown.is_empty()).then(|| format!("passed over in the store: {}{more}", shown.join(", ")))
}

/// Brings everything in step, and says what could not be.
///
/// # Errors
///
/// All that is not as it should be afterwards.
pub(crate) async fn asked(agent: &Rc<Agent>, kernel: &Rc<Kernel>) -> Result<Value, Refusal> {
    agent.membership()?;
    round(agent, kernel).await;
    mesh::advance(agent).await;
    let mut problems = agent.with(Inner::problems);
    // What is known to be wrong is wrong for these reasons.
    if problems.is_empty() {
        let found = verify(agent, kernel).await?;
        problems.extend(found.into_iter().map(|found| format!("{}: {}", found.what, found.why)));
    }
    match problems.is_empty() {
        true => Ok(Value::Null),
        false => Err(Refusal::new(Kind::Failed, problems.join("; ")).hint("weft overlay status")),
    }
}

/// Returns what is not as it should be.
pub(crate) async fn verify(agent: &Rc<Agent>, kernel: &Rc<Kernel>) -> Result<Vec<Difference>, Refusal> {
    let turn = kernel.turn().await;
    let Some(desired) = agent.with(Inner::desired) else { return Ok(Vec::new()) };
    let found = kernel.verify(desired).await;
    drop(turn);
    let difference = |drift: weft_overlay::kernel::Drift| Difference {
        what: drift.network.map_or_else(|| "this host".into(), |name| format!("network {name}")),
        why: drift.what,
    };
    let found = found?.into_iter().map(difference);
    Ok(found.chain(mesh::verify(agent).await).collect())
}

impl Inner {
    /// Returns the link that others reach this host by.
    fn underlay(&self) -> Option<String> {
        let joined = self.membership.as_ref().map(|membership| &membership.interface);
        self.place.as_ref().map(|place| &place.interface).or(joined).cloned()
    }

    /// Returns what keeps the kernel from being as it should.
    fn problems(&self) -> Vec<String> {
        let unknown = match self.desired() {
            Some(_) => None,
            None => Some(self.is_out().unwrap_or_else(|| "the cluster is not known yet".into())),
        };
        let general = ["the kernel", "the mesh"].into_iter().filter_map(|about| self.troubles.get(about));
        let name = |id| self.snapshot.network(id).map(|network| network.name.to_string()).unwrap_or_default();
        let refused = self.all_refused().map(|(id, why)| format!("network {}: {why}", name(id)));
        unknown.into_iter().chain(general.cloned()).chain(refused).collect()
    }

    /// Returns what the kernel should have; nothing when that is not known, and what it has stays.
    pub(crate) fn desired(&self) -> Option<Desired> {
        let own = self.membership.as_ref()?.host;
        let known = self.snapshot.cluster().is_some() && self.snapshot.host(own).is_some();
        (known && self.is_out().is_none()).then(|| {
            let mut desired = Desired::of(&self.snapshot, own);
            desired.networks.retain(|network| !self.let_go.contains_key(&network.local.id));
            for local in desired.networks.iter_mut().map(|network| &mut network.local) {
                local.borrowed.retain(|address| !self.is_returning(local.id, *address));
            }
            desired
        })
    }
}
