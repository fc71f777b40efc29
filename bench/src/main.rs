//! Measures weft against Debian's CNI plugins, docker and netavark, side by side in one run.
//!
//! Whole processes, started as a runtime starts them, each side on a host of its own (network and
//! mount namespaces), one after the other. `--quick` prints a rough picture, `--traffic` only what passes
//! through a published port, `--plugins` only every plugin, or those named behind it, `--overlay` overlays, `--hosts` how five hundred hosts come to know each other;
//! without any docs/performance.md is written. `--order` writes which functions the plugins run (`cargo xtask order`).
#![expect(clippy::print_stdout, reason = "a tool for people: its stdout is a screen, not a protocol")]

mod bare;
mod docker;
mod every;
mod host;
mod machine;
mod netavark;
mod order;
mod overlay;
mod peers;
mod process;
mod published;
mod ratio;
mod report;
mod rounds;
mod storm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

const PAGE: &str = "docs/performance.md";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    host::place_programs()?;
    let quick = match words.as_slice() {
        [] => false,
        [word] if word == "--quick" => true,
        [word] if word == "--traffic" => {
            print!("{}", published::traffic_alone(&rounds::Size::TRAFFIC)?);
            return Ok(());
        }
        [word] if word == "--hosts" => {
            print!("{}", storm::measure()?);
            return Ok(());
        }
        [word] if word == "--overlay" => {
            print!("{}", overlay::measure()?);
            return Ok(());
        }
        [word, kinds @ ..] if word == "--plugins" => {
            print!("{}", every::measure(rounds::Size::FULL.containers, kinds)?);
            return Ok(());
        }
        [word] if word == "--order" => return write(&top(order::LIST), order::functions()?),
        _ => bail!("takes --quick, --traffic, --plugins [NAME]..., --overlay, --hosts or nothing"),
    };
    let size = if quick { rounds::Size::QUICK } else { rounds::Size::FULL };
    let figures = rounds::measure(&size)?;
    let published = published::measure(&size)?;
    let mut page = report::page(&figures, &published, &size)?;
    let keep = |page: &str| if quick { Ok(()) } else { write(&top(PAGE), page) };
    keep(&page)?;
    let mut failed = Vec::new();
    let mut append = |title: &'static str, measured: Result<String>| {
        // What is there took its time, and is none the worse for what fails or is broken off behind it.
        let section = measured.unwrap_or_else(|error| {
            failed.push(title);
            format!("\nNot measured: {error:#}.\n")
        });
        page.push_str(&format!("\n## {title}\n{section}"));
        keep(&page)
    };
    host::place_programs()?;
    append("Every plugin", every::measure(size.containers, &[]))?;
    append("Overlays", overlay::measure())?;
    if !quick {
        append("Many hosts", storm::measure())?;
    }
    print!("{page}");
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// Returns a path of the work tree.
fn top(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Writes a file of the work tree.
#[expect(clippy::disallowed_methods, reason = "a work tree is no state: git keeps the old text")]
fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
