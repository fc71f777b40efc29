//! `weftd agent`: keeps this host in step with the other hosts of its cluster.
//!
//! What the store says becomes a [`Snapshot`](weft_overlay::Snapshot), the snapshot becomes what the kernel should have,
//! and the difference is applied, in rounds: whatever changes, in the store, in the kernel or on disk, leads to one. Containers need none
//! of it: they come and go by the network's file and this host's blocks.
//!
//! Nothing is taken back when the agent ends.

#[expect(clippy::module_inception, reason = "the agent's agent")]
mod agent;
mod alive;
mod blocks;
mod claim;
mod collect;
mod complaints;
mod copies;
pub(crate) mod diag;
mod files;
mod follow;
mod gates;
mod kernel;
mod known;
mod lending;
mod membership;
mod mesh;
mod metrics;
mod program;
mod removal;
mod round;
mod secret;
mod socket;
mod status;
mod underlay;
mod usage;
mod verbs;

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use weft_manager::{Manager, overlay};
use weft_overlay::ids::random_bytes;
use weft_state::Root;
use weft_state::lock::FileLock;

use crate::notify::notify;
use agent::Agent;
use kernel::Kernel;

/// A change is followed by others: a round waits for so long.
const COALESCED: Duration = Duration::from_millis(30);
/// How often the snapshot is written at most, and leases are counted.
const TICK: Duration = Duration::from_secs(1);
/// How often everything is compared although nothing was heard.
const RESYNC: Duration = Duration::from_secs(300);

/// Keeps this host in step, until a signal ends it.
///
/// # Errors
///
/// When another agent is at work, the socket cannot be made, or what is on disk cannot be used.
pub(crate) async fn run(root: Root, manager: Manager) -> Result<()> {
    let path = root.locks_dir().join("overlay-agent");
    let Some(_lock) = FileLock::try_exclusive(&path)? else {
        bail!("another weftd agent is at work below {}\nhint: weft overlay status", root.path().display());
    };
    LocalSet::new().run_until(work(root, manager)).await
}

async fn work(root: Root, manager: Manager) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let agent = Agent::new(root, manager);
    let kernel = Kernel::new(&agent.root).context("cannot keep the gates of the fast path")?;
    let listener = socket::listen(&overlay::socket(&agent.root))?;
    verbs::join::resume(&agent);
    let (sender, mut calls) = mpsc::channel(16);
    spawn_local(socket::serve(listener, sender));
    spawn_local(kernel::listen_to_firewall(agent.clone(), kernel.clone()));
    spawn_local(tick(agent.clone(), kernel.clone()));
    spawn_local(resync(agent.clone()));
    // The kernel is in step with what is on disk before anybody is told that we are there.
    round::round(&agent, &kernel).await;
    spawn_local(mesh::keep(agent.clone()));
    spawn_local(rounds(agent.clone(), kernel.clone()));
    notify("READY=1\nSTATUS=in step");
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            call = calls.recv() => {
                let Some(call) = call else { break };
                spawn_local(verbs::answer(agent.clone(), kernel.clone(), call));
            }
        }
    }
    notify("STOPPING=1");
    kernel.gates.borrow_mut().end();
    agent.save()?;
    Ok(())
}

/// One round after another, each for all that changed before it.
async fn rounds(agent: Rc<Agent>, kernel: Rc<Kernel>) {
    loop {
        agent.touched().await;
        tokio::time::sleep(COALESCED).await;
        round::round(&agent, &kernel).await;
    }
}

/// What is due every second: the snapshot goes to disk, blocks that fill up are noticed, and what was left undone is done.
async fn tick(agent: Rc<Agent>, kernel: Rc<Kernel>) {
    loop {
        tokio::time::sleep(TICK).await;
        agent.save_now_and_then();
        agent.tell_plugins();
        blocks::look(&agent);
        lending::look(&agent);
        removal::look(&agent);
        collect::look(&agent);
        underlay::look_again(&agent);
        kernel.look_for_homes(&agent);
        kernel.gates.borrow_mut().attend(&agent);
    }
}

/// A round now and then although nothing was heard, never on all hosts at once.
async fn resync(agent: Rc<Agent>) {
    loop {
        let [random, ..] = random_bytes();
        tokio::time::sleep(RESYNC.mul_f64(0.75 + f64::from(random) / 512.0)).await;
        agent.touch();
    }
}
