//! Bringing this host's kernel to what is desired.

use std::error::Error as _;
use std::path::Path;

use weft_firewall::{Change, Tunnels};
use weft_model::NetworkName;
use weft_netlink::link;
use weft_netlink::route::{self, RouteInfo};
use weft_netlink::{Batch, Socket};
use weft_netns::Netns;
use weft_plan::{Journal, Kernel, Link, Place};
use weft_state::lock::FileLock;
use weft_state::{Root, StateError};

use super::devices::devices;
use super::error::KernelError;
use super::home::{Patience, home};
use super::peers::{Step, Ways, answers};
use super::shortcuts::shortcuts;
use super::uplink::uplink;
use super::{ALIAS, PROTOCOL, stale};
use crate::blocks::overlap;
use crate::desired::{Desired, DesiredNetwork};
use crate::local::LocalNetwork;

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Things that were made, devices counted as one.
    pub made: usize,
    /// Things that were there and are others now.
    pub changed: usize,
    /// Things that were taken away.
    pub removed: usize,
    /// What each was, a line each.
    pub steps: Vec<String>,
    /// Whether the rules are there that no device is made without.
    pub guarded: bool,
    /// What could not be done; everything else was.
    pub troubles: Vec<Trouble>,
}

/// Something that could not be done.
#[derive(Debug)]
pub struct Trouble {
    /// For which network; none when it is for all.
    pub network: Option<NetworkName>,
    /// Why not.
    pub error: KernelError,
}

/// Brings the kernel of this network namespace to what is desired, and changes nothing that others made.
#[derive(Clone, Debug)]
pub struct Reconciler {
    pub(super) root: Root,
    patience: Patience,
}

impl Reconciler {
    /// Returns a reconciler that writes what an ADD reads below `root`.
    pub fn new(root: &Root) -> Self {
        Self { root: root.clone(), patience: Patience::default() }
    }

    /// As [`Reconciler::apply`], for whoever does not hear the store: `read` says what is desired when nobody else works any more,
    /// so that it is not older than what they have made.
    ///
    /// # Errors
    ///
    /// What `read` says, or a lock that cannot be had.
    pub fn apply_read(
        &self,
        read: impl FnOnce() -> Result<Option<Desired>, StateError>,
    ) -> Result<Option<(Desired, Report)>, StateError> {
        let _alone = self.alone()?;
        let Some(desired) = read()? else { return Ok(None) };
        let report = self.work(&desired);
        Ok(Some((desired, report)))
    }

    /// Makes everything so, the firewall first. What is as it should be is left alone, so it may be called at any
    /// time. What cannot be done is reported, and keeps nothing else from being done.
    pub fn apply(&self, desired: &Desired) -> Report {
        let _alone = match self.alone() {
            Ok(alone) => alone,
            Err(error) => {
                let troubles = vec![Trouble { network: None, error: error.into() }];
                return Report { troubles, ..Report::default() };
            }
        };
        self.work(desired)
    }

    /// Two do not work at the same time.
    fn alone(&self) -> Result<FileLock, StateError> {
        FileLock::exclusive(&self.root.locks_dir().join("overlay-kernel"))
    }

    fn work(&self, desired: &Desired) -> Report {
        let mut report = Report::default();
        stale::give_up_lost_blocks(desired, &self.root, &mut report);
        let turn = self.turn();
        if !desired.is_empty() {
            match self.guard(desired) {
                Ok(Change::Made) => report.steps.push("guard of outer packets".into()),
                Ok(Change::AlreadyThere) => {}
                Err(error) => {
                    // No device without its guard.
                    report.troubles.push(Trouble { network: None, error });
                    return report;
                }
            }
            report.guarded = desired.tunnels.is_some();
        }
        for network in &desired.networks {
            if let Err(error) = self.network(network, desired.partial, &mut report) {
                let network = Some(network.local.name.clone());
                report.troubles.push(Trouble { network, error });
            }
        }
        if let Err(error) = self.sweep(desired, &mut report) {
            report.troubles.push(Trouble { network: None, error });
        }
        drop(turn);
        if desired.is_empty()
            && let Err(error) = self.open()
        {
            report.troubles.push(Trouble { network: None, error });
        }
        report
    }

