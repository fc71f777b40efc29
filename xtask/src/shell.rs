//! Starting programs and writing files: the two things a task does.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// The repository's top folder.
pub(crate) fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The search path given to every program: root's folders and cargo's too, which a login shell may lack.
pub(crate) fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    format!("{own}:{cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Prepares a program that will run in the repository's top folder.
#[expect(clippy::disallowed_methods, reason = "a task runs other programs, and waits as long as they take")]
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(top()).env("PATH", search_path());
    command
}

/// Prepares the cargo that started this task.
///
/// What that one says of this package is kept from it: build scripts of others look at such variables, and would run
/// again, with all that depends on them, whenever somebody calls cargo without us.
pub(crate) fn cargo() -> Command {
    let mut command = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

fn is_of_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|begin| name.starts_with(begin))
}

/// Runs a program to its end with our own stdout and stderr.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = line(command);
    let status = command.status().with_context(|| format!("cannot start {text}"))?;
    if !status.success() {
        bail!("{text}: {status}");
    }
    Ok(())
}

/// Runs a program and returns what it printed; its stderr becomes part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let text = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {text}"))?;
    if !output.status.success() {
        bail!("{text}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program that must fail and returns what it complained.
pub(crate) fn complaint(command: &mut Command) -> Result<String> {
    let text = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {text}"))?;
    if output.status.success() {
        bail!("{text}: succeeded: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_string())
}

/// Runs a program in whose place this one was called, where and with the words that were meant for it and `more`. `variable`
/// is what made this program stand in, and is not handed on.
pub(crate) fn in_its_place(
    program: impl AsRef<OsStr>,
    words: &[OsString],
    more: &[OsString],
    variable: &str,
) -> Result<ExitCode> {
    let mut command = self::program(program);
    // Whoever called it has its own current folder, which is not the top.
    command.current_dir(std::env::current_dir().context("there is no current folder")?);
    command.args(words).args(more).env_remove(variable);
    let status = command.status().with_context(|| format!("cannot start {}", line(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says whether a program of this name would be found.
pub(crate) fn have(name: &str) -> bool {
    search_path().split(':').any(|folder| Path::new(folder).join(name).is_file())
}

/// Says whether we run as root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// Writes a file of the work tree.
#[expect(clippy::disallowed_methods, reason = "a work tree is no state: git keeps the old text")]
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the entries of a folder, sorted.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Returns the files of the work tree that git knows or would add.
pub(crate) fn tracked() -> Result<Vec<PathBuf>> {
    let list = output(program("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(list.lines().map(|name| top().join(name)).filter(|path| path.is_file()).collect())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
