//! Addresses kept for names that may come back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_model::NetworkName;

use crate::atomic::Durability;
use crate::lock::FileLock;
use crate::{Root, StateError, document};

/// The addresses of each name on a network.
pub type Names = BTreeMap<String, Vec<IpAddr>>;

#[derive(Serialize, Deserialize)]
struct Reserved {
    schema: u64,
    names: Names,
}

/// The addresses that names had on each network. They outlive a reboot.
#[derive(Clone, Debug)]
pub struct Reservations {
    dir: PathBuf,
    locks: PathBuf,
}

impl Reservations {
    /// Returns the reservations below `root`.
    pub fn new(root: &Root) -> Self {
        Self { dir: root.reservations_dir(), locks: root.locks_dir() }
    }

    /// Returns every name's addresses on a network.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is damaged or comes from a newer version.
    pub fn of_network(&self, network: &NetworkName) -> Result<Names, StateError> {
        Ok(document::read::<Reserved>(&self.path(network))?.map(|file| file.names).unwrap_or_default())
    }

    /// Keeps these addresses, and no others, for a name. A damaged file is replaced: what it held is lost
    /// either way.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or replaced.
    pub fn keep(&self, network: &NetworkName, name: &str, addresses: &[IpAddr]) -> Result<(), StateError> {
        self.change(network, |names| {
            let same = names.get(name).is_some_and(|kept| kept == addresses);
            names.insert(name.into(), addresses.into());
            !same
        })
    }

    /// Forgets a name.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or replaced.
    pub fn release(&self, network: &NetworkName, name: &str) -> Result<(), StateError> {
        self.change(network, |names| names.remove(name).is_some())
    }

    /// Forgets a network.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn remove_network(&self, network: &NetworkName) -> Result<(), StateError> {
        let lock = self.lock(network)?;
        let path = self.path(network);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StateError::io("remove", &path)(error));
            }
            _ => {}
        }
        lock.unlink()
    }

    fn change(&self, network: &NetworkName, edit: impl FnOnce(&mut Names) -> bool) -> Result<(), StateError> {
        let _lock = self.lock(network)?;
        let mut names = match self.of_network(network) {
            Err(StateError::Damaged { .. }) => Names::new(),
            outcome => outcome?,
        };
        if !edit(&mut names) {
            return Ok(());
        }
        let file = Reserved { schema: document::SCHEMA, names };
        document::write(&self.path(network), &file, Durability::Disk)
    }

    fn lock(&self, network: &NetworkName) -> Result<FileLock, StateError> {
        FileLock::exclusive(&self.locks.join(format!("reservations-{network}")))
    }

    fn path(&self, network: &NetworkName) -> PathBuf {
        self.dir.join(format!("{network}.json"))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::atomic;

    #[test]
    fn names_keep_their_addresses_until_released() {
        let dir = tempfile::tempdir().unwrap();
        let reservations = Reservations::new(&Root::new(Some(dir.path().into())));
        let blue: NetworkName = "blue".parse().unwrap();
        assert!(reservations.of_network(&blue).unwrap().is_empty());
        let ten: IpAddr = "10.1.0.10".parse().unwrap();
        let six: IpAddr = "fd00::10".parse().unwrap();
        reservations.keep(&blue, "web", &[ten, six]).unwrap();
        reservations.keep(&blue, "db", &[ten]).unwrap();
        reservations.keep(&blue, "db", &[six]).unwrap();
        assert_eq!(reservations.of_network(&blue).unwrap()["web"], [ten, six]);
        assert_eq!(reservations.of_network(&blue).unwrap()["db"], [six]);
        assert!(fs::read_to_string(reservations.path(&blue)).unwrap().starts_with("{\"schema\":1,"));
        reservations.release(&blue, "web").unwrap();
        reservations.release(&blue, "web").unwrap();
        assert_eq!(reservations.of_network(&blue).unwrap().len(), 1);
        reservations.remove_network(&blue).unwrap();
        reservations.remove_network(&blue).unwrap();
        assert!(reservations.of_network(&blue).unwrap().is_empty());
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let reservations = Reservations::new(&Root::new(Some(dir.path().into())));
        let blue: NetworkName = "blue".parse().unwrap();
        thread::scope(|scope| {
            for number in 0..16_u8 {
                let (reservations, blue) = (&reservations, &blue);
                scope.spawn(move || {
                    reservations.keep(blue, &format!("n{number}"), &[[10, 0, 0, number].into()]).unwrap();
                });
            }
        });
        assert_eq!(reservations.of_network(&blue).unwrap().len(), 16);
    }

    #[test]
    fn a_damaged_file_is_reported_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let reservations = Reservations::new(&Root::new(Some(dir.path().into())));
        let blue: NetworkName = "blue".parse().unwrap();
        let path = reservations.path(&blue);
        atomic::write(&path, b"{\"schema\": 1, \"nam", Durability::Boot, 0o600).unwrap();
        let error = reservations.of_network(&blue).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("damaged"), "{error}");
        reservations.keep(&blue, "web", &[[10, 0, 0, 1].into()]).unwrap();
        assert_eq!(reservations.of_network(&blue).unwrap().len(), 1);

        atomic::write(&path, b"{\"schema\": 2}", Durability::Boot, 0o600).unwrap();
        assert!(reservations.keep(&blue, "web", &[]).is_err(), "a newer weft's file is not ours to replace");
    }
}
