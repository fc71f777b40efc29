//! Which functions of the plugins' binary run, found by running them step by step: the linker places these together
//! (`cni/order.txt`), because a start pays for each 64 KiB of the file that it touches (docs/adr/0013-what-a-start-costs.md).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use weft_testkit::staged;

use crate::every;
use crate::host::{Host, Side};
use crate::process::Cost;

/// The list, by which `cargo xtask stage` has the plugins linked.
pub(crate) const LIST: &str = "cni/order.txt";

/// The bytes that functions are aligned to.
const ALIGNED: u64 = 16;
/// The bytes of the largest function that is a small one.
const SMALL: u64 = 64;

/// What each run has executed: addresses, in the order of their first use.
static RUNS: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());

/// Returns the functions that the staged plugins run, a line each. The staged binary must have its symbols.
pub(crate) fn functions() -> Result<String> {
    let host = Host::start(Side::Weft, 1)?;
    let kinds = host.run(|ground| {
        ground.run = walk;
        for verb in ["ADD", "DEL", "ADD", "DEL"] {
            ground.bridge(verb, 0)?;
            ground.loopback(verb, 0)?;
        }
        let leases = ground.lab.path("every");
        Ok(every::cases(&leases).len())
    })?;
    for number in 0..kinds {
        let done = host.run(move |ground| {
            let case = &every::cases(&ground.lab.path("every"))[number];
            Ok((case.kind, every::one(ground, case, 0).is_ok()))
        })?;
        eprintln!("{}{}", done.0, if done.1 { "" } else { ": as far as it goes on this kernel" });
    }
    drop(host);
    let symbols = symbols(&staged("bridge"))?;
    let runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(ordered(&runs, &symbols))
}

/// The names of what ran: first what most runs have in common, so that each finds what it needs on few pages, also one that does
/// little; of what as many have, in the order of its first use. Small functions of more than one run come before all: they cost
/// nothing there, and a page elsewhere.
fn ordered(runs: &[Vec<u64>], symbols: &BTreeMap<u64, (u64, String)>) -> String {
    let mut found: BTreeMap<&str, (usize, usize, u64)> = BTreeMap::new();
    for run in runs {
        let mut seen = BTreeSet::new();
        for address in run {
            let Some((start, (size, name))) = symbols.range(..=address).next_back() else { continue };
            if *address < start + size && seen.insert(name) {
                let first = found.len();
                found.entry(name).or_insert((0, first, *size)).0 += 1;
            }
        }
    }
    let mut names: Vec<_> = found.into_iter().collect();
    names.sort_by_key(|(_, (runs, first, size))| {
        let common = if *size <= SMALL && *runs > 1 { usize::MAX } else { *runs };
        (Reverse(common), *first)
    });
    names.iter().map(|(name, _)| format!("{name}\n")).collect()
}

/// The functions of a binary by their address, with their size in bytes.
fn symbols(binary: &Path) -> Result<BTreeMap<u64, (u64, String)>> {
    #[expect(clippy::disallowed_methods, reason = "a tool for people, which waits as long as it takes")]
    let output =
        Command::new("nm").args(["--defined-only", "--print-size", "--demangle"]).arg(binary).output()?;
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        // A name may have spaces in it.
        let words: Vec<_> = line.splitn(4, ' ').collect();
        let number = |text| u64::from_str_radix(text, 16);
        match words.as_slice() {
            [address, size, "t" | "T" | "w" | "W", name] => {
                found.insert(number(address)?, (number(size)?, (*name).to_string()));
            }
            // Of what is written in assembly nobody says how long it is.
            [address, "t" | "T", name] => {
                found.entry(number(address)?).or_insert((ALIGNED, (*name).to_string()));
            }
            _ => {}
        }
    }
    ensure!(!found.is_empty(), "{} has no symbols: call cargo xtask order", binary.display());
    Ok(found)
}

/// Runs a program step by step. What it costs says nothing then.
fn walk(program: &Path, args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Result<(Cost, String)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the process is to be stopped before its first instruction"
    )]
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    #[expect(unsafe_code, reason = "what a child does before it is another program has no safe name")]
    // SAFETY: between fork and exec the child makes one system call.
    unsafe {
        command.pre_exec(|| ptrace::traceme().map_err(Into::into))
    };
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    // Both fit into a pipe.
    child.stdin.take().context("no stdin")?.write_all(stdin)?;
    let (addresses, ended) = steps(&child)?;
    let mut printed = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut printed)?;
    RUNS.lock().unwrap_or_else(PoisonError::into_inner).push(addresses);
    ensure!(ended == WaitStatus::Exited(pid(&child), 0), "{}: {ended:?}: {printed}", program.display());
    Ok((Cost::default(), printed))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Lets a stopped process go on instruction by instruction until it ends, and returns where it was.
fn steps(child: &Child) -> Result<(Vec<u64>, WaitStatus)> {
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    let pid = pid(child);
    loop {
        match waitpid(pid, None)? {
            WaitStatus::Stopped(..) => {}
            ended => return Ok((order, ended)),
        }
        let address = ptrace::getregs(pid)?.rip & !(ALIGNED - 1);
        if seen.insert(address) {
            order.push(address);
        }
        ptrace::step(pid, None)?;
    }
}