    /// Makes one network so, guard included: what an ADD does when nobody has yet.
    ///
    /// # Errors
    ///
    /// What could not be done first.
    pub fn apply_network(&self, desired: &Desired, network: &DesiredNetwork) -> Result<Report, KernelError> {
        let _turn = self.turn();
        self.guard(desired)?;
        let mut report = Report::default();
        self.network(network, desired.partial, &mut report)?;
        Ok(report)
    }

    /// Takes the guard away when no device is left that it would be for, and nobody is about to make one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn open(&self) -> Result<(), KernelError> {
        let alone = self.turns().is_ok_and(|file| file.try_lock().is_ok());
        let homes = std::fs::read_dir(self.root.overlay_run_dir().join("netns"));
        if !alone || homes.is_ok_and(|mut homes| homes.next().is_some()) {
            return Ok(());
        }
        let mut socket = Socket::open()?;
        let is_ours = |alias: &Option<String>| alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS));
        if link::all(&mut socket)?.iter().any(|link| link.vxlan.is_some() && is_ours(&link.alias)) {
            return Ok(());
        }
        Ok(Tunnels::remove()?)
    }

    /// Keeps the guard from being taken away between the moment it is there and the devices behind it. Without such a file
    /// it is not taken away at all.
    fn turn(&self) -> Option<std::fs::File> {
        self.turns().ok().filter(|file| file.lock_shared().is_ok())
    }

    fn turns(&self) -> std::io::Result<std::fs::File> {
        let path = self.root.overlay_run_dir().join("guard.lock");
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)
    }

    /// Without a cluster there is no network, and so nothing to guard.
    fn guard(&self, desired: &Desired) -> Result<Change, KernelError> {
        match &desired.tunnels {
            Some(tunnels) => Ok(tunnels.ensure()?),
            None => Ok(Change::AlreadyThere),
        }
    }

    /// With `partial` nothing of it is taken away.
    fn network(
        &self,
        network: &DesiredNetwork,
        partial: bool,
        report: &mut Report,
    ) -> Result<(), KernelError> {
        let local = &network.local;
        let home = home(local, &self.root, true)?;
        let mut kernel = Kernel::at(home.as_ref(), None)?;
        let fresh = !kernel.exists(Place::Host, &local.vxlan)?;
        if fresh && !local.isolated {
            self.clear(local)?;
        }
        let before = kernel.link(Place::Host, &local.vxlan);
        let mut plan = devices(local, &self.root);
        // A bridge keeps the MTU it has, unless it is told by name.
        plan.network(Link::existing(&local.bridge).mtu(Some(local.mtu)));
        self.patience.ensure(&mut kernel, &plan, &local.name, home.as_ref())?;
        if before.map(|facts| facts.index) != kernel.link(Place::Host, &local.vxlan).map(|facts| facts.index)
        {
            report.made += 1;
            report.steps.push(format!("link {}", local.vxlan));
        }
        self.lead_outside(local, home.as_ref(), report)?;
        let mut socket = open(home.as_ref())?;
        // A route to whoever has a block now cannot be where ours is still.
        stale::drop_lost_blocks(local, &self.root, &mut socket, report)?;
        let mut steps = self.steps(network, home.as_ref())?;
        steps.retain(|step| !(partial && step.removes));
        let carried_out = carry_out(steps, &mut socket, report);
        // One that cannot be read is written anew as any other that is not as it should be, whatever became of the ways to others.
        if !LocalNetwork::load(&self.root, &local.name).is_ok_and(|found| found.as_ref() == Some(local)) {
            local.save(&self.root)?;
        }
        carried_out?;
        // Last: packets find their way without it.
        Ok(kernel.ensure(&shortcuts(local, home.as_ref())?, &mut Journal::default())?)
    }

    /// Makes an isolated network's way outside anew when there is anything about it that is not as it should be: what passes it
    /// are connections of the network with others, which begin again.
    fn lead_outside(
        &self,
        local: &LocalNetwork,
        home: Option<&Netns>,
        report: &mut Report,
    ) -> Result<(), KernelError> {
        let plan = uplink(local);
        let mut kernel = Kernel::at(None, home)?;
        if plan.steps().is_empty() || kernel.observe(&plan)?.is_empty() {
            return Ok(());
        }
        // What was not there cannot be removed.
        drop(kernel.remove(&plan, weft_plan::Removal::Synchronous));
        Kernel::at(None, home)?.ensure(&plan, &mut Journal::default())?;
        report.made += 1;
        report.steps.push(format!("the way outside of {}", local.name));
        Ok(())
    }

    /// Says what has to be done about the ways to a network's peers.
    pub(super) fn steps(
        &self,
        network: &DesiredNetwork,
        home: Option<&Netns>,
    ) -> Result<Vec<Step>, KernelError> {
        let mut socket = open(home)?;
        let Some(link) = socket.link(link::get(&network.local.vxlan))? else { return Ok(Vec::new()) };
        let observed = Ways::observed(&mut socket, link.index)?;
        let mut steps = Ways::wanted(network, link.index).steps_from(&observed);
        if let Some(bridge) = socket.link(link::get(&network.local.bridge))? {
            steps.extend(answers(&mut socket, bridge.index, &network.behind)?);
        }
        Ok(steps)
    }

    /// Refuses a network whose addresses the host reaches already, elsewhere.
    fn clear(&self, local: &LocalNetwork) -> Result<(), KernelError> {
        let mut socket = Socket::open()?;
        let routes = route::of_table(&mut socket, route::MAIN)?;
        let theirs = |route: &&RouteInfo| route.dst.prefix() != 0 && route.protocol != PROTOCOL;
        for route in routes.iter().filter(theirs) {
            let Some(subnet) = local.subnets.iter().find(|subnet| overlap(**subnet, route.dst)) else {
                continue;
            };
            let dev = socket.link(link::get_index(route.index))?.map(|link| link.name).unwrap_or_default();
            if dev != local.bridge.as_str() {
                return Err(KernelError::Overlap { subnet: *subnet, route: route.dst, dev });
            }
        }
        Ok(())
    }

    /// Takes away devices of networks that this host does not take part in any more.
    fn sweep(&self, desired: &Desired, report: &mut Report) -> Result<(), KernelError> {
        if !desired.known || desired.partial {
            return Ok(());
        }
        // One that cannot be had as it should be is not one that is to go.
        let wanted = desired.networks.iter().map(|network| network.local.id);
        let kept: Vec<String> =
            wanted.chain(desired.refused.iter().map(|refused| refused.id)).map(|id| id.to_string()).collect();
        let mut socket = Socket::open()?;
        for found in link::all(&mut socket)? {
            let id = found.alias.as_deref().and_then(|alias| alias.strip_prefix(ALIAS));
            if found.vxlan.is_none() || id.is_none_or(|id| kept.iter().any(|kept| kept == id)) {
                continue;
            }
            match socket.request(link::delete_index(found.index)) {
                Err(error) if !error.is_missing() => return Err(error.into()),
                _ => {
                    report.removed += 1;
                    report.steps.push(format!("no link {}", found.name));
                }
            }
        }
        Ok(())
    }

    /// Returns the directory that everything is written below.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

