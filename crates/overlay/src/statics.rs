//! Hosts that know each other from files: no store and no daemon.
//!
//! `/etc/weft/overlay/host.toml` is this host, `peers.d/*.toml` are the others and `networks.d/*.toml` the networks; the same
//! peers' and networks' files serve on every host. What they say becomes a [`Snapshot`], as if a store had said it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use weft_model::{Mtu, NetworkName};
use weft_state::{Root, StateError, boot};

use crate::desired::lies_in;
use crate::ids::{ClusterId, HostId, NetworkId, Vni};
use crate::records::{
    Block, BlockState, Cluster, Egress, Encryption, FASTPATH, Host, Member, Network, Slots, Underlay,
};
use crate::snapshot::{Record, Snapshot};

/// A longer file is none of ours.
const MAX_BYTES: u64 = 256 * 1024;

/// What the files say.
#[derive(Clone, Debug, PartialEq)]
pub struct Statics {
    /// This host.
    pub host: HostId,
    /// It, its peers and the networks.
    pub snapshot: Snapshot,
    /// Files that are passed over, and why. Never this host's own.
    pub bad: Vec<(PathBuf, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostFile {
    name: String,
    id: Option<HostId>,
    underlay: Vec<IpAddr>,
    #[serde(default = "ethernet")]
    mtu: u32,
    #[serde(default, rename = "block")]
    blocks: Vec<BlockFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockFile {
    network: NetworkName,
    cidr: IpNetwork,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFile {
    name: NetworkName,
    vni: Vni,
    subnets: Vec<IpNetwork>,
    #[serde(default)]
    encryption: Encryption,
    #[serde(default)]
    isolated: bool,
    egress: Option<Egress>,
    #[serde(default)]
    fastpath: bool,
    mtu: Option<Mtu>,
}

const fn ethernet() -> u32 {
    1500
}

/// Reads the files; `None` when there is no `host.toml`.
///
/// A file of a peer or a network that is wrong is passed over and listed. This host's own has to be right.
///
/// # Errors
///
/// Names the file and what is wrong with it.
pub fn read(root: &Root) -> Result<Option<Statics>, StateError> {
    let dir = root.overlay_config_dir();
    let own = dir.join("host.toml");
    let file: HostFile = match toml_of(&own) {
        Err(error) if error.is_missing() => return Ok(None),
        other => other?,
    };
    let mut bad = Vec::new();
    let mut records = vec![Record::Cluster(Cluster::new(ClusterId::new(hash(&["static"]))))];
    let mut networks: BTreeMap<NetworkName, Network> = BTreeMap::new();
    for (path, network) in all::<NetworkFile>(&dir.join("networks.d"), &mut bad) {
        let network = network_of(network);
        // Who makes keys and moves from one to the next is the agent.
        if network.encryption != Encryption::None {
            bad.push((path, "an encrypted network needs weftd agent: weft overlay join".into()));
            continue;
        }
        if networks.contains_key(&network.name) {
            bad.push((path, format!("there is a network {} already", network.name)));
        } else if let Some(other) = networks.values().find(|other| other.vni == network.vni) {
            bad.push((path, format!("network {} has VNI {} already", other.name, network.vni)));
        } else {
            networks.insert(network.name.clone(), network.clone());
            records.push(Record::Network(network));
        }
    }
    let boot = boot::id()?;
    let host = add(file, &boot, &networks, &mut records).map_err(|why| {
        // A network whose file is wrong is none that this host could have a block of.
        let first = bad.first().map(|(path, why)| format!("; {}: {why}", path.display()));
        StateError::Damaged { path: own, reason: why + &first.unwrap_or_default() }
    })?;
    for (path, peer) in all::<HostFile>(&dir.join("peers.d"), &mut bad) {
        // The same files may lie on every host, so this host is among the peers as well.
        if id_of(&peer) == host {
            continue;
        }
        if let Err(why) = add(peer, "", &networks, &mut records) {
            bad.push((path, why));
        }
    }
    Ok(Some(Statics { host, snapshot: Snapshot::from_records(records), bad }))
}

fn network_of(file: NetworkFile) -> Network {
    let NetworkFile { name, vni, subnets, encryption, isolated, egress, fastpath, mtu } = file;
    Network {
        id: NetworkId::new(hash(&["network", &name.to_string(), &vni.to_string()])),
        name,
        generation: 1,
        vni,
        subnets,
        encryption,
        isolated,
        egress: egress.unwrap_or(Egress::of(isolated)),
        mtu,
        labels: BTreeMap::new(),
        options: fastpath.then(|| (FASTPATH.into(), "true".into())).into_iter().collect(),
        created: String::new(),
    }
}

fn id_of(file: &HostFile) -> HostId {
    file.id.unwrap_or_else(|| HostId::new(hash(&["host", &file.name])))
}

/// Adds a host's records, or none of them.
fn add(
    file: HostFile,
    boot: &str,
    networks: &BTreeMap<NetworkName, Network>,
    records: &mut Vec<Record>,
) -> Result<HostId, String> {
    let id = id_of(&file);
    let mut underlay = Underlay::default();
    for address in &file.underlay {
        match address {
            IpAddr::V4(v4) => underlay.v4 = Some(*v4),
            IpAddr::V6(v6) => underlay.v6 = Some(*v6),
        }
    }
    if underlay.addresses().count() != file.underlay.len() || file.underlay.is_empty() {
        return Err("\"underlay\" takes one address of each family at most, and one at least".into());
    }
    let others = || records.iter().filter_map(Record::as_host);
    if let Some(other) = others().find(|other| other.underlay.addresses().any(|a| file.underlay.contains(&a)))
    {
        return Err(format!("host {} has the same underlay address", other.name));
    }
    if let Some(other) = others().find(|other| other.id == id) {
        return Err(format!("host {} has the same id", other.name));
    }
    let mut blocks = Vec::new();
    for BlockFile { network, cidr } in &file.blocks {
        let network = networks.get(network).ok_or_else(|| format!("there is no network {network}"))?;
        let of = network.id;
        if !lies_in(network, *cidr) {
            return Err(format!("{cidr} is in no subnet of network {}", network.name));
        }
        let block = Block { network: of, cidr: *cidr, host: id, epoch: 0, state: BlockState::Active };
        let overlaps = |other: &&Block| other.network == of && crate::blocks::overlap(other.cidr, *cidr);
        if cidr.ip() != cidr.network() {
            return Err(format!("{cidr} is not a block: its first address is {}", cidr.network()));
        }
        if let Some(other) = records.iter().filter_map(Record::as_block).chain(&blocks).find(overlaps) {
            return Err(format!("block {cidr} overlaps {} of host {}", other.cidr, other.host));
        }
        blocks.push(block);
    }
    records.push(Record::Host(Host {
        id,
        name: file.name,
        incarnation: 0,
        boot: boot.into(),
        underlay,
        // Encrypted networks need an agent, and so does the mesh.
        mesh: 0,
        wireguard: Slots::default(),
        mtu: file.mtu,
        version: String::new(),
        epoch: 0,
        superseded_by: None,
    }));
    let of: std::collections::BTreeSet<NetworkId> = blocks.iter().map(|block| block.network).collect();
    let member = |network| Record::Member(Member { network, host: id, since: String::new() });
    records.extend(of.into_iter().map(member));
    records.extend(blocks.into_iter().map(Record::Block));
    Ok(id)
}

/// Reads every `.toml` file of a directory, in the order of their names; a missing directory has none. One that cannot be read
/// is as wrong as a file.
fn all<T: DeserializeOwned>(dir: &Path, bad: &mut Vec<(PathBuf, String)>) -> Vec<(PathBuf, T)> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut paths: Vec<PathBuf> = match entries {
        Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            bad.push((dir.into(), error.to_string()));
            Vec::new()
        }
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort_unstable();
    let mut good = Vec::new();
    for path in paths {
        match toml_of(&path) {
            Ok(file) => good.push((path, file)),
            Err(error) => bad.push((path, error.to_string())),
        }
    }
    good
}

fn toml_of<T: DeserializeOwned>(path: &Path) -> Result<T, StateError> {
    let mut text = String::new();
    let file = weft_state::file::open(path).map_err(StateError::io("read", path))?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(StateError::io("read", path))?;
    let damaged = |reason: String| StateError::Damaged { path: path.into(), reason };
    if text.len() as u64 > MAX_BYTES {
        return Err(damaged(format!("it is longer than {MAX_BYTES} bytes")));
    }
    toml::from_str(&text).map_err(|error| damaged(error.message().to_string()))
}

/// Returns an id that follows from words, the same on every host.
fn hash(words: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for word in words {
        hash.update((word.len() as u64).to_be_bytes());
        hash.update(word);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

#[cfg(test)]
mod tests {
    use weft_state::atomic::{self, Durability};

    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        for (name, text) in files {
            let path = root.overlay_config_dir().join(name);
            atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600).unwrap();
        }
        (dir, root)
    }

    const HOST: &str = r#"
name = "one"
underlay = ["192.0.2.1", "2001:db8::1"]
[[block]]
network = "blue"
cidr = "10.1.0.0/26"
"#;
    const PEER: &str = r#"
name = "two"
underlay = ["192.0.2.2"]
mtu = 1400
[[block]]
network = "blue"
cidr = "10.1.0.64/26"
"#;
    const BLUE: &str = r#"
name = "blue"
vni = 5000
subnets = ["10.1.0.0/16"]
"#;

    #[test]
    fn files_make_a_snapshot() {
        assert_eq!(read(&root(&[]).1).unwrap(), None);
        let files = [
            ("host.toml", HOST),
            ("peers.d/one.toml", HOST),
            ("peers.d/two.toml", PEER),
            ("peers.d/notes.txt", "not toml"),
            ("networks.d/blue.toml", BLUE),
        ];
        let found = read(&root(&files).1).unwrap().unwrap();
        assert_eq!(found.bad, []);
        let names: Vec<&str> = found.snapshot.hosts().map(|host| host.name.as_str()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let blue = found.snapshot.network_named(&"blue".parse().unwrap()).unwrap();
        let peer = found.snapshot.hosts().find(|host| host.name == "two").unwrap();
        assert_eq!(peer.mtu, 1400);
        assert!(found.snapshot.is_member(blue.id, peer.id) && found.snapshot.is_member(blue.id, found.host));
        assert_eq!(found.snapshot.blocks().count(), 2);
    }

    #[test]
    fn a_file_that_is_wrong_is_passed_over_and_named() {
        for (peer, words) in [
            ("name = 7", "invalid type"),
            ("name = \"two\"\nunderlay = []", "one at least"),
            ("name = \"two\"\nunderlay = [\"192.0.2.1\"]", "host one has the same underlay address"),
            (&PEER.replace("blue", "red"), "there is no network red"),
            (&PEER.replace("10.1.0.64", "10.1.0.0"), "overlaps 10.1.0.0/26 of host"),
            (&PEER.replace("10.1.0.64", "10.1.0.65"), "its first address is 10.1.0.64"),
            (&PEER.replace("10.1.0.64", "10.2.0.64"), "is in no subnet of network blue"),
            (&PEER.replace("[[block]]", "[wireguard.a]\nport = 51820\n[[block]]"), "unknown field"),
            (&PEER.replace("mtu", "colour"), "unknown field"),
        ] {
            let files = [("host.toml", HOST), ("peers.d/two.toml", peer), ("networks.d/blue.toml", BLUE)];
            let found = read(&root(&files).1).unwrap().unwrap();
            assert_eq!(found.snapshot.hosts().count(), 1);
            let [(path, why)] = &found.bad[..] else { panic!("{:?}", found.bad) };
            assert!(path.ends_with("peers.d/two.toml") && why.contains(words), "{why}");
        }
        // Two networks of one VNI would have one device.
        let green = BLUE.replace("blue", "green");
        let files = [("host.toml", HOST), ("networks.d/blue.toml", BLUE), ("networks.d/green.toml", &green)];
        let found = read(&root(&files).1).unwrap().unwrap();
        let [(path, why)] = &found.bad[..] else { panic!("{:?}", found.bad) };
        assert!(
            path.ends_with("networks.d/green.toml") && why.contains("blue has VNI 5000 already"),
            "{why}"
        );
        // A directory that cannot be read is not an empty one.
        let (dir, at) = root(&[("host.toml", HOST), ("networks.d/blue.toml", BLUE)]);
        atomic::write(&at.overlay_config_dir().join("peers.d"), b"", Durability::Boot, 0o600).unwrap();
        let here = crate::here::Here::read(&at).unwrap().unwrap();
        assert!(here.bad[0].0.ends_with("peers.d") && here.desired().partial, "{:?}", here.bad);
        drop(dir);
        // Nobody waits for whoever writes into a pipe.
        let (dir, at) =
            root(&[("host.toml", HOST), ("networks.d/blue.toml", BLUE), ("peers.d/two.toml", "")]);
        let pipe = at.overlay_config_dir().join("peers.d/two.toml");
        fs::remove_file(&pipe).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = read(&at).unwrap().unwrap();
        let [(path, why)] = &found.bad[..] else { panic!("{:?}", found.bad) };
        assert!(*path == pipe && why.ends_with("it is no file"), "{why}");
        drop(dir);
        // A network whose file is wrong is what this host's own file lacks.
        let error = read(&root(&[("host.toml", HOST), ("networks.d/blue.toml", "vni = 1")]).1).unwrap_err();
        assert!(error.to_string().contains("networks.d/blue.toml"), "{error}");
        let error = read(&root(&[("host.toml", "name = 7")]).1).unwrap_err().to_string();
        assert!(error.contains("host.toml is damaged"), "{error}");
    }

    /// Nobody would build its mesh, and who reads the file would believe that it is there.
    #[test]
    fn an_encrypted_network_is_none_of_files() {
        let files = |encryption: &str| {
            let blue = format!("{BLUE}encryption = \"{encryption}\"\n");
            let host = HOST.split("[[block]]").next().unwrap();
            read(&root(&[("host.toml", host), ("networks.d/blue.toml", &blue)]).1).unwrap().unwrap()
        };
        assert_eq!((files("none").bad, files("none").snapshot.networks().count()), (vec![], 1));
        let found = files("wireguard");
        assert_eq!((found.bad.len(), found.snapshot.networks().count()), (1, 0));
        assert!(found.bad[0].1.ends_with("weft overlay join"), "{:?}", found.bad);
    }
}
