//! Attributes of a link that somebody else made, and what they were before.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_model::{IfName, Mac, Mtu};
use weft_netlink::link::{self, Change, LinkInfo};
use weft_state::atomic::{self, Durability};
use weft_state::{StateError, file};

use crate::{Cause, Kernel, Place, Sysctl, sysctl};

/// The largest file of former attributes that is read: more than every sysctl of an interface fills.
const LIMIT: u64 = 1 << 20;

/// Attributes of a link that somebody else made, and settings of its namespace. They are put back on removal, as far
/// as the file that keeps the former ones tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The link.
    pub dev: IfName,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The MTU.
    pub mtu: Option<Mtu>,
    /// Whether frames meant for other stations are taken.
    pub promisc: Option<bool>,
    /// Whether frames to any group are taken.
    pub allmulti: Option<bool>,
    /// How many frames may wait to be sent.
    pub tx_queue_len: Option<u32>,
    /// Settings of the namespace.
    pub sysctls: Vec<Sysctl>,
    /// The file that keeps what was before.
    pub kept: PathBuf,
}

impl Tuning {
    /// Returns what is changed about the link.
    pub(crate) fn change(&self) -> Change {
        Change {
            mac: self.mac,
            mtu: self.mtu.map(Mtu::get),
            promisc: self.promisc,
            allmulti: self.allmulti,
            tx_queue_len: self.tx_queue_len,
            ..Change::default()
        }
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: bool| if on { "on" } else { "off" };
        let words = [
            ("mac", self.mac.map(|mac| mac.to_string())),
            ("mtu", self.mtu.map(|mtu| mtu.to_string())),
            ("promisc", self.promisc.map(|on| switch(on).into())),
            ("allmulticast", self.allmulti.map(|on| switch(on).into())),
            ("txqueuelen", self.tx_queue_len.map(|length| length.to_string())),
        ];
        write!(out, "tune {}", self.dev)?;
        for (word, value) in words {
            if let Some(value) = value {
                write!(out, " {word} {value}")?;
            }
        }
        for sysctl in &self.sysctls {
            write!(out, ", {sysctl}")?;
        }
        write!(out, ", kept in {}", self.kept.display())
    }
}

/// What was before, in the file of the reference plugin: its keys, and `sysctl`, which it does not have and passes over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Kept {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    tx_queue_len: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctl: BTreeMap<String, String>,
}

impl Kept {
    /// Returns what a link is now of all that a change is about.
    pub(crate) fn of(link: &LinkInfo, change: &Change, sysctl: BTreeMap<String, String>) -> Self {
        Self {
            mac: change.mac.and(link.mac).map(|mac| mac.to_string()),
            promisc: change.promisc.map(|_| link.promisc),
            mtu: change.mtu.map(|_| link.mtu),
            allmulti: change.allmulti.map(|_| link.allmulti),
            tx_queue_len: change.tx_queue_len.map(|_| link.tx_queue_len),
            sysctl,
        }
    }

    /// Writes the file, unless there is one: of two ADDs the first saw what was before.
    ///
    /// Returns whether it was written.
    pub(crate) fn write(&self, path: &Path) -> Result<bool, Cause> {
        if path.exists() {
            return Ok(false);
        }
        if let Some(dir) = path.parent() {
            atomic::create_dir(dir, 0o700)?;
        }
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| damaged(path, &error.to_string()))?;
        atomic::write(path, &bytes, Durability::Boot, 0o600)?;
        Ok(true)
    }

    /// Reads the file; nothing when there is none.
    fn read(path: &Path) -> Result<Option<Self>, Cause> {
        let size = match fs::metadata(path) {
            Err(error) if is_absent(&error) => return Ok(None),
            outcome => outcome.map_err(StateError::io("read", path))?.len(),
        };
        if size > LIMIT {
            return Err(damaged(path, "it is too large"));
        }
        let bytes = file::read(path).map_err(StateError::io("read", path))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error.to_string()))
    }

    /// Returns what brings the link back. The reference plugin writes zeroes for what it did not touch.
    fn change(&self) -> Change {
        Change {
            mac: self.mac.as_deref().and_then(|mac| mac.parse().ok()).filter(|mac| *mac != Mac([0; 6])),
            mtu: self.mtu.filter(|mtu| *mtu != 0),
            promisc: self.promisc,
            allmulti: self.allmulti,
            tx_queue_len: self.tx_queue_len,
            ..Change::default()
        }
    }
}

/// Returns whether a file is one of what an interface was like before it was tuned, as DEL reads it.
pub fn is_backup(path: &Path) -> bool {
    matches!(Kept::read(path), Ok(Some(kept)) if kept.change() != Change::default() || !kept.sysctl.is_empty())
}

