//! Removing elements without the wait that follows a deletion.

use nix::errno::Errno;

use crate::error::Error;
use crate::{Element, Set, Socket, Transaction};

/// How often a lost race is tried again.
const ATTEMPTS: usize = 16;

impl Socket {
    /// Removes elements of an expiring set without the wait that follows a deletion.
    ///
    /// They run out at once where the kernel can do that, and are deleted otherwise. Elements that
    /// do not exist are no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, for another reason than the element's absence.
    pub fn expire(&mut self, set: &Set, element: &Element) -> Result<(), Error> {
        match self.element(set, &element.key)? {
            None => return Ok(()),
            Some(found) if found.expires.is_some() => return Ok(()),
            Some(_) => {}
        }
        // The set may have gone in between, with its table.
        absent_is_fine(self.commit(Transaction::new().expire(set, vec![element.clone()])))?;
        // KERNEL: before Linux 6.12 the update is accepted and ignored.
        match self.element(set, &element.key)? {
            Some(found) if found.expires.is_none() => {
                absent_is_fine(self.commit(Transaction::new().delete_elements(set, vec![element.clone()])))
            }
            _ => Ok(()),
        }
    }

    /// Removes elements of expiring sets, as [`Socket::expire`] does, in one transaction. What they lead to has to
    /// be told, too; elements of these keys that lead elsewhere are removed all the same.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, for another reason than an element's absence.
    pub fn expire_all(&mut self, elements: &[(Set, Element)]) -> Result<(), Error> {
        let Some((set, first)) = elements.first() else { return Ok(()) };
        let mut transaction = Transaction::new();
        for (set, element) in elements {
            transaction.expire(set, vec![element.clone()]);
        }
        match self.commit(&transaction) {
            // KERNEL: before Linux 6.12 the update is accepted and ignored, for all of them.
            Ok(()) => match self.element(set, &first.key)? {
                Some(found) if found.expires.is_none() => self.delete_all(elements),
                _ => Ok(()),
            },
            Err(Error::Refused { errno: Errno::ENOENT | Errno::EEXIST | Errno::EBUSY, .. }) => {
                self.delete_all(elements)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes those of the elements that exist, whatever they lead to. One that expires meanwhile is gone, too.
    fn delete_all(&mut self, elements: &[(Set, Element)]) -> Result<(), Error> {
        for attempt in 1.. {
            let mut transaction = Transaction::new();
            for (set, element) in elements {
                if self.element(set, &element.key)?.is_some_and(|found| found.expires.is_none()) {
                    transaction.delete_elements(set, vec![element.clone()]);
                }
            }
            match self.commit(&transaction) {
                Err(Error::Refused { errno: Errno::ENOENT, .. }) if attempt < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
        Ok(())
    }
}

fn absent_is_fine(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome,
    }
}
