//! One whole process, from before its start until its end is known and its pipes are empty.

use std::io::{Read, Write};
use std::ops::Add;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Usage, UsageWho, getrusage};

/// What one operation cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// From start to end, by the clock on the wall.
    pub(crate) wall: Duration,
    /// User and system time of the process and of all it waited for.
    pub(crate) cpu: Duration,
    /// Pages it touched for the first time.
    pub(crate) faults: i64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { wall: self.wall + other.wall, cpu: self.cpu + other.cpu, faults: self.faults + other.faults }
    }
}

/// Runs a program with three pipes and returns what it cost and printed.
pub(crate) fn run(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    stdin: &[u8],
) -> Result<(Cost, String)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the measured process is started the shortest way there is"
    )]
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());

    let before = used()?;
    let start = Instant::now();
    // Without its folder: it is named in a page of the documentation.
    let name = program.file_name().unwrap_or_default();
    let mut child = command.spawn().with_context(|| format!("there is no {}", name.display()))?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin).ok();
    }
    let mut printed = String::new();
    let mut complained = String::new();
    if let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) {
        out.read_to_string(&mut printed)?;
        err.read_to_string(&mut complained)?;
    }
    let status = child.wait()?;
    let wall = start.elapsed();
    let after = used()?;
    if !status.success() {
        bail!("{} {}: {status}: {printed}{complained}", program.display(), args.join(" "));
    }
    let cpu = time(&after).saturating_sub(time(&before));
    let faults = after.minor_page_faults() - before.minor_page_faults();
    Ok((Cost { wall, cpu, faults }, printed))
}

/// What our children used so far, those included that they waited for themselves.
fn used() -> Result<Usage> {
    getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask what the children used")
}

fn time(usage: &Usage) -> Duration {
    let sum = usage.user_time() + usage.system_time();
    let microseconds =
        u64::try_from(sum.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(sum.tv_usec()).unwrap_or(0);
    Duration::from_micros(microseconds)
}
