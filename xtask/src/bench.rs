//! `bench`: builds the measuring program and hands over to it.

use anyhow::{Result, bail};

use crate::shell::{cargo, output, program, run as execute, top};
use crate::{kernel, peers, setup, stage};

/// Measures; with `--quick` fewer rounds, with `--traffic` only what passes through a port, with `--plugins` only every plugin, with
/// `--overlay` only overlays, with `--hosts` only hundreds of hosts on one etcd; no page is written then.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (words, guest) = match words {
        [plugins, kernel, name, kinds @ ..] if plugins == "--plugins" && kernel == "--kernel" => {
            if name != "debian" {
                bail!("bench: --kernel takes debian, not {name}");
            }
            ([&[plugins.clone()], kinds].concat(), true)
        }
        words => (words.to_vec(), false),
    };
    setup::run()?;
    peers::ensure();
    if let Some(lack) = guest.then(kernel::lacks).flatten() {
        bail!("bench: Debian's kernel needs {lack}");
    }
    stage::all()?;
    output(cargo().args(["build", "--quiet", "--release", "--package", "weft-bench"]))?;
    let program_path = top().join("target/release/weft-bench");
    if !guest {
        return execute(program(program_path).args(words));
    }
    let line = format!("{} {}", program_path.display(), words.join(" "));
    let mut guest = kernel::prepare(&[line])?;
    execute(&mut guest.command)?;
    let ended = std::fs::read_to_string(guest.shared.join("rc")).unwrap_or_default();
    if ended.trim() == "0" { Ok(()) } else { bail!("bench: what ran under Debian's kernel did not end well") }
}
