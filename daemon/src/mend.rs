//! What is asked and done about a change: what `weft doctor` asks and `weft network reload` does.

use anyhow::{Result, bail};
use weft_manager::Manager;

/// What a finding names that writing the rules again mends. The others need a decision, which is not ours.
const RELOAD: &str = "weft network reload";

/// Lists what is missing and can be put back, a line each.
pub(crate) fn missing(manager: &Manager) -> Result<Vec<String>> {
    let found = manager.doctor(false)?;
    let ours = found.iter().filter(|finding| finding.mend.starts_with(RELOAD));
    Ok(ours.map(ToString::to_string).collect())
}

/// Writes everything again that should be there.
pub(crate) fn mend(manager: &Manager) -> Result<()> {
    let errors = manager.reload(None)?;
    if !errors.is_empty() {
        bail!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    Ok(())
}
