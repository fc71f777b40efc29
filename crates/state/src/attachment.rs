//! What we connected: one record for each attachment of this boot.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_model::{ContainerId, Endpoint, IfName, NetworkName};

use crate::atomic::{self, Durability};
use crate::{Root, StateError, boot, document, time};

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The kernel may have been touched.
    Intent,
    /// Everything is in place.
    Done,
}

/// One container's connection to one network, as recorded before and after the kernel was touched. `R` is the form that its
/// result has here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<R = Value> {
    /// The form of this file, [`document::SCHEMA`].
    pub schema: u64,
    /// The boot this is true in.
    pub boot: String,
    /// How far the attachment has come.
    pub state: State,
    /// Who is connected to what.
    pub endpoint: Endpoint,
    /// The namespace's path as the runtime gave it.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Which namespace that was: another one may have its path by now.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The driver's CNI type.
    pub kind: String,
    /// The container's addresses on this network.
    #[serde(default)]
    pub addresses: Vec<IpNetwork>,
    /// What the manager asked to keep about the attachment (`args.weft`), as it came.
    #[serde(default)]
    pub attach: Value,
    /// What the driver found and nobody will know later, such as where an interface came from.
    #[serde(default)]
    pub memory: Value,
    /// The CNI result, once there is one.
    #[serde(default = "Option::default")]
    pub result: Option<R>,
    /// When the attachment was begun, in RFC 3339.
    pub created: String,
}

impl Record {
    /// Returns the record of an attachment that begins now.
    ///
    /// # Errors
    ///
    /// When the boot id cannot be read.
    pub fn intent(endpoint: Endpoint, netns: Option<PathBuf>, kind: &str) -> Result<Self, StateError> {
        Ok(Self {
            schema: document::SCHEMA,
            boot: boot::id()?,
            state: State::Intent,
            endpoint,
            namespace: netns.as_deref().and_then(identity),
            netns,
            kind: kind.into(),
            addresses: Vec::new(),
            attach: Value::Null,
            memory: Value::Null,
            result: None,
            created: time::now(),
        })
    }

    /// Returns the record of this attachment now that everything is in place.
    pub fn done<R>(&self, addresses: Vec<IpNetwork>, result: R) -> Record<R> {
        let Self { schema, boot, endpoint, netns, namespace, kind, attach, memory, created, .. } =
            self.clone();
        let (state, result) = (State::Done, Some(result));
        Record {
            schema,
            boot,
            state,
            endpoint,
            netns,
            namespace,
            kind,
            addresses,
            attach,
            memory,
            result,
            created,
        }
    }

    /// Returns the namespace's path if it still leads to the namespace that was recorded.
    pub fn same_netns(&self) -> Option<&Path> {
        let path = self.netns.as_deref()?;
        (self.namespace.is_some() && identity(path) == self.namespace).then_some(path)
    }
}

/// Tells one namespace from a later one at its path: the kernel gives inode numbers anew, so the time counts too.
fn identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let (device, inode, second, nanosecond) = (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec());
    Some(format!("{device}:{inode}@{second}.{nanosecond:09}"))
}

/// A record that was just written, and is written on by who has its container to itself.
#[derive(Debug)]
pub struct Begun {
    file: File,
    path: PathBuf,
}

impl Begun {
    /// Adds how far the attachment has come. A second file in place of the first would cost five times as much.
    ///
    /// # Errors
    ///
    /// Names the path and the reason, for instance a full disk. What was on record before is then still there.
    pub fn advance<R: Serialize>(mut self, record: &Record<R>) -> Result<(), StateError> {
        let line = document::line(&self.path, record)?;
        self.file.write_all(&line).map_err(StateError::io("write", &self.path))
    }
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Returns the records below `root`.
    pub fn new(root: &Root) -> Self {
        Self { dir: root.attachments_dir() }
    }

    /// Returns the records of a chained plugin: what it did to attachments of others.
    pub fn of_plugin(root: &Root, kind: &str) -> Self {
        Self { dir: root.chained_dir().join(kind) }
    }

