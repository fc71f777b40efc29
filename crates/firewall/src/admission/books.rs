//! What each attachment got, as short texts.
//!
//! ```text
//! admissions/<network>/<container>,<ifname>       what the attachment got, a line each
//! admitted-by/<carrier>/<address>/<owner>         an attachment wants this address let through
//! admitted-by/<carrier>/<bridge>/<owner>          an attachment wants this bridge's policy
//! ```
//!
//! An owner is a hash of the endpoint: three names do not fit into one.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use weft_model::{Endpoint, IfName, NetworkName};
use weft_state::file;

use super::{Admission, Carrier, Ingress};
use crate::FirewallError;
use crate::claim::{create, listed, remove_file};

/// What an attachment got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(super) carrier: Carrier,
    pub(super) admin_chain: String,
    pub(super) zone: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ingress: Option<Ingress>,
}

/// What nobody wants any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) bridges: Vec<IfName>,
}

/// The name by which an attachment claims something, in the place of a network's.
pub(super) fn owner(endpoint: &Endpoint) -> NetworkName {
    let Endpoint { network, container, ifname } = endpoint;
    let digest = Sha256::digest(format!("{network}/{container}/{ifname}"));
    #[expect(clippy::expect_used, reason = "letters, digits and a dash are a name")]
    format!("attachment-{}", hex::encode(&digest[..16])).parse().expect("a name")
}

impl Record {
    pub(super) fn of(wanted: &Admission, carrier: Carrier) -> Self {
        let mut addresses = wanted.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            carrier,
            admin_chain: wanted.admin_chain.clone(),
            zone: wanted.zone.clone(),
            addresses,
            ingress: wanted.ingress.clone(),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("carrier {}\nadmin {}\nzone {}\n", self.carrier, self.admin_chain, self.zone);
        for addr in &self.addresses {
            writeln!(text, "address {addr}").ok();
        }
        if let Some(Ingress { bridge, closed }) = &self.ingress {
            writeln!(text, "{} {bridge}", if *closed { "isolated" } else { "same-bridge" }).ok();
        }
        text
    }

    /// Reads what [`Self::to_text`] wrote. A line that says nothing to us counts as none.
    fn parse(text: &str) -> Option<Self> {
        let mut record = Self {
            carrier: Carrier::Auto,
            admin_chain: String::new(),
            zone: String::new(),
            addresses: Vec::new(),
            ingress: None,
        };
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match key {
                "carrier" => record.carrier = carrier(value)?,
                "admin" => value.clone_into(&mut record.admin_chain),
                "zone" => value.clone_into(&mut record.zone),
                "address" => record.addresses.extend(value.parse::<IpAddr>()),
                "same-bridge" | "isolated" => {
                    let closed = key == "isolated";
                    record.ingress = value.parse().ok().map(|bridge| Ingress { bridge, closed });
                }
                _ => {}
            }
        }
        (record.carrier != Carrier::Auto).then_some(record)
    }
}

fn carrier(name: &str) -> Option<Carrier> {
    [Carrier::Weft, Carrier::Iptables, Carrier::Firewalld]
        .into_iter()
        .find(|carrier| carrier.to_string() == name)
}

/// The directory with our records.
pub(super) struct Books<'a>(pub(super) &'a Path);