pub(super) fn open(home: Option<&Netns>) -> Result<Socket, KernelError> {
    Ok(match home {
        Some(home) => home.run(Socket::open)??,
        None => Socket::open()?,
    })
}

/// Sends everything at once; the kernel goes on behind what it refuses.
fn carry_out(steps: Vec<Step>, socket: &mut Socket, report: &mut Report) -> Result<(), KernelError> {
    if steps.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    let sent: Vec<_> = steps
        .into_iter()
        .map(|Step { request, what, removes, changes, .. }| (batch.push(request), what, removes, changes))
        .collect();
    let replies = socket.call(&mut batch)?;
    let mut refused: Vec<(String, weft_netlink::Error)> = Vec::new();
    for (ticket, what, removes, changes) in sent {
        match replies.of(ticket) {
            Err(error) if removes && error.is_missing() => {}
            Err(error) => refused.push((what, error)),
            Ok(_) => {
                match (removes, changes) {
                    (true, _) => report.removed += 1,
                    (false, true) => report.changed += 1,
                    (false, false) => report.made += 1,
                }
                report.steps.push(if removes { format!("no {what}") } else { what });
            }
        }
    }
    let more = refused.len().saturating_sub(1);
    match refused.into_iter().next() {
        Some((what, cause)) => Err(KernelError::Refused { what, cause, more }),
        None => Ok(()),
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(network) = &self.network {
            write!(out, "network {network}: ")?;
        }
        self.error.fmt(out)?;
        let mut source = self.error.source();
        while let Some(error) = source {
            write!(out, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
