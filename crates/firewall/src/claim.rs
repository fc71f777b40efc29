//! Who uses what: ownership records as empty files and short lists, true for this boot only.
//!
//! ```text
//! subnets/10.1.0.0_16/<network>             the network wants this subnet masqueraded
//! isolated/br-blue/<network>                the network wants this bridge apart from others that are
//! internal/br-blue/<network>                the network wants this bridge apart from everything
//! networks/<network>/subnets:10.1.0.0_16    the same the other way round
//! by-iptables/<network>                     the network's wishes are in chains of iptables, not in our table
//! iptables/<CNI-chain>/<interface>          whose the chain is, and the addresses that an attachment put into it, one a line
//! spoof/<port>                              whose port it is, and the address that its frames are to carry
//! nftables/<CNI-chain>/<interface>          the same where the reference plugins' nf_tables have a rule for each address
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
use weft_model::{ContainerId, Endpoint, IfName, Mac, NetworkName};
use weft_state::ports::Books;
use weft_state::{atomic, file};

use crate::entry::{Entry, OWN_LOCALNET};
use crate::iptables::masquerade::chain_of;
use crate::{Change, FirewallError};

/// The directory of networks whose rules are in chains of iptables.
const BY_IPTABLES: &str = "by-iptables";
/// The directory of ports whose frames are checked.
const SPOOF: &str = "spoof";
/// What begins the line that says whose a chain is: network and container.
const OF: &str = "of ";

/// In whose way an attachment's addresses are masqueraded, by rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A chain of iptables.
    Iptables,
    /// Rules in the reference plugins' table of nf_tables.
    Nftables,
}

impl Way {
    const fn folder(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// The directory with our claims.
pub(crate) struct Claims<'a>(pub(crate) &'a Path);

impl Claims<'_> {
    /// Returns the books of published ports, which are beside the claims, and so are the locks.
    pub(crate) fn books(&self) -> Books {
        let beside = |name| self.0.parent().unwrap_or(self.0).join(name);
        Books::at(&beside("ports"), &beside("locks"))
    }

    /// Notes that a network wants something. Cheap when that is noted already.
    pub(crate) fn take(&self, network: &NetworkName, entry: &Entry) -> Result<Change, FirewallError> {
        let path = self.wish(network, entry);
        let outcome = match fs::symlink_metadata(&path) {
            // The way from the network comes first: without it nobody would find the wish to drop it.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                create(&self.way(network, entry)).and_then(|_| create(&path)).map(|_| Change::Made)
            }
            other => other.map(|_| Change::AlreadyThere),
        };
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns whether the network has claimed this.
    pub(crate) fn has(&self, network: &NetworkName, entry: &Entry) -> bool {
        self.wish(network, entry).exists()
    }

    /// Forgets everything of these kinds that a network wanted and returns what that was.
    pub(crate) fn drop_all(
        &self,
        network: &NetworkName,
        kinds: &[&str],
    ) -> Result<Vec<Entry>, FirewallError> {
        let entries = self.of_network(network, kinds)?;
        self.drop_these(network, &entries)?;
        Ok(entries)
    }

    /// Forgets that a network wanted these.
    pub(crate) fn drop_these(&self, network: &NetworkName, entries: &[Entry]) -> Result<(), FirewallError> {
        for entry in entries {
            remove_file(&self.wish(network, entry))?;
            // Another network's wish keeps the directory, which is what refusal means here.
            fs::remove_dir(self.wishes(entry)).ok();
        }
        for entry in entries {
            remove_file(&self.way(network, entry))?;
        }
        // Claims of other kinds keep the directory.
        if fs::remove_dir(self.network(network)).is_ok() {
            self.note_carrier(network, false)?;
        }
        Ok(())
    }

    /// Returns what of these kinds a network wants of a link, or of any. Kinds are of links here.
    pub(crate) fn wanted_of(
        &self,
        network: &NetworkName,
        link: Option<&IfName>,
        kinds: &[&str],
    ) -> Result<Vec<Entry>, FirewallError> {
        let Some(link) = link else { return self.of_network(network, kinds) };
        // Not looked for among all: a network of many containers may want something of as many links.
        let of_link = kinds.iter().filter_map(|kind| Entry::parse(kind, link.as_str()));
        Ok(of_link.filter(|entry| self.has(network, entry)).collect())
    }