    /// Writes a record in one step.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn write<R: Serialize>(&self, record: &Record<R>) -> Result<(), StateError> {
        self.begin(record).map(drop)
    }

    /// As [`Records::write`], of what will soon have come further.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn begin<R: Serialize>(&self, record: &Record<R>) -> Result<Begun, StateError> {
        let path = self.path(&record.endpoint.container, &record.endpoint.ifname);
        let line = document::line(&path, record)?;
        let file = atomic::place(&path, &line, Durability::Boot, 0o600)?;
        Ok(Begun { file, path })
    }

    /// Forgets an attachment; one that was never recorded is no error.
    ///
    /// The file is kept when it is about another network: the interface name was then given anew, and
    /// this is a late second DEL for its former owner.
    ///
    /// # Errors
    ///
    /// Names what could not be removed.
    pub fn remove(&self, endpoint: &Endpoint) -> Result<(), StateError> {
        let record = self.get(&endpoint.container, &endpoint.ifname);
        self.remove_read(endpoint, record.as_ref())
    }

    /// As [`Records::remove`], by whoever has just read the record and lets nobody else write one.
    ///
    /// # Errors
    ///
    /// Names what could not be removed.
    pub fn remove_read(&self, endpoint: &Endpoint, record: Option<&Record>) -> Result<(), StateError> {
        if record.is_some_and(|record| record.endpoint.network != endpoint.network) {
            return Ok(());
        }
        let path = self.path(&endpoint.container, &endpoint.ifname);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if absent(&error) => {}
            Err(error) => return Err(StateError::io("remove", &path)(error)),
        }
        remove_if_empty(&self.dir.join(endpoint.container.as_str()))
    }

    /// Returns the record of an attachment made in this boot.
    ///
    /// A file that is truncated, foreign or of another boot is no record, so that it never blocks a DEL;
    /// [`Records::inspect`] tells why.
    pub fn get(&self, container: &ContainerId, ifname: &IfName) -> Option<Record> {
        let found = self.inspect(container, ifname).ok().flatten()?;
        boot::id().is_ok_and(|boot| found.boot == boot).then_some(found)
    }

    /// Returns whatever record the file holds, or what is wrong with it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is damaged, names another attachment or has a newer schema.
    pub fn inspect(&self, container: &ContainerId, ifname: &IfName) -> Result<Option<Record>, StateError> {
        let path = self.path(container, ifname);
        let Some(record) = document::read_last::<Record>(&path)? else {
            return Ok(None);
        };
        if record.endpoint.container == *container && record.endpoint.ifname == *ifname {
            Ok(Some(record))
        } else {
            Err(StateError::Damaged { path, reason: format!("it is about {}", record.endpoint) })
        }
    }

    /// Returns this boot's attachments to a network, ordered by container and interface.
    pub fn of_network(&self, network: &NetworkName) -> Vec<Record> {
        let mut records = self.all();
        records.retain(|record| record.endpoint.network == *network);
        records
    }

    /// Returns this boot's attachments of a container, ordered by interface.
    pub fn of_container(&self, container: &ContainerId) -> Vec<Record> {
        let mut records: Vec<Record> = entries(&self.dir.join(container.as_str()), ".json")
            .filter_map(|ifname| self.get(container, &ifname))
            .collect();
        records.sort_by(|one, two| one.endpoint.ifname.cmp(&two.endpoint.ifname));
        records
    }

    /// Returns the interfaces of a container whose records cannot be read. Which network they belong to
    /// nobody knows.
    pub fn damaged(&self, container: &ContainerId) -> Vec<IfName> {
        let dir = self.dir.join(container.as_str());
        entries(&dir, ".json").filter(|ifname| self.inspect(container, ifname).is_err()).collect()
    }

    /// Returns the same as [`Records::all`] for people, who would take an empty list for the truth.
    ///
    /// # Errors
    ///
    /// When a directory or a file is there and must not or cannot be read.
    pub fn list(&self) -> Result<Vec<Record>, StateError> {
        let boot = boot::id()?;
        let mut records = Vec::new();
        for container in names::<ContainerId>(&self.dir, "")? {
            for ifname in names::<IfName>(&self.dir.join(container.as_str()), ".json")? {
                match self.inspect(&container, &ifname) {
                    Ok(found) => records.extend(found.filter(|record| record.boot == boot)),
                    Err(error @ StateError::Io { .. }) => return Err(error),
                    Err(StateError::Damaged { .. } | StateError::Newer { .. }) => {}
                }
            }
        }
        let key = |record: &Record| (record.endpoint.container.clone(), record.endpoint.ifname.clone());
        records.sort_by_key(key);
        Ok(records)
    }

    /// Returns everybody's records that cannot be read, as [`Records::damaged`].
    pub fn all_damaged(&self) -> Vec<(ContainerId, IfName)> {
        let containers: Vec<ContainerId> = entries(&self.dir, "").collect();
        let of = |container: ContainerId| {
            self.damaged(&container).into_iter().map(move |ifname| (container.clone(), ifname))
        };
        containers.into_iter().flat_map(of).collect()
    }

    /// Returns this boot's attachments, ordered by container and interface.
    pub fn all(&self) -> Vec<Record> {
        let mut containers: Vec<ContainerId> = entries(&self.dir, "").collect();
        containers.sort();
        containers.iter().flat_map(|container| self.of_container(container)).collect()
    }

    fn path(&self, container: &ContainerId, ifname: &IfName) -> PathBuf {
        self.dir.join(container.as_str()).join(format!("{ifname}.json"))
    }
}

