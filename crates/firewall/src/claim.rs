//! Who uses what: ownership records as empty files and short lists, true for this boot only.
//!
//! ```text
//! subnets/10.1.0.0_16/<network>           the network wants this subnet masqueraded
//! networks/<network>/10.1.0.0_16          the same the other way round
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
        let path = self.wish(network, subnet);
        let outcome = match fs::symlink_metadata(&path) {
            // The way from the network comes first: without it nobody would find the wish to drop it.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                create(&self.network(network).join(file_name(subnet))).and_then(|_| create(&path)).map(drop)
            }
            other => other.map(drop),
        };
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns whether the network has claimed the subnet.
    pub(crate) fn has_subnet(&self, network: &NetworkName, subnet: IpNetwork) -> bool {
        self.wish(network, subnet).exists()
    }

    /// Forgets everything a network wanted masqueraded and returns what that was.
    pub(crate) fn drop_subnets(&self, network: &NetworkName) -> Result<Vec<IpNetwork>, FirewallError> {
        let dir = self.network(network);
        let subnets: Vec<_> = listed(&dir)?.iter().filter_map(|name| parse(name)).collect();
        for &subnet in &subnets {
            remove_file(&self.wish(network, subnet))?;
            // Another network's wish keeps the directory, which is what refusal means here.
            fs::remove_dir(self.subnet(subnet)).ok();
        }
        for &subnet in &subnets {
            remove_file(&dir.join(file_name(subnet)))?;
        }
        fs::remove_dir(&dir).ok();
        Ok(subnets)
    }

    /// Returns whether any network wants the subnet masqueraded.
    pub(crate) fn is_wanted(&self, subnet: IpNetwork) -> Result<bool, FirewallError> {
        Ok(!listed(&self.subnet(subnet))?.is_empty())
    }

    /// Returns every subnet that is wanted, each once.
    pub(crate) fn all_subnets(&self) -> Result<Vec<IpNetwork>, FirewallError> {
        let mut subnets = Vec::new();
        for subnet in listed(&self.0.join("subnets"))?.iter().filter_map(|name| parse(name)) {
            if self.is_wanted(subnet)? {
                subnets.push(subnet);
            }
        }
        subnets.sort();
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
        // Written beside the directory that is listed, then moved in: readers see all of it or nothing.
        let temporary = self.0.join("iptables").join(format!(".{chain}-{ifname}"));
        let outcome = create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| DirBuilder::new().recursive(true).mode(0o755).create(self.chain(chain)))
            .and_then(|()| fs::rename(&temporary, &path));
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns the attachments that use an iptables chain, each with its addresses. A damaged record counts
    /// as one without addresses.
    pub(crate) fn chain_users(&self, chain: &str) -> Result<Vec<(String, Vec<IpNetwork>)>, FirewallError> {
        let dir = self.chain(chain);
        Ok(listed(&dir)?
            .into_iter()
            .map(|user| {
                let text = fs::read_to_string(dir.join(&user)).unwrap_or_default();
                (user, text.lines().filter_map(|line| line.parse().ok()).collect())
            })
            .collect())
    }

    /// Forgets an attachment's use of an iptables chain.
    pub(crate) fn drop_chain(&self, chain: &str, ifname: &str) -> Result<(), FirewallError> {
        let dir = self.chain(chain);
        remove_file(&dir.join(ifname))?;
        // Another attachment's claim keeps the directory.
        fs::remove_dir(&dir).ok();
        Ok(())
    }

    fn network(&self, network: &NetworkName) -> PathBuf {
        self.0.join("networks").join(network.as_str())
    }

    fn subnet(&self, subnet: IpNetwork) -> PathBuf {
        self.0.join("subnets").join(file_name(subnet))
    }

    fn wish(&self, network: &NetworkName, subnet: IpNetwork) -> PathBuf {
        self.subnet(subnet).join(network.as_str())
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

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<(), FirewallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FirewallError::Claim { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Returns the names in a directory; none if it does not exist.
fn listed(dir: &Path) -> Result<Vec<String>, FirewallError> {
    let names = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
    });
    match names {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|source| FirewallError::Claim { path: dir.to_owned(), source }),
    }
}

/// Returns the name of a subnet's file or directory.
fn file_name(subnet: IpNetwork) -> String {
    format!("{}_{}", subnet.network(), subnet.prefix())
}

fn parse(name: &str) -> Option<IpNetwork> {
    name.replace('_', "/").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_wanted_until_its_last_network_drops_it() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims(dir.path());
        let [n1, n2] = ["n1", "n2"].map(|name| name.parse::<NetworkName>().unwrap());
        let [v4, v6] = ["10.1.2.3/16", "fd00::1/64"].map(|text| text.parse::<IpNetwork>().unwrap());
        claims.take_subnet(&n1, v4).unwrap();
        claims.take_subnet(&n1, v4).unwrap();
        claims.take_subnet(&n1, v6).unwrap();
        claims.take_subnet(&n2, v4).unwrap();
        assert!(claims.has_subnet(&n2, "10.1.0.0/16".parse().unwrap()), "host bits do not count");
        assert!(!claims.has_subnet(&n2, v6));

        let mut dropped = claims.drop_subnets(&n1).unwrap();
        dropped.sort();

        let networks = ["10.1.0.0/16", "fd00::/64"].map(|text| text.parse().unwrap());
        assert_eq!(dropped, networks);
        assert!(claims.is_wanted(v4).unwrap());
        assert!(!claims.is_wanted(v6).unwrap());
        assert_eq!(claims.all_subnets().unwrap(), networks[..1]);
        assert_eq!(claims.drop_subnets(&n1).unwrap(), []);
        claims.drop_subnets(&n2).unwrap();
        assert!(!claims.is_wanted(v4).unwrap());
    }

    #[test]
    fn a_chain_knows_its_users() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims(dir.path());
        let addresses = ["10.1.2.3/16".parse().unwrap(), "fd00::1/64".parse().unwrap()];
        claims.take_chain("CNI-1", "eth0", &addresses).unwrap();
        claims.take_chain("CNI-1", ".odd", &[]).unwrap();
        claims.take_chain("CNI-1", "eth0", &addresses[..1]).unwrap();
        let mut users = claims.chain_users("CNI-1").unwrap();
        users.sort();
        assert_eq!(users, [(".odd".into(), vec![]), ("eth0".into(), vec![addresses[0]])]);

        claims.drop_chain("CNI-1", "eth0").unwrap();
        claims.drop_chain("CNI-1", "eth0").unwrap();
        assert_eq!(claims.chain_users("CNI-1").unwrap().len(), 1);
        claims.drop_chain("CNI-1", ".odd").unwrap();
        assert_eq!(claims.chain_users("CNI-1").unwrap(), []);
    }

    #[test]
    fn a_record_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let error = Claims(&file).take_subnet(&"n1".parse().unwrap(), "10.0.0.0/8".parse().unwrap());
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("cannot keep the claim ") && text.ends_with("10.0.0.0_8/n1"), "{text}");
    }
}