impl Books<'_> {
    pub(super) fn read(&self, endpoint: &Endpoint) -> Option<Record> {
        Record::parse(&file::read_text(&self.page(endpoint)).ok()?)
    }

    /// Written beside the directory that is listed, then moved in: readers see all of it or nothing.
    pub(super) fn write(&self, endpoint: &Endpoint, record: &Record) -> Result<(), FirewallError> {
        if self.read(endpoint).as_ref() == Some(record) {
            return Ok(());
        }
        let path = self.page(endpoint);
        let temporary = self.0.join("admissions").join(format!(".{}", owner(endpoint)));
        let folder = self.folder(&endpoint.network);
        let outcome = create(&temporary)
            .and_then(|mut file| file.write_all(record.to_text().as_bytes()))
            .and_then(|()| fs::create_dir_all(folder))
            .and_then(|()| fs::rename(&temporary, &path));
        outcome.map_err(|source| FirewallError::Claim { path, source })
    }

    pub(super) fn forget(&self, endpoint: &Endpoint) -> Result<(), FirewallError> {
        remove_file(&self.page(endpoint))?;
        // Another attachment's page keeps the directory.
        fs::remove_dir(self.folder(&endpoint.network)).ok();
        Ok(())
    }

    pub(super) fn of_network(&self, network: &NetworkName) -> Vec<Endpoint> {
        let pages = listed(&self.folder(network)).unwrap_or_default();
        let endpoint = |page: &String| {
            let (container, ifname) = page.split_once(',')?;
            let (container, ifname) = (container.parse().ok()?, ifname.parse().ok()?);
            Some(Endpoint { network: network.clone(), container, ifname })
        };
        pages.iter().filter_map(endpoint).collect()
    }

    pub(super) fn all(&self) -> Vec<(Endpoint, Record)> {
        let networks = listed(&self.0.join("admissions")).unwrap_or_default();
        let networks = networks.iter().filter_map(|name| name.parse::<NetworkName>().ok());
        let endpoints = networks.flat_map(|network| self.of_network(&network));
        endpoints.filter_map(|endpoint| self.read(&endpoint).map(|record| (endpoint, record))).collect()
    }

    /// Notes what the attachment wants of what others may want as well.
    pub(super) fn want(&self, endpoint: &Endpoint, record: &Record) -> Result<(), FirewallError> {
        for folder in self.wishes(record) {
            let path = folder.join(owner(endpoint).as_str());
            create(&path).map_err(|source| FirewallError::Claim { path, source })?;
        }
        Ok(())
    }

    /// Tells whether all that the attachment wants of what others may want as well is noted: it is not before the rules are
    /// written, nor when they have been taken away.
    pub(super) fn is_wished(&self, endpoint: &Endpoint, record: &Record) -> bool {
        let owner = owner(endpoint);
        self.wishes(record).iter().all(|folder| folder.join(owner.as_str()).exists())
    }

    /// Forgets what the attachment wants, and returns what nobody else does.
    pub(super) fn unwant(&self, endpoint: &Endpoint, record: &Record) -> Result<Free, FirewallError> {
        for folder in self.wishes(record) {
            remove_file(&folder.join(owner(endpoint).as_str()))?;
            // Another attachment's wish keeps the directory.
            fs::remove_dir(folder).ok();
        }
        let wanted = self.wanted(record.carrier, &record.addresses)?;
        let addresses = record.addresses.iter().copied().filter(|addr| !wanted.contains(addr)).collect();
        let mut bridges: Vec<_> = record.ingress.iter().map(|ingress| ingress.bridge.clone()).collect();
        bridges.retain(|bridge| !self.wish(record.carrier, bridge.as_str()).exists());
        Ok(Free { addresses, bridges })
    }

    /// Returns which of these addresses some attachment wants.
    pub(super) fn wanted(&self, by: Carrier, of: &[IpAddr]) -> Result<Vec<IpAddr>, FirewallError> {
        let mut wanted = Vec::new();
        for addr in of {
            if !listed(&self.wish(by, &addr.to_string()))?.is_empty() {
                wanted.push(*addr);
            }
        }
        Ok(wanted)
    }

    fn wishes(&self, record: &Record) -> Vec<PathBuf> {
        let names = record.addresses.iter().map(ToString::to_string);
        let bridges = record.ingress.iter().map(|ingress| ingress.bridge.to_string());
        names.chain(bridges).map(|name| self.wish(record.carrier, &name)).collect()
    }

    fn wish(&self, by: Carrier, name: &str) -> PathBuf {
        self.0.join("admitted-by").join(by.to_string()).join(name)
    }

    fn folder(&self, network: &NetworkName) -> PathBuf {
        self.0.join("admissions").join(network.as_str())
    }

    /// A container's id has no comma.
    fn page(&self, endpoint: &Endpoint) -> PathBuf {
        self.folder(&endpoint.network).join(format!("{},{}", endpoint.container, endpoint.ifname))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(container: &str) -> Endpoint {
        Endpoint {
            network: "net".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn record(addresses: &[&str], bridge: Option<&str>) -> Record {
        Record {
            carrier: Carrier::Iptables,
            admin_chain: "CNI-ADMIN".into(),
            zone: "trusted".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ingress: bridge.map(|name| Ingress { bridge: name.parse().unwrap(), closed: true }),
        }
    }

    #[test]
    fn a_record_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books(dir.path());
        let record = record(&["10.0.0.2", "fd00::2"], Some("br0"));
        books.write(&endpoint("c1"), &record).unwrap();
        books.write(&endpoint("c2"), &record).unwrap();
        assert_eq!(books.read(&endpoint("c1")), Some(record));
        let mut holders = books.of_network(&"net".parse().unwrap());
        holders.sort();
        assert_eq!(holders, [endpoint("c1"), endpoint("c2")]);
        assert_eq!(books.all().len(), 2);
        books.forget(&endpoint("c1")).unwrap();
        books.forget(&endpoint("c1")).unwrap();
        assert_eq!(books.read(&endpoint("c1")), None);
        assert_eq!(books.of_network(&"net".parse().unwrap()), [endpoint("c2")]);
        assert_eq!(books.of_network(&"other".parse().unwrap()), []);
    }

    #[test]
    fn a_damaged_record_is_none() {
        assert_eq!(Record::parse(""), None);
        assert_eq!(Record::parse("carrier pigeon\naddress 10.0.0.2\n"), None);
        let dir = tempfile::tempdir().unwrap();
        let books = Books(dir.path());
        fs::create_dir_all(books.folder(&endpoint("c1").network)).unwrap();
        nix::unistd::mkfifo(&books.page(&endpoint("c1")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(books.read(&endpoint("c1")), None, "and nobody waits for what a pipe would say");
    }

    #[test]
    fn what_two_want_is_free_when_both_have_gone() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books(dir.path());
        let [one, two] = [record(&["10.0.0.2"], Some("br0")), record(&["10.0.0.2", "10.0.0.3"], None)];
        books.want(&endpoint("c1"), &one).unwrap();
        books.want(&endpoint("c2"), &two).unwrap();

        let free = books.unwant(&endpoint("c1"), &one).unwrap();
        assert_eq!(free, Free { addresses: Vec::new(), bridges: vec!["br0".parse().unwrap()] });
        let free = books.unwant(&endpoint("c2"), &two).unwrap();
        assert_eq!(free.addresses, two.addresses);
    }

    #[test]
    fn owners_differ_and_are_names() {
        let name = owner(&endpoint("c1"));
        assert_eq!(name.as_str().len(), 43);
        assert_ne!(name, owner(&endpoint("c2")));
    }
}
