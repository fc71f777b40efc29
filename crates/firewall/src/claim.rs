//! Who uses what: ownership records as empty files and short lists, true for this boot only.
//!
//! ```text
//! subnets/<network>/10.1.0.0_16           the network wants this subnet masqueraded
//! iptables/<CNI-chain>/<interface>        addresses, one a line, that an attachment put into a chain
//! ```
//!
//! INVARIANT: a claim is made before the kernel is asked whether the rule exists, and dropped before
//! the rule is removed. Whoever removes a rule looks for claims again afterwards and puts the rule
//! back if one has appeared (weft.rs). So no lock is needed, and a rule whose owner is alive
//! is never missing for longer than the moment between two system calls.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use weft_model::NetworkName;

use crate::FirewallError;

/// The directory with our claims.
pub(crate) struct Claims<'a>(pub(crate) &'a Path);

impl Claims<'_> {
    /// Notes that a network wants a subnet masqueraded. Cheap when that is noted already.
    pub(crate) fn take_subnet(&self, network: &NetworkName, subnet: IpNetwork) -> Result<(), FirewallError> {
        let path = self.subnet(network.as_str(), subnet);
        let outcome = match fs::symlink_metadata(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => create(&path).map(drop),
            other => other.map(drop),
        };
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns whether the network has claimed the subnet.
    pub(crate) fn has_subnet(&self, network: &NetworkName, subnet: IpNetwork) -> bool {
        self.subnet(network.as_str(), subnet).exists()
    }

    /// Forgets everything a network wanted masqueraded and returns what that was.
    pub(crate) fn drop_subnets(&self, network: &NetworkName) -> Result<Vec<IpNetwork>, FirewallError> {
        let dir = self.subnets().join(network.as_str());
        let wrap = |source| FirewallError::Claim { path: dir.clone(), source };
        let subnets: Vec<_> = names(&dir).map_err(wrap)?.iter().filter_map(|name| parse(name)).collect();
        match fs::remove_dir_all(&dir) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(wrap(cause)),
            _ => Ok(subnets),
        }
    }

    /// Returns whether any network wants the subnet masqueraded.
    pub(crate) fn is_wanted(&self, subnet: IpNetwork) -> Result<bool, FirewallError> {
        let dir = self.subnets();
        let networks = names(&dir).map_err(|source| FirewallError::Claim { path: dir, source })?;
        Ok(networks.iter().any(|network| self.subnet(network, subnet).exists()))
    }

    /// Returns every subnet that is wanted, each once.
    pub(crate) fn all_subnets(&self) -> Result<Vec<IpNetwork>, FirewallError> {
        let mut subnets = Vec::new();
        let dir = self.subnets();
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| FirewallError::Claim { path, source }
        };
        for network in names(&dir).map_err(wrap(&dir))? {
            let dir = dir.join(network);
            subnets.extend(names(&dir).map_err(wrap(&dir))?.iter().filter_map(|name| parse(name)));
        }
        subnets.sort();
        subnets.dedup();
        Ok(subnets)
    }

    /// Notes which addresses an attachment put into an iptables chain.
    pub(crate) fn take_chain(
        &self,
        chain: &str,
        ifname: &str,
        addresses: &[IpNetwork],
    ) -> Result<(), FirewallError> {
        let path = self.chain(chain).join(ifname);
        let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        replace(&path, &text).map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns the attachments that use an iptables chain, each with its addresses. A damaged record counts
    /// as one without addresses.
    pub(crate) fn chain_users(&self, chain: &str) -> Result<Vec<(String, Vec<IpNetwork>)>, FirewallError> {
        let dir = self.chain(chain);
        let users = names(&dir).map_err(|source| FirewallError::Claim { path: dir.clone(), source })?;
        Ok(users
            .into_iter()
            .filter(|user| !user.starts_with('.'))
            .map(|user| {
                let text = fs::read_to_string(dir.join(&user)).unwrap_or_default();
                (user, text.lines().filter_map(|line| line.parse().ok()).collect())
            })
            .collect())
    }

    /// Forgets an attachment's use of an iptables chain.
    pub(crate) fn drop_chain(&self, chain: &str, ifname: &str) -> Result<(), FirewallError> {
        let dir = self.chain(chain);
        let path = dir.join(ifname);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(FirewallError::Claim { path, source: cause });
            }
            _ => {}
        }
        // Another attachment's claim keeps the directory, which is what refusal means here.
        fs::remove_dir(&dir).ok();
        Ok(())
    }

    fn subnets(&self) -> PathBuf {
        self.0.join("subnets")
    }

    fn subnet(&self, network: &str, subnet: IpNetwork) -> PathBuf {
        self.0.join(format!("subnets/{network}/{}_{}", subnet.network(), subnet.prefix()))
    }

    fn chain(&self, chain: &str) -> PathBuf {
        self.0.join("iptables").join(chain)
    }
}

/// Creates an empty file, and its directory if need be.
///
/// The directory may be removed between the two steps by someone who drops the last claim in it.
fn create(path: &Path) -> io::Result<File> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match OpenOptions::new().write(true).create(true).truncate(true).open(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && attempts < 8 => {
                DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(path))?;
            }
            outcome => return outcome,
        }
    }
}

/// Replaces a file as a whole: readers see the old text or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    create(&temporary)?.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)
}

/// Returns the names in a directory; none if it does not exist.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(cause) => Err(cause),
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
        }
    }
}

fn parse(name: &str) -> Option<IpNetwork> {
    name.replace('_', "/").parse().ok()
}
