//! `weft network exists`.

use crate::{Error, Manager};

impl Manager {
    /// Returns whether there is a network of this name or id.
    ///
    /// # Errors
    ///
    /// When an id prefix fits several networks.
    pub fn exists(&self, reference: &str) -> Result<bool, Error> {
        match self.store.find(reference) {
            Ok(_) => Ok(true),
            Err(Error::NoNetwork(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