/// Returns the names in `dir` that end in `suffix` and parse without it. A directory that is missing or cannot
/// be read has none.
fn entries<T: std::str::FromStr>(dir: &Path, suffix: &'static str) -> impl Iterator<Item = T> {
    names(dir, suffix).unwrap_or_default().into_iter()
}

/// Returns the names in `dir` that end in `suffix` and parse without it. A missing directory has none.
fn names<T: std::str::FromStr>(dir: &Path, suffix: &str) -> Result<Vec<T>, StateError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if absent(&error) => return Ok(Vec::new()),
        outcome => outcome.map_err(StateError::io("read", dir))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(suffix)?.parse().ok()).collect())
}

/// Removes a container's directory, unless another attachment is in it.
fn remove_if_empty(dir: &Path) -> Result<(), StateError> {
    if remove_empty(dir)? {
        return Ok(());
    }
    let leftovers = fs::read_dir(dir).into_iter().flatten().flatten().filter(is_leftover);
    if leftovers.filter(|entry| fs::remove_file(entry.path()).is_ok()).count() > 0 {
        remove_empty(dir)?;
    }
    Ok(())
}

/// Removes a directory if nothing is in it, and returns whether it is gone.
fn remove_empty(dir: &Path) -> Result<bool, StateError> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if absent(&error) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(StateError::io("remove", dir)(error)),
    }
}

