//! `stage`: the only place where tests, demo and bench look for binaries.
//!
//! A plugin's start is a third of an ADD, and most of a start is the dynamic loader: the staged
//! binaries are static (docs/performance.md). `crt-static` must not reach procedural macros, so
//! the target is named even when it is the host's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::order::LINKS;
use crate::shell::{cargo, entries, output, program, run as execute, top, write};

/// Static for a fast start; with a build id, by which a plugin knows a copy of itself (crates/plugin/src/linked.rs).
const FLAGS: [&str; 3] =
    ["-Ctarget-feature=+crt-static", "-Crelocation-model=static", "-Clink-arg=-Wl,--build-id=sha1"];

/// A binary that is built, and the names it is staged under.
struct Binary {
    /// What cargo calls the binary.
    name: &'static str,
    package: &'static str,
    /// The names: its own, or the CNI types that it is.
    files: Vec<String>,
}

/// Builds and stages what the words of the command line name.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let mut profile = "release";
    let mut names = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--profile" => match rest.next().map(String::as_str) {
                Some("dev") => profile = "dev",
                Some("release") => profile = "release",
                other => bail!("stage: --profile takes dev or release, not {}", other.unwrap_or("nothing")),
            },
            word if word.starts_with('-') => bail!("stage: unknown option {word}"),
            name => names.push(name.to_string()),
        }
    }
    stage(profile, &names)
}

/// Builds everything for release and stages it.
pub(crate) fn all() -> Result<()> {
    stage("release", &[])
}

/// Builds the plugins for release and stages them with the names of their functions.
pub(crate) fn with_symbols() -> Result<()> {
    let triple = host_triple()?;
    let mut build = cargo();
    build.args(["rustc", "--quiet", "--release", "--target", &triple, "--package", "weft-multicall"]).args([
        "--bin",
        "weft-cni",
        "--",
        "-Cstrip=none",
    ]);
    execute(flagged(&mut build, "release")?)?;
    put(&top().join("target").join(&triple).join("release/weft-cni"), &types()?)
}

/// The folder that holds the staged binaries.
pub(crate) fn folder() -> PathBuf {
    top().join("target/stage/bin")
}

/// Returns the folders of `plugins/`, which are the CNI types.
pub(crate) fn types() -> Result<Vec<String>> {
    let folders = entries(&top().join("plugins"))?;
    let with_manifest = folders.into_iter().filter(|folder| folder.join("Cargo.toml").is_file());
    Ok(with_manifest.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_string())).collect())
}

/// Returns the name of the package in a plugin's folder, which a keyword of the language cannot be.
fn package_of(kind: &str) -> Result<String> {
    let manifest = top().join("plugins").join(kind).join("Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = "));
    Ok(name
        .with_context(|| format!("{} names no package", manifest.display()))?
        .trim_matches('"')
        .to_string())
}

/// Returns the package names of all plugins.
pub(crate) fn packages() -> Result<Vec<String>> {
    types()?.iter().map(|kind| package_of(kind)).collect()
}

fn stage(profile: &str, names: &[String]) -> Result<()> {
    let binaries = [
        Binary { name: "weft", package: "weft-cli", files: vec!["weft".into()] },
        Binary { name: "weftd", package: "weft-daemon", files: vec!["weftd".into()] },
        Binary { name: "weft-cni", package: "weft-multicall", files: types()? },
    ];
    let known = || binaries.iter().flat_map(|binary| &binary.files);
    if let Some(stranger) = names.iter().find(|name| known().all(|file| file != *name)) {
        bail!("stage: {stranger} is neither weft nor weftd nor a folder of plugins/");
    }
    let wanted = |binary: &&Binary| names.is_empty() || binary.files.iter().any(|file| names.contains(file));

    let triple = host_triple()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--profile", profile, "--target", &triple]);
    for binary in binaries.iter().filter(wanted) {
        build.args(["--package", binary.package]);
    }
    execute(flagged(&mut build, profile)?)?;

    let built = top().join("target").join(&triple).join(if profile == "dev" { "debug" } else { profile });
    std::fs::create_dir_all(folder()).context("cannot create target/stage/bin")?;
    for binary in binaries.iter().filter(wanted) {
        put(&built.join(binary.name), &binary.files)?;
    }
    for old in entries(&folder())? {
        if !known().any(|file| old.file_name() == Some(file.as_ref())) {
            std::fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    Ok(())
}

/// Gives a build its flags. For release this program is put before the linker, for the order of the functions, and their names say
/// all that tells one from another.
fn flagged<'build>(build: &'build mut Command, profile: &str) -> Result<&'build mut Command> {
    let mut flags = FLAGS.map(String::from).to_vec();
    if profile == "release" {
        let linker = std::env::current_exe().context("this program has no path")?;
        flags.extend(["-Csymbol-mangling-version=v0".into(), format!("-Clinker={}", linker.display())]);
        build.env(LINKS, "1");
    }
    Ok(build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")))
}

/// Copies a binary into place under its first name and links the others to it, by rename, so that one that is
/// running does not stand in the way. It is written in one piece: page by page, as `copy_file_range` does it, the page
/// cache has it in as many pieces, and what a start maps of it costs ten times as much (docs/performance.md).
fn put(from: &Path, names: &[String]) -> Result<()> {
    let Some(first) = names.first() else { return Ok(()) };
    let first = folder().join(first);
    for (number, name) in names.iter().enumerate() {
        let fresh = folder().join(format!("{name}.new"));
        if number == 0 {
            let binary = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            write(&fresh, binary)?;
            std::fs::set_permissions(&fresh, from.metadata()?.permissions())?;
        } else {
            std::fs::hard_link(&first, &fresh).with_context(|| format!("cannot link {}", fresh.display()))?;
        }
        let to = folder().join(name);
        std::fs::rename(&fresh, &to).with_context(|| format!("cannot rename to {}", to.display()))?;
    }
    Ok(())
}

fn host_triple() -> Result<String> {
    let about = output(program("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_string())
}
