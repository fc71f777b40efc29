//! What is in sets.

use std::collections::BTreeMap;

use crate::{Error, Key, Set, Socket, encode, read};

impl Socket {
    /// Returns the keys of a set's elements; none if there is no such set. That of `*`, which stands for all others, is empty.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn keys(&mut self, set: &Set) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.elements(set)?.into_iter().map(|(key, ..)| key).collect())
    }

    /// Returns the elements of a set; none if there is no such set.
    pub(crate) fn elements(&mut self, set: &Set) -> Result<Vec<read::Listed>, Error> {
        let found =
            self.dump(|| encode::elements_question(set), &set.name, |bytes| Some(read::elements(bytes)))?;
        Ok(read::all(found, || format!("the elements of {set}"))?.into_iter().flatten().collect())
    }

    /// Returns the keys of a set's elements, each with whether it stays: one that does not is there for a time. None if there is no
    /// such set.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn lasting_keys(&mut self, set: &Set) -> Result<BTreeMap<Key, bool>, Error> {
        let found = self.elements(set)?.into_iter();
        Ok(found.map(|(key, _, element)| (Key(key), element.expires.is_none())).collect())
    }
}
