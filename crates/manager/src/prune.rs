//! `weft network prune`.

use weft_model::NetworkName;
use weft_state::leftovers;

use crate::filter::{FOR_PRUNE, Filters};
use crate::{Error, Manager, predefined};

/// What was pruned, and what went wrong.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The networks removed.
    pub deleted: Vec<NetworkName>,
    /// Whatever did not work; the rest was done.
    pub errors: Vec<Error>,
}

impl Manager {
    /// Removes every custom network no container is connected to, and whatever containers that are gone have
    /// left on the others. Networks that are not ours stay: who is connected to them we cannot know.
    ///
    /// # Errors
    ///
    /// When a filter makes no sense.
    pub fn prune(&self, filters: &[String]) -> Result<Pruned, Error> {
        let filters = Filters::parse(filters, FOR_PRUNE)?;
        let mut pruned = Pruned::default();
        pruned.errors.extend(leftovers::collect(&self.root).err().map(Error::from));
        let (stored, errors) = self.store.all();
        pruned.errors.extend(errors);
        for stored in stored {
            let network = &stored.network;
            // Whether nobody on any host uses a network of a cluster cannot be seen from here.
            let removable = stored.is_ours()
                && !network.about.clustered
                && !predefined::is(&network.name)
                && filters.matches(network, false);
            let outcome = match removable {
                true => self.rm_unused(&network.name, false).map(|_| true),
                false => self.collect(&network.name).map(|()| false),
            };
            match outcome {
                Ok(true) => pruned.deleted.push(network.name.clone()),
                // Where there is no network any more, somebody else was faster.
                Ok(false) | Err(Error::NoNetwork(_)) => {}
                Err(Error::InUse { .. }) => pruned.errors.extend(self.collect(&network.name).err()),
                Err(error) => pruned.errors.push(error),
            }
        }
        Ok(pruned)
    }

    /// Cleans up after containers that are gone, on a network that stays.
    fn collect(&self, name: &NetworkName) -> Result<(), Error> {
        let (_, errors) = self.sweep(name);
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let alone = self.locks.alone(name)?;
        let Some(stored) = self.store.load(name)? else { return Ok(alone.finish()?) };
        let problems = self.collect_garbage(&alone, &stored);
        if problems.is_empty() { Ok(()) } else { Err(Error::Problems(problems)) }
    }
}
