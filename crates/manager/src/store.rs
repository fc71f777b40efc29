//! The networks there are: one file each, and the three that need none.

use std::path::PathBuf;

use serde_json::{Value, json};
use weft_cni::Conflist;
use weft_cni::json::{get, pretty};
use weft_model::{NetworkId, NetworkName};
use weft_runtime::load;
use weft_state::atomic::{self, Durability};
use weft_state::{Root, StateError};

use crate::network::Network;
use crate::{Error, order, predefined};

const EXTENSION: &str = ".conflist";

/// The directory of networks.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    copies: PathBuf,
}

/// A network and the conflist that makes it one.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The network.
    pub network: Network,
    /// Its plugins.
    pub list: Conflist,
}

impl Stored {
    /// Returns whether we made the network.
    ///
    /// INVARIANT: GC never runs for one that is somebody else's, and its leases are not touched: another
    /// runtime may know attachments of it that we do not.
    pub fn is_ours(&self) -> bool {
        get(&self.list.raw, "weft").is_some()
    }
}

impl Store {
    /// Returns the networks below `root`.
    pub fn new(root: &Root) -> Self {
        Self { dir: root.networks_dir(), copies: root.copies_dir() }
    }

    /// Returns where a network's file is.
    pub fn path(&self, name: &NetworkName) -> PathBuf {
        self.dir.join(format!("{name}{EXTENSION}"))
    }

    /// Reads a network's file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be used.
    pub fn load(&self, name: &NetworkName) -> Result<Option<Stored>, Error> {
        read(self.path(name), name)
    }

    /// Returns a network as it was when it was created or last connected to in this boot, for when its file
    /// has been damaged or removed since; `None` if nobody knows.
    pub fn recall(&self, name: &NetworkName) -> Option<Stored> {
        read(self.copy(name), name).ok().flatten()
    }

    /// Keeps a copy of a network for [`Store::recall`].
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub fn remember(&self, stored: &Stored) -> Result<(), Error> {
        let mut list = stored.list.raw.clone();
        let inlined = get(&list, "plugins").and_then(Value::as_array).map(Vec::as_slice);
        if inlined != Some(&stored.list.plugins) {
            // The plugins dropped beside the file are part of what was used.
            list["plugins"] = json!(stored.list.plugins);
        }
        self.write_copy(&stored.network.name, &(pretty(&list) + "\n"))
    }

    fn write_copy(&self, name: &NetworkName, text: &str) -> Result<(), Error> {
        let path = self.copy(name);
        match std::fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
            true => Ok(()),
            false => Ok(atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600)?),
        }
    }

    fn copy(&self, name: &NetworkName) -> PathBuf {
        self.copies.join(format!("{name}{EXTENSION}"))
    }

    /// Returns the names of all networks that have a file, in natural order.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read.
    pub fn names(&self) -> Result<Vec<NetworkName>, Error> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            outcome => outcome.map_err(StateError::io("read", &self.dir))?.flatten(),
        };
        let mut names: Vec<NetworkName> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(EXTENSION)?.parse().ok())
            .collect();
        names.sort_by(|a, b| order::natural(a.as_str(), b.as_str()));
        Ok(names)
    }

    /// Reads every network that has a file, and says what is wrong with those that cannot be read.
    pub fn all(&self) -> (Vec<Stored>, Vec<Error>) {
        let (mut stored, mut errors) = (Vec::new(), Vec::new());
        let names = self.names().unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        for name in names {
            match self.load(&name) {
                Ok(found) => stored.extend(found),
                Err(error) => errors.push(error),
            }
        }
        (stored, errors)
    }

    /// Returns every network that has a file, as it was last used where the file is damaged.
    ///
    /// # Errors
    ///
    /// When the directory is there and cannot be read.
    pub fn known(&self) -> Result<Vec<Stored>, Error> {
        let known = |name: &NetworkName| self.load(name).ok().flatten().or_else(|| self.recall(name));
        Ok(self.names()?.iter().filter_map(known).collect())
    }

    /// Returns the name of the network a person means: an exact name, an id, or the start of an id.
    ///
    /// A name costs one look at one file, whatever the number of networks.
    ///
    /// # Errors
    ///
    /// When no network, or more than one, is meant.
    pub fn find(&self, reference: &str) -> Result<NetworkName, Error> {
        if let Ok(name) = reference.parse::<NetworkName>()
            && (predefined::is(&name) || self.path(&name).exists())
        {
            return Ok(name);
        }
        let missing = || Error::NoNetwork(reference.into());
        if reference.is_empty() || !reference.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let matching = |id: &NetworkId| id.to_string().starts_with(&reference.to_ascii_lowercase());
        let (stored, _) = self.all();
        let stored = stored.into_iter().map(|stored| stored.network);
        let mut found: Vec<NetworkName> =
            stored.filter(|network| matching(&network.about.id)).map(|network| network.name).collect();
        for name in predefined::NAMES {
            if let Ok(name) = name.parse()
                && matching(&predefined::id(&name))
                && !found.contains(&name)
            {
                found.push(name);
            }
        }
        match &found[..] {
            [] => Err(missing()),
            [name] => Ok(name.clone()),
            several => Err(Error::Ambiguous { prefix: reference.into(), matches: several.len() }),
        }
    }

    /// Writes a network's file in one step: it is complete and on the disk, or not there.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub fn write(&self, network: &Network, plugins: &[Value]) -> Result<(), Error> {
        let text = network.file(plugins);
        self.write_copy(&network.name, &text)?;
        Ok(atomic::write(&self.path(&network.name), text.as_bytes(), Durability::Disk, 0o644)?)
    }

    /// Removes a network's copy and its file.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub fn remove(&self, name: &NetworkName) -> Result<(), Error> {
        for path in [self.copy(name), self.path(name)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StateError::io("remove", &path)(error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read(path: PathBuf, name: &NetworkName) -> Result<Option<Stored>, Error> {
    let list = match load::conflist(&path) {
        Err(error) if error.is_missing() => return Ok(None),
        outcome => outcome?,
    };
    if list.name != *name {
        return Err(Error::Damaged { path, why: format!("name: {} is not the file's name", list.name) });
    }
    let network = Network::of(&list, &path)?;
    Ok(Some(Stored { network, list }))
}