/// Returns whether a file is what a killed writer left behind.
///
/// Some runtimes attach one container to several networks at the same time, so a young temporary file
/// may still be somebody's.
fn is_leftover(entry: &fs::DirEntry) -> bool {
    let temporary = entry.file_name().as_encoded_bytes().starts_with(atomic::TEMPORARY.as_bytes());
    let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
    temporary && age().is_some_and(|age| age > Duration::from_secs(60))
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::testing::tiny_tmpfs;

    fn endpoint(network: &str, container: &str, ifname: &str) -> Endpoint {
        Endpoint {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    fn record(network: &str, container: &str, ifname: &str) -> Record {
        Record::intent(endpoint(network, container, ifname), Some("/run/netns/red".into()), "bridge").unwrap()
    }

    fn lab() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(&Root::new(Some(dir.path().into())));
        (dir, records)
    }

    #[test]
    fn a_record_says_how_far_it_has_come_whatever_ends_its_writer() {
        let (dir, records) = lab();
        let intent = record("red", "c1", "eth0");
        let state = || records.get(&intent.endpoint.container, &intent.endpoint.ifname).unwrap().state;
        let begun = records.begin(&intent).unwrap();
        assert_eq!(state(), State::Intent);
        let path = dir.path().join("run/weft/attachments/c1/eth0.json");
        let begin = fs::read(&path).unwrap();
        begun.advance(&intent.done(Vec::new(), Value::Null)).unwrap();
        assert_eq!(state(), State::Done);

        let whole = fs::read(&path).unwrap();
        for length in begin.len()..whole.len() {
            File::create(&path).unwrap().write_all(&whole[..length]).unwrap();
            assert_eq!(state(), State::Intent, "{length} bytes of {}", whole.len());
        }
        records.write(&intent.done(Vec::new(), Value::Null)).unwrap();
        assert_eq!(state(), State::Done, "one that is written anew has one line");
    }

    #[test]
    fn a_full_disk_leaves_a_record_as_it_was() {
        tiny_tmpfs(|dir| {
            let records = Records::new(&Root::new(Some(dir.into())));
            let intent = record("red", "c1", "eth0");
            let begun = records.begin(&intent).unwrap();
            let huge = Value::from("x".repeat(1 << 20));
            let error = begun.advance(&intent.done(Vec::new(), huge)).unwrap_err().to_string();
            assert!(error.contains("eth0.json: No space left"), "{error}");
            let found = records.inspect(&intent.endpoint.container, &intent.endpoint.ifname).unwrap();
            assert_eq!(found, Some(intent.clone()));
            records.remove(&intent.endpoint).unwrap();
        });
    }

    #[test]
    fn a_record_comes_back_and_goes() {
        let (_dir, records) = lab();
        let mut written = record("blue", "c1", "eth0");
        written.addresses = vec!["10.1.0.5/16".parse().unwrap()];
        written.attach = serde_json::json!({"name": "web"});
        records.write(&written).unwrap();
        records.write(&record("red", "c1", "eth1")).unwrap();
        records.write(&record("red", "c0", "eth0")).unwrap();

        let key = &written.endpoint;
        assert_eq!(records.get(&key.container, &key.ifname), Some(written.clone()));
        let text = fs::read_to_string(records.path(&key.container, &key.ifname)).unwrap();
        assert!(text.starts_with("{\"schema\":1,"), "{text}");
        let keys = |list: Vec<Record>| list.iter().map(|one| one.endpoint.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(records.all()), ["eth0 of c0 on red", "eth0 of c1 on blue", "eth1 of c1 on red"]);
        assert_eq!(
            keys(records.of_network(&"red".parse().unwrap())),
            ["eth0 of c0 on red", "eth1 of c1 on red"]
        );

        records.remove(key).unwrap();
        assert_eq!(records.get(&key.container, &key.ifname), None);
        assert!(records.dir.join("c1").exists());
        records.remove(&endpoint("red", "c1", "eth1")).unwrap();
        assert!(!records.dir.join("c1").exists());
        records.remove(key).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_list() {
        let (dir, records) = lab();
        assert!(records.list().unwrap().is_empty());
        records.write(&record("blue", "c1", "eth1")).unwrap();
        records.write(&record("red", "c1", "eth0")).unwrap();
        records.write(&record("blue", "c0", "eth0")).unwrap();
        assert_eq!(records.list().unwrap(), records.all());
        assert_eq!(records.list().unwrap().len(), 3);
        // A link that leads to itself is there, and not even root can read it.
        let path = dir.path().join("run/weft/attachments/c2");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = records.list().unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
    }

    #[test]
    fn another_namespace_at_the_path_is_not_the_one_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns");
        atomic::write(&path, b"", Durability::Boot, 0o600).unwrap();
        let record = Record::intent(endpoint("red", "c1", "eth0"), Some(path.clone()), "bridge").unwrap();
        assert_eq!(record.same_netns(), Some(&*path));
        atomic::write(&path, b"", Durability::Boot, 0o600).unwrap();
        assert_eq!(record.same_netns(), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(record.same_netns(), None);
        let gone = Record::intent(endpoint("red", "c1", "eth0"), Some(path), "bridge").unwrap();
        assert_eq!((&gone.namespace, gone.same_netns()), (&None, None));
    }

    #[test]
    fn a_late_second_removal_spares_the_next_owner() {
        let (_dir, records) = lab();
        records.write(&record("red", "c1", "eth0")).unwrap();
        records.remove(&endpoint("blue", "c1", "eth0")).unwrap();
        assert_eq!(records.all().len(), 1);
    }

    #[test]
    fn damaged_and_foreign_files_never_block() {
        let (_dir, records) = lab();
        let good = record("red", "c1", "eth0");
        let text = serde_json::to_string(&good).unwrap();
        let path = records.path(&good.endpoint.container, &good.endpoint.ifname);
        let other_boot = text.replace(&good.boot, "0-0");
        let other_key = text.replace("eth0", "eth7");
        let newer = text.replace("\"schema\":1", "\"schema\":9");
        for bad in
            ["", "{", "[]", "null", &text[..text.len() / 2], "\u{0}\u{0}", &other_boot, &other_key, &newer]
        {
            atomic::write(&path, bad.as_bytes(), Durability::Boot, 0o600).unwrap();
            assert_eq!(records.get(&good.endpoint.container, &good.endpoint.ifname), None, "{bad}");
            assert!(records.all().is_empty());
            let damaged = [(good.endpoint.container.clone(), good.endpoint.ifname.clone())];
            assert_eq!(records.all_damaged(), if bad == other_boot { &[] } else { &damaged[..] }, "{bad}");
            records.remove(&good.endpoint).unwrap();
            assert!(!records.dir.join("c1").exists(), "{bad}");
        }
        atomic::write(&records.dir.join(".hidden/x"), b"", Durability::Boot, 0o600).unwrap();
        atomic::write(&records.dir.join("c2/not an interface.json"), b"", Durability::Boot, 0o600).unwrap();
        atomic::write(&records.dir.join("stray"), b"", Durability::Boot, 0o600).unwrap();
        assert!(records.all().is_empty());
        records.remove(&endpoint("red", "stray", "eth0")).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn a_killed_writers_leftover_does_not_keep_the_directory() {
        let (_dir, records) = lab();
        let record = record("red", "c1", "eth0");
        records.write(&record).unwrap();
        let leftover = records.dir.join("c1").join(atomic::temporary_name());
        atomic::write(&leftover, b"{", Durability::Boot, 0o600).unwrap();
        records.remove(&record.endpoint).unwrap();
        assert!(leftover.exists(), "a young temporary file may still be in use");

        records.write(&record).unwrap();
        let file = File::options().write(true).open(&leftover).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(90)).unwrap();
        records.remove(&record.endpoint).unwrap();
        assert!(!records.dir.join("c1").exists());
    }
}
