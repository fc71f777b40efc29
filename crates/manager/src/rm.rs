//! `weft network rm`.

use std::path::{Path, PathBuf};

use weft_model::NetworkName;
use weft_state::StateError;

use crate::disconnect::Disconnect;
use crate::locks::Alone;
use crate::store::Stored;
use crate::{Error, Manager, leases, predefined};

/// How often containers that come back are disconnected again before giving up.
const ROUNDS: usize = 3;

impl Manager {
    /// Removes a network and returns what is left of it. With `force` its containers are disconnected first,
    /// a network that does not exist is no error but `None`, and a plugin that could not clean up is in
    /// nobody's way.
    ///
    /// # Errors
    ///
    /// When there is no such network, it is predefined, containers are connected or a plugin fails.
    pub fn rm(&self, reference: &str, force: bool) -> Result<Option<Vec<Error>>, Error> {
        let name = match self.store.find(reference) {
            Err(Error::NoNetwork(_)) if force => match self.lost(reference) {
                Some(name) => name,
                None => return Ok(None),
            },
            outcome => outcome?,
        };
        if predefined::is(&name) {
            return Err(Error::Permanent(name));
        }
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            if force {
                left.extend(self.disconnect_all(&name)?);
            }
            let removed = match self.is_shared(&name) {
                true => self.remove_shared(&name, force),
                false => self.rm_unused(&name, force),
            };
            match removed {
                Err(Error::InUse { .. }) if force => {}
                Err(Error::NoNetwork(_)) if force => return Ok(None),
                outcome => {
                    left.extend(outcome?);
                    return Ok(Some(left));
                }
            }
        }
        let (live, _) = self.sweep(&name);
        Err(Error::InUse { network: name, holders: Self::holders(&live) })
    }

    /// Returns the name of a network whose file somebody removed, but not what belongs to it.
    fn lost(&self, reference: &str) -> Option<NetworkName> {
        reference.parse().ok().filter(|name| self.store.recall(name).is_some())
    }

    /// Returns whether a network is one of the cluster that this host is in.
    fn is_shared(&self, name: &NetworkName) -> bool {
        let stored = self.store.load(name).ok().flatten().or_else(|| self.store.recall(name));
        stored.is_some_and(|stored| stored.network.about.clustered) && self.agent().has_joined()
    }

    fn disconnect_all(&self, name: &NetworkName) -> Result<Vec<Error>, Error> {
        let mut left = Vec::new();
        for record in self.records.of_network(name) {
            let request = Disconnect {
                network: name.to_string(),
                netns: record.endpoint.container.to_string(),
                id: Some(record.endpoint.container.to_string()),
                force: true,
            };
            match self.disconnect(&request) {
                Ok(done) if done.problems.is_empty() => {}
                Ok(done) => left.push(Error::Problems(done.problems)),
                // Somebody else was faster.
                Err(Error::NotConnected { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Removes a network nobody is connected to, and returns what is left of it.
    pub(crate) fn rm_unused(&self, name: &NetworkName, force: bool) -> Result<Vec<Error>, Error> {
        let (live, errors) = self.sweep(name);
        if let Some(error) = errors.into_iter().next().filter(|_| !force) {
            return Err(error);
        }
        let in_use = |holders| Error::InUse { network: name.clone(), holders };
        if !live.is_empty() {
            return Err(in_use(Self::holders(&live)));
        }
        let alone = self.locks.alone(name)?;
        let attached = self.records.of_network(name);
        if !attached.is_empty() {
            return Err(in_use(Self::holders(&attached)));
        }
        let loaded = self.store.load(name);
        let copy = if force { self.store.recall(name) } else { None };
        let stored = match (loaded, copy) {
            (Ok(Some(stored)), _) | (_, Some(stored)) => Some(stored),
            (Ok(None), None) => {
                alone.finish()?;
                return Err(Error::NoNetwork(name.to_string()));
            }
            (Err(_), None) if force => None,
            (Err(error), None) => return Err(error),
        };
        let left = match &stored {
            Some(stored) => self.clean_up(stored, force)?,
            // What the file was about cannot be known, only that nobody uses it.
            None => Some(Error::Unknown { network: name.clone(), leases: self.leases_of(name) }),
        };
        self.forget(alone, stored.is_some_and(|stored| stored.is_ours()))?;
        Ok(left.into_iter().collect())
    }

    /// Removes what a network's plugins made on the host, if it is ours. Returns what is left.
    fn clean_up(&self, stored: &Stored, force: bool) -> Result<Option<Error>, Error> {
        let network = stored.network.name.clone();
        if !stored.is_ours() {
            let containers = leases::holders(&self.root, &stored.list);
            return match containers.is_empty() {
                true => Ok(Some(Error::Foreign(network))),
                false => Err(Error::Leased { network, containers }),
            };
        }
        let problems = self.runtime.gc(&stored.list, &[]);
        match problems.is_empty() {
            true => Ok(None),
            false if force => Ok(Some(Error::Problems(problems))),
            false => Err(Error::Problems(problems)),
        }
    }

    fn leases_of(&self, name: &NetworkName) -> PathBuf {
        self.root.cni_networks_dir().join(name.as_str())
    }

    /// Removes everything on disk about a network, but not the leases of one that is not ours. Its file goes
    /// last: until then another `rm` can finish the work.
    fn forget(&self, alone: Alone, ours: bool) -> Result<(), Error> {
        let name = alone.network();
        if ours {
            // GC has freed every lease; what is left are host-local's lock, cursor and index.
            remove_tree(&self.leases_of(name))?;
            remove_tree(&self.root.cni_networks_dir().join(".index").join(name.as_str()))?;
        }
        self.reservations.remove_network(name)?;
        self.claims.forget(name)?;
        self.sweeps.forget(name)?;
        self.store.remove(name)?;
        Ok(alone.finish()?)
    }
}

fn remove_tree(dir: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StateError::io("remove", dir)(error))
        }
        _ => Ok(()),
    }
}