    /// Returns everything of these kinds that a network wants.
    pub(crate) fn of_network(
        &self,
        network: &NetworkName,
        kinds: &[&str],
    ) -> Result<Vec<Entry>, FirewallError> {
        let mut entries = Vec::new();
        for name in listed(&self.network(network))? {
            let Some((kind, name)) = name.split_once(':') else { continue };
            entries.extend(Entry::parse(kind, name).filter(|_| kinds.contains(&kind)));
        }
        Ok(entries)
    }

    /// Returns whether any network wants this.
    pub(crate) fn is_wanted(&self, entry: &Entry) -> Result<bool, FirewallError> {
        Ok(!listed(&self.wishes(entry))?.is_empty())
    }

    /// Returns who wants this.
    pub(crate) fn networks(&self, entry: &Entry) -> Result<Vec<NetworkName>, FirewallError> {
        Ok(listed(&self.wishes(entry))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns everything of these kinds that is wanted, each once, in order.
    pub(crate) fn all(&self, kinds: &[&str]) -> Result<Vec<Entry>, FirewallError> {
        self.wanted_by(kinds, |_, _| true)
    }

    /// Returns what networks want whose rules are in our table.
    pub(crate) fn in_our_table(&self, kinds: &[&str]) -> Result<Vec<Entry>, FirewallError> {
        let others = listed(&self.0.join(BY_IPTABLES))?;
        self.wanted_by(kinds, |kind, network| is_in_our_table(kind, network, &others))
    }

    /// Returns what networks want whose rules are in chains of iptables.
    pub(crate) fn in_iptables(&self, kinds: &[&str]) -> Result<Vec<Entry>, FirewallError> {
        let theirs = listed(&self.0.join(BY_IPTABLES))?;
        self.wanted_by(kinds, |kind, network| !is_in_our_table(kind, network, &theirs))
    }

    /// Returns whether any network's rules are in chains of iptables.
    pub(crate) fn has_networks_in_iptables(&self) -> Result<bool, FirewallError> {
        Ok(!listed(&self.0.join(BY_IPTABLES))?.is_empty())
    }

    /// Returns whether a network's rules are in chains of iptables.
    pub(crate) fn is_by_iptables(&self, network: &NetworkName) -> bool {
        self.0.join(BY_IPTABLES).join(network.as_str()).exists()
    }

    /// Returns whether a network has something in our table.
    pub(crate) fn is_in_our_table(&self, network: &NetworkName) -> bool {
        self.network(network).exists() && !self.is_by_iptables(network)
    }

    /// Notes that a network's rules are in chains of iptables, or else in our table.
    pub(crate) fn note_carrier(&self, network: &NetworkName, iptables: bool) -> Result<(), FirewallError> {
        let path = self.0.join(BY_IPTABLES).join(network.as_str());
        if iptables {
            create(&path).map(drop).map_err(|source| FirewallError::Claim { path, source })
        } else {
            remove_file(&path)
        }
    }

    /// Returns whether any network wants anything of these kinds. Looks no further than the first.
    pub(crate) fn any(&self, kinds: &[&str]) -> Result<bool, FirewallError> {
        self.any_by(kinds, |_, _| true)
    }

    /// Returns the same about networks whose rules are in our table.
    pub(crate) fn any_in_our_table(&self, kinds: &[&str]) -> Result<bool, FirewallError> {
        let others = listed(&self.0.join(BY_IPTABLES))?;
        self.any_by(kinds, |kind, network| is_in_our_table(kind, network, &others))
    }

    fn any_by(&self, kinds: &[&str], counts: impl Fn(&str, &str) -> bool) -> Result<bool, FirewallError> {
        for kind in kinds {
            for name in names(&self.0.join(kind))? {
                let Some(entry) = Entry::parse(kind, &name?) else { continue };
                if listed(&self.wishes(&entry))?.iter().any(|network| counts(kind, network)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn wanted_by(
        &self,
        kinds: &[&str],
        counts: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<Entry>, FirewallError> {
        let mut entries = Vec::new();
        for kind in kinds {
            for entry in listed(&self.0.join(kind))?.iter().filter_map(|name| Entry::parse(kind, name)) {
                if listed(&self.wishes(&entry))?.iter().any(|network| counts(kind, network)) {
                    entries.push(entry);
                }
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Notes which addresses an attachment has masqueraded so.
    pub(crate) fn take_chain(
        &self,
        way: Way,
        endpoint: &Endpoint,
        addresses: &[IpNetwork],
    ) -> Result<(), FirewallError> {
        let Endpoint { network, container, ifname } = endpoint;
        let chain = chain_of(endpoint);
        let path = self.chain(way, &chain).join(ifname.as_str());
        let addresses: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        let text = format!("{OF}{network} {container}\n{addresses}");
        let outcome = record(&path, &self.0.join(way.folder()), &text);
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns the attachments of a container on a network that use such a chain. A damaged record counts as one without
    /// addresses.
    pub(crate) fn chain_users(&self, way: Way, chain: &str) -> Result<Vec<ChainUser>, FirewallError> {
        let dir = self.chain(way, chain);
        let user = |ifname: String| {
            let text = file::read_text(&dir.join(&ifname)).unwrap_or_default();
            ChainUser::parse(ifname, &text)
        };
        Ok(listed(&dir)?.into_iter().map(user).collect())
    }

    /// Returns the attachments that are masqueraded so, with their addresses, those of one chain after the other. What
    /// somebody has written there by hand, or does not say whose it is, is nobody's.
    pub(crate) fn masqueraded(&self, way: Way) -> Result<Vec<(Endpoint, Vec<IpNetwork>)>, FirewallError> {
        let mut chains = listed(&self.0.join(way.folder()))?;
        // The lock and what is being written are there, too.
        chains.retain(|name| name.starts_with("CNI-"));
        chains.sort_unstable();
        let mut all = Vec::new();
        for chain in chains {
            let mut users = self.chain_users(way, &chain)?;
            users.sort_by(|one, other| one.ifname.cmp(&other.ifname));
            let attachments = users.into_iter().filter_map(ChainUser::into_attachment);
            all.extend(attachments.filter(|(endpoint, _)| chain_of(endpoint) == chain));
        }
        Ok(all)
    }

    /// Returns whether an attachment is on record with just these addresses.
    pub(crate) fn is_masqueraded(&self, way: Way, endpoint: &Endpoint, addresses: &[IpNetwork]) -> bool {
        self.masqueraded_of(way, endpoint).is_some_and(|known| known == addresses)
    }

    /// Returns the addresses that an attachment has on record, if it is there.
    pub(crate) fn masqueraded_of(&self, way: Way, endpoint: &Endpoint) -> Option<Vec<IpNetwork>> {
        let users = self.chain_users(way, &chain_of(endpoint)).unwrap_or_default();
        let mut attachments = users.into_iter().filter_map(ChainUser::into_attachment);
        attachments.find(|(known, _)| known == endpoint).map(|(_, addresses)| addresses)
    }

    /// Forgets that an attachment is masqueraded so.
    pub(crate) fn drop_chain(&self, way: Way, endpoint: &Endpoint) -> Result<(), FirewallError> {
        remove_last(&self.chain(way, &chain_of(endpoint)).join(endpoint.ifname.as_str()))
    }

    /// Notes that frames from an attachment's port are to carry this address. Returns whether that is new.
    pub(crate) fn take_spoof_check(
        &self,
        port: &IfName,
        endpoint: &Endpoint,
        mac: Mac,
    ) -> Result<Change, FirewallError> {
        let Endpoint { network, container, ifname } = endpoint;
        let path = self.spoof_check(port);
        let text = format!("{OF}{network} {container} {ifname}\n{mac}\n");
        if file::read_text(&path).is_ok_and(|known| known == text) {
            return Ok(Change::AlreadyThere);
        }
        let outcome = record(&path, self.0, &text);
        outcome.map(|()| Change::Made).map_err(|source| FirewallError::Claim { path, source })
    }

    /// Returns the ports whose frames are checked, with their attachments and addresses. A damaged record is none.
    pub(crate) fn spoof_checks(&self) -> Result<Vec<(IfName, Endpoint, Mac)>, FirewallError> {
        let mut all = Vec::new();
        for port in listed(&self.0.join(SPOOF))?.iter().filter_map(|name| name.parse().ok()) {
            all.extend(self.spoof_check_of(&port).map(|(endpoint, mac)| (port, endpoint, mac)));
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(all)
    }

    /// Returns whose port that is and the address that its frames are to carry, if they are checked.
    pub(crate) fn spoof_check_of(&self, port: &IfName) -> Option<(Endpoint, Mac)> {
        let text = file::read_text(&self.spoof_check(port)).ok()?;
        let mut lines = text.lines();
        let names: Vec<_> = lines.next()?.strip_prefix(OF)?.split(' ').collect();
        let [network, container, ifname] = names.try_into().ok()?;
        let (network, container) = (network.parse().ok()?, container.parse().ok()?);
        let endpoint = Endpoint { network, container, ifname: ifname.parse().ok()? };
        Some((endpoint, lines.next()?.parse().ok()?))
    }

    /// Forgets a port.
    pub(crate) fn drop_spoof_check(&self, port: &IfName) -> Result<(), FirewallError> {
        remove_last(&self.spoof_check(port))
    }

    fn spoof_check(&self, port: &IfName) -> PathBuf {
        self.0.join(SPOOF).join(port.as_str())
    }

    fn network(&self, network: &NetworkName) -> PathBuf {
        self.0.join("networks").join(network.as_str())
    }

    /// The networks that want something.
    fn wishes(&self, entry: &Entry) -> PathBuf {
        self.0.join(entry.kind()).join(entry.name())
    }

    fn wish(&self, network: &NetworkName, entry: &Entry) -> PathBuf {
        self.wishes(entry).join(network.as_str())
    }

    /// What leads from the network to the wish. No interface's name has a colon.
    fn way(&self, network: &NetworkName, entry: &Entry) -> PathBuf {
        self.network(network).join(format!("{}:{}", entry.kind(), entry.name()))
    }

    fn chain(&self, way: Way, chain: &str) -> PathBuf {
        self.0.join(way.folder()).join(chain)
    }
}

/// An attachment that uses a chain of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainUser {
    /// The interface's name.
    pub(crate) ifname: String,
    /// The network and the container, unless a version before this one wrote the record, or it is damaged.
    pub(crate) of: Option<(NetworkName, ContainerId)>,
    /// The addresses, with their prefix lengths.
    pub(crate) addresses: Vec<IpNetwork>,
}

impl ChainUser {
    fn parse(ifname: String, text: &str) -> Self {
        let of = text.lines().find_map(|line| line.strip_prefix(OF)).and_then(|names| {
            let (network, container) = names.split_once(' ')?;
            Some((network.parse().ok()?, container.parse().ok()?))
        });
        Self { ifname, of, addresses: text.lines().filter_map(|line| line.parse().ok()).collect() }
    }

    fn into_attachment(self) -> Option<(Endpoint, Vec<IpNetwork>)> {
        let (network, container) = self.of?;
        Some((Endpoint { network, container, ifname: self.ifname.parse().ok()? }, self.addresses))
    }
}

/// Who keeps others from the host's loopback addresses is said by the entry itself, of all others by the network's note.
fn is_in_our_table(kind: &str, network: &str, by_iptables: &[String]) -> bool {
    kind == OWN_LOCALNET || !by_iptables.iter().any(|other| other == network)
}

/// Creates an empty file, and its directory if need be.
///
/// The directory may be removed between the two steps by someone who drops the last claim in it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
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

/// Gives a record its text: readers see all of it, or what was there before.
///
/// It is written beside the directory that is listed, under a name by which a file that nobody finishes is collected
/// ([`weft_state::leftovers`]), then moved in.
fn record(path: &Path, beside: &Path, text: &str) -> io::Result<()> {
    let temporary = beside.join(atomic::temporary_name());
    create(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| move_in(&temporary, path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Gives a file its name, in a directory that may be removed meanwhile by someone who drops the last claim in it.
fn move_in(from: &Path, to: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match fs::rename(from, to) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && attempts < 8 => {
                DirBuilder::new().recursive(true).mode(0o755).create(to.parent().unwrap_or(to))?;
            }
            outcome => return outcome,
        }
    }
}

/// Removes a file, if it is there, and its directory unless that has others.
fn remove_last(path: &Path) -> Result<(), FirewallError> {
    match fs::remove_file(path) {
        Ok(()) => {
            path.parent().map(fs::remove_dir);
            Ok(())
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FirewallError::Claim { path: path.to_owned(), source }),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), FirewallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FirewallError::Claim { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Returns the names in a directory; none if it does not exist.
pub(crate) fn listed(dir: &Path) -> Result<Vec<String>, FirewallError> {
    names(dir)?.collect()
}

/// Returns the names in a directory one after the other, for whoever does not need all.
fn names(dir: &Path) -> Result<impl Iterator<Item = Result<String, FirewallError>>, FirewallError> {
    let path = dir.to_owned();
    let wrap = move |source| FirewallError::Claim { path: path.clone(), source };
    let entries = match fs::read_dir(dir) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        entries => Some(entries.map_err(&wrap)?),
    };
    let name = move |entry: io::Result<fs::DirEntry>| match entry {
        Ok(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
        Err(cause) => Err(wrap(cause)),
    };
    Ok(entries.into_iter().flatten().map(name))
}

#[cfg(test)]
mod tests;
