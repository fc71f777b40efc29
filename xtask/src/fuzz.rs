//! `fuzz`: what comes from outside, thought up by libFuzzer from the committed corpora, for a bounded time.
//!
//! `fuzz/` is what `cargo fuzz` expects, for whoever has it and a nightly compiler. Neither is needed here: the pinned
//! compiler takes the same options. They are given for the crates of this repository alone, by a wrapper around the
//! compiler that is this program: what we call is other people's to fuzz, and measuring it takes minutes to build.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::setup;
use crate::shell::{cargo, entries, in_its_place, program, run as execute, top};

/// The variable by which this program knows that cargo calls it in place of the compiler.
pub(crate) const WRAPS: &str = "WEFT_MEASURED";
/// What libFuzzer needs of our code, as `cargo fuzz` asks for it: which edges were taken, and what was compared.
const MEASURED: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// How long each target is run when nobody says, in seconds.
const SECONDS: u32 = 10;
/// No input takes longer, in seconds, nor more memory, in MiB; and none is longer, in bytes.
const BOUNDS: [&str; 3] = ["-timeout=20", "-rss_limit_mb=1024", "-max_len=8192"];

/// Runs the targets that are named, or all.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let outcomes = outcomes(words)?;
    let crashed: Vec<&str> = outcomes.iter().filter(|one| !one.good).map(|one| one.name.as_str()).collect();
    if !crashed.is_empty() {
        bail!("fuzz: {} crashed", crashed.join(", "));
    }
    Ok(())
}

/// How the run of a target ended.
pub(crate) struct Outcome {
    name: String,
    pub(crate) good: bool,
}

/// Builds the targets, runs those that are named, or all, and says of each how it ended.
pub(crate) fn outcomes(words: &[String]) -> Result<Vec<Outcome>> {
    let mut seconds = SECONDS;
    let mut names = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--seconds" => {
                let number = rest.next().context("fuzz: --seconds needs a number")?;
                seconds =
                    number.parse().with_context(|| format!("fuzz: {number} is no number of seconds"))?;
            }
            word if word.starts_with('-') => bail!("fuzz: unknown option {word}"),
            name => names.push(name.to_string()),
        }
    }
    let corpora = entries(&top().join("fuzz/corpus"))?;
    let name_of = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let known: Vec<String> = corpora.iter().filter_map(name_of).collect();
    if let Some(stranger) = names.iter().find(|name| !known.contains(name)) {
        bail!("fuzz: {stranger} is no target; there are {}", known.join(", "));
    }
    if names.is_empty() {
        names = known;
    }
    setup::run()?;
    build()?;
    // Each target has a processor to itself.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Vec::new();
    for few in names.chunks(cores) {
        all.extend(at_once(few, seconds)?);
    }
    Ok(all)
}

fn folder() -> PathBuf {
    top().join("target/fuzz")
}

fn build() -> Result<()> {
    let wrapper = std::env::current_exe().context("this program has no path")?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    build.arg("--target-dir").arg(folder());
    execute(build.env("RUSTC_WRAPPER", wrapper).env(WRAPS, top()))
}

/// Runs some targets beside each other, and says of a crash which input it was and how to run it again.
fn at_once(names: &[String], seconds: u32) -> Result<Vec<Outcome>> {
    let mut running = Vec::new();
    for name in names {
        let found = folder().join("found").join(name);
        std::fs::create_dir_all(&found).context("cannot create target/fuzz/found")?;
        let mut command = program(binary(name));
        command.arg(format!("-max_total_time={seconds}")).args(BOUNDS);
        command.arg(format!("-artifact_prefix={}/{name}-", folder().display()));
        // What is new goes to the first folder; the committed ones are read.
        command.arg(found).arg(top().join("fuzz/corpus").join(name)).stdin(Stdio::null());
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        running.push((name, command.spawn().with_context(|| format!("cannot start target {name}"))?));
    }
    // All are listened to: one whose words nobody reads would wait.
    let ended: Vec<_> = thread::scope(|scope| {
        let listen = |(name, child): (_, Child)| (name, scope.spawn(move || child.wait_with_output()));
        let all: Vec<_> = running.into_iter().map(listen).collect();
        all.into_iter().map(|(name, ended)| (name, ended.join())).collect()
    });
    let mut outcomes = Vec::new();
    for (name, ended) in ended {
        let ended = ended.map_err(|_| anyhow!("target {name} was lost"))?;
        let ended = ended.with_context(|| format!("target {name} was lost"))?;
        let said = String::from_utf8_lossy(&ended.stderr);
        let good = ended.status.success();
        if good {
            println!("{name}: {}", said.lines().rfind(|line| !line.is_empty()).unwrap_or("nothing was said"));
        } else {
            eprintln!("{said}\n{name} crashed: {}", ended.status);
            if let Some(input) = said.lines().find_map(|line| line.split_once(WRITTEN)) {
                eprintln!("the same again: {} {}", binary(name).display(), input.1);
            }
        }
        outcomes.push(Outcome { name: name.clone(), good });
    }
    Ok(outcomes)
}

/// What libFuzzer writes before the path of the input that crashed.
const WRITTEN: &str = "Test unit written to ";

fn binary(name: &str) -> PathBuf {
    folder().join("release").join(name)
}

/// Is the compiler, with more options for our own crates. Cargo calls it with the compiler's path in front.
pub(crate) fn compile(ours: &Path) -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next().context("cargo names no compiler")?;
    let words: Vec<OsString> = words.collect();
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let follows = |word: &str| words.windows(2).any(|two| two[0] == "--crate-type" && two[1] == *word);
    let is_ours = folder.starts_with(ours) && !follows("proc-macro");
    let more = if is_ours { MEASURED.map(OsString::from).to_vec() } else { Vec::new() };
    in_its_place(compiler, &words, &more, WRAPS)
}