/// Removes a file of what an interface was like before it was tuned; one that has anything else in it stays.
///
/// # Errors
///
/// When it cannot be removed.
pub fn forget_backup(path: &Path) -> Result<(), Cause> {
    const KEYS: [&str; 6] = ["mac", "promisc", "mtu", "allmulti", "txQLen", "sysctl"];
    let has_no_other = |bytes: Vec<u8>| {
        let keys: BTreeMap<String, serde::de::IgnoredAny> =
            serde_json::from_slice(&bytes).unwrap_or_default();
        !keys.is_empty() && keys.keys().all(|key| KEYS.contains(&key.as_str()))
    };
    match file::read(path).is_ok_and(has_no_other) {
        true => forget(path),
        false => Ok(()),
    }
}

fn damaged(path: &Path, reason: &str) -> Cause {
    StateError::Damaged { path: path.into(), reason: reason.into() }.into()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Removes the file of former attributes.
pub(crate) fn forget(path: &Path) -> Result<(), Cause> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(StateError::io("remove", path)(error).into()),
        _ => Ok(()),
    }
}

impl Kernel {
    /// Puts back what was before, and forgets it. With the link or its namespace, what it was tuned to is gone, too.
    pub(crate) fn untune(&mut self, place: Place, tuning: &Tuning) -> Result<(), Cause> {
        let path = &tuning.kept;
        // What cannot be read cannot be put back, now or ever: it must not keep the container from going.
        let kept = Kept::read(path).ok().flatten();
        if let Some(kept) = kept.filter(|_| place == Place::Host || self.has_container()) {
            if let Some(link) = self.look(place, &tuning.dev)? {
                self.restore_link(place, &link, &kept)?;
            }
            for (key, value) in &kept.sysctl {
                self.run(place, || sysctl::restore(key, value))??;
            }
        }
        forget(path)
    }

    fn restore_link(&mut self, place: Place, link: &LinkInfo, kept: &Kept) -> Result<(), Cause> {
        let change = kept.change();
        if change == Change::default() {
            return Ok(());
        }
        self.ask_away(place, link::change(link.index, &change))
    }

    /// CNI: the texts are those of the reference plugin.
    pub(crate) fn observe_tuning(
        &mut self,
        place: Place,
        wanted: &Tuning,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let name = &wanted.dev;
        let Some(link) = self.find(place, name, found)? else { return Ok(()) };
        let mut differs = |what: String, wanted: Option<String>, is: String| {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
                found.push(format!("Error: {what} is {wanted}, current value is {is}"));
            }
        };
        let text = |mac: Mac| mac.to_string();
        let mac = link.mac.map(text).unwrap_or_default();
        differs(format!("Tuning configured Ethernet of {name}"), wanted.mac.map(text), mac);
        let on = |on: bool| on.to_string();
        differs(format!("Tuning link {name} configured promisc"), wanted.promisc.map(on), on(link.promisc));
        let mtu = wanted.mtu.map(|mtu| mtu.to_string());
        differs(format!("Tuning configured MTU of {name}"), mtu, link.mtu.to_string());
        let what = format!("Tuning configured all-multicast mode of {name}");
        differs(what, wanted.allmulti.map(on), on(link.allmulti));
        let length = wanted.tx_queue_len.map(|length| length.to_string());
        let what = format!("Tuning configured Transmit Queue Length of {name}");
        differs(what, length, link.tx_queue_len.to_string());
        for Sysctl { key, value, .. } in &wanted.sysctls {
            let is = self.run(place, || sysctl::value(key))??;
            let is = is.unwrap_or_else(|| "missing".into());
            if !sysctl::same(&is, value) {
                let what = format!("Error: Tuning configured Sysctl of {key} is {value}");
                found.push(format!("{what}, current value is {is}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_reference_plugin_is_understood() {
        let text = r#"{"mac":"02:00:00:00:00:01","promisc":true,"mtu":1400,"allmulti":false,"txQLen":20}"#;
        let kept: Kept = serde_json::from_str(text).unwrap();
        let change = kept.change();
        assert_eq!(change.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!((change.mtu, change.promisc, change.allmulti), (Some(1400), Some(true), Some(false)));
        assert_eq!(change.tx_queue_len, Some(20));
        assert_eq!(serde_json::to_string(&kept).unwrap(), text);
        let nothing: Kept = serde_json::from_str(r#"{"mac":"","mtu":0}"#).unwrap();
        assert_eq!(nothing.change(), Change::default());
    }
}
