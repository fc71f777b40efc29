//! `weft network rm`.

use std::path::Path;

use weft_model::NetworkName;
use weft_runtime::Problem;
use weft_state::StateError;

use crate::disconnect::Disconnect;
use crate::locks::Alone;
use crate::{Error, Manager, predefined};

/// How often containers that come back are disconnected again before giving up.
const ROUNDS: usize = 3;

impl Manager {
    /// Removes a network. With `force` its containers are disconnected first, a network that does not exist is
    /// no error, and what a plugin could not clean up is returned instead of being in the way.
    ///
    /// # Errors
    ///
    /// When there is no such network, it is predefined, containers are connected or a plugin fails.
    pub fn rm(&self, reference: &str, force: bool) -> Result<Vec<Problem>, Error> {
        let name = match self.store.find(reference) {
            Err(Error::NoNetwork(_)) if force => return Ok(Vec::new()),
            outcome => outcome?,
        };
        if predefined::is(&name) {
            return Err(Error::Permanent(name));
        }
        let mut problems = Vec::new();
        for _ in 0..ROUNDS {
            if force {
                problems.extend(self.disconnect_all(&name)?);
            }
            match self.rm_unused(&name, force) {
                Err(Error::InUse { .. }) if force => {}
                Err(error) => return Err(error),
                Ok(more) => {
                    problems.extend(more);
                    return Ok(problems);
                }
            }
        }
        let (live, _) = self.sweep(&name);
        Err(Error::InUse { network: name, holders: Self::holders(&live) })
    }

    fn disconnect_all(&self, name: &NetworkName) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        for record in self.records.of_network(name) {
            let request = Disconnect {
                network: name.to_string(),
                netns: record.endpoint.container.to_string(),
                id: Some(record.endpoint.container.to_string()),
                force: true,
            };
            match self.disconnect(&request) {
                Ok(more) => problems.extend(more),
                // Somebody else was faster.
                Err(Error::NotConnected { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(problems)
    }

    /// Removes a network nobody is connected to.
    pub(crate) fn rm_unused(&self, name: &NetworkName, force: bool) -> Result<Vec<Problem>, Error> {
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
        let problems = match self.store.load(name) {
            Ok(Some(stored)) => self.runtime.gc(&stored.list, &[]),
            Ok(None) => return Err(Error::NoNetwork(name.to_string())),
            // What the file was about cannot be known, only that nobody uses it.
            Err(_) if force => Vec::new(),
            Err(error) => return Err(error),
        };
        if !problems.is_empty() && !force {
            return Err(Error::Problems(problems));
        }
        self.forget(alone)?;
        Ok(problems)
    }

    /// Removes everything on disk about a network. Its file goes last: until then another `rm` can finish
    /// the work.
    fn forget(&self, alone: Alone) -> Result<(), Error> {
        let name = alone.network();
        // GC has freed every lease; what is left are host-local's lock, cursor and index.
        let leases = self.root.cni_networks_dir();
        remove_tree(&leases.join(name.as_str()))?;
        remove_tree(&leases.join(".index").join(name.as_str()))?;
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
