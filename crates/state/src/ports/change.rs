//! Changing what one attachment publishes: claims before the kernel, files after.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_model::Endpoint;
use weft_model::port::{Protocol, Publication};

use super::claims::Claims;
use super::judge::{host_claim, refuse_too_many, refuse_twice};
use super::{Books, Choice, Chosen, Claim, DONE, GONE, INTENT, Owner, PortsError, read, remove_file};
use crate::atomic::Durability;
use crate::lock::FileLock;
use crate::{StateError, document};

/// A change of what one attachment publishes, under a lock of the attachment's container.
///
/// Dropped half-way, as when the process is killed, it leaves an intent that the next one finds.
#[derive(Debug)]
pub struct Change {
    pub(super) books: Books,
    pub(super) endpoint: Endpoint,
    pub(super) confirmed: Option<Owner>,
    interrupted: Vec<Owner>,
    /// Whether a file that tells more cannot be read.
    damaged: bool,
    /// What was found to be the attachment's and nobody can take from it meanwhile.
    owned: HashSet<Claim>,
    alone: Option<FileLock>,
}

/// What was claimed for a change.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What the attachment is to publish, every choice made.
    pub owner: Owner,
    /// What was taken from others that had no right to it any more: the kernel may have it still.
    pub taken: Vec<Taken>,
    /// What the attachment had not claimed before.
    made: Vec<Claim>,
}

/// A claim of somebody who had no right to it any more.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The claim.
    pub claim: Claim,
    /// What its owner's files say, if there are any.
    pub owners: Vec<Owner>,
}

impl Claimed {
    /// Returns what the attachment had not claimed before.
    pub fn made(&self) -> &[Claim] {
        &self.made
    }
}

impl Books {
    /// Begins to change what an attachment publishes. Waits for another change of the same container.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had, or a file is from a newer version.
    pub fn change(&self, endpoint: &Endpoint) -> Result<Change, StateError> {
        let alone = FileLock::exclusive(&self.lock_of(endpoint))?;
        let (container, ifname) = (&endpoint.container, &endpoint.ifname);
        let [confirmed, intent, gone] =
            [DONE, INTENT, GONE].map(|ending| read(&self.file(container, ifname, ending)));
        let is_damaged = |file: &Result<_, _>| matches!(file, Err(StateError::Damaged { .. }));
        let damaged = is_damaged(&confirmed) || is_damaged(&intent) || is_damaged(&gone);
        Ok(Change {
            damaged,
            confirmed: confirmed.ok().flatten(),
            interrupted: [intent, gone].into_iter().filter_map(|file| file.ok().flatten()).collect(),
            books: self.clone(),
            endpoint: endpoint.clone(),
            owned: HashSet::new(),
            alone: Some(alone),
        })
    }
}

impl Change {
    /// Returns what the attachment publishes.
    pub fn confirmed(&self) -> Option<&Owner> {
        self.confirmed.as_ref()
    }

    /// Returns what processes that were killed had meant it to publish, or were taking back.
    pub fn interrupted(&self) -> &[Owner] {
        &self.interrupted
    }

    /// Tells whether there is more than the files that can be read list: [`Change::found_claims`] has it all.
    pub const fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Returns all that the attachment has claimed, by the claims themselves, with the attachment's network at the time.
    ///
    /// # Errors
    ///
    /// When the claims cannot be read.
    pub fn found_claims(&self) -> Result<Vec<(Claim, Endpoint)>, StateError> {
        let Endpoint { container, ifname, .. } = &self.endpoint;
        let found = self.books.claims().of(container, ifname)?;
        Ok(found.into_iter().filter_map(|found| Some((found.claim, found.holder?))).collect())
    }

    /// Notes that the kernel has again what is confirmed and nothing that a killed process had meant to be there.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn settle(&mut self) -> Result<(), StateError> {
        if self.interrupted.is_empty() {
            return Ok(());
        }
        let stay = self.confirmed.as_ref().map(Owner::claims).unwrap_or_default();
        let mut gone: Vec<_> = self.interrupted.iter().flat_map(Owner::claims).collect();
        gone.retain(|claim| !stay.contains(claim));
        let _lock = self.books.lock()?;
        self.drop_own(&gone)?;
        self.interrupted.clear();
        remove_file(&self.file(INTENT))?;
        remove_file(&self.file(GONE))
    }

    /// Notes that everything is about to be taken back, so that nobody writes it anew meanwhile.
    ///
    /// # Errors
    ///
    /// When a file cannot be renamed.
    pub fn withdraw(&mut self) -> Result<(), StateError> {
        let gone = self.file(GONE);
        // One file by that name speaks for all of the attachment's. None is written over: whoever comes after us, if we
        // are killed, needs the lists of them all.
        if gone.exists() {
            return Ok(());
        }
        for ending in [DONE, INTENT] {
            let path = self.file(ending);
            match fs::rename(&path, &gone) {
                Ok(()) => break,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::io("rename", &path)(error));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Claims everything that `wanted` publishes and what is chosen for it, and notes the intent. What the
    /// attachment has chosen before it keeps. `is_free` tells whether a port of the host's can be
    /// chosen, for all that the books do not know.
    ///
    /// # Errors
    ///
    /// When somebody else has a port, the request has one twice or none is left to choose. Nothing has
    /// changed then.
    pub fn claim(
        &mut self,
        mut wanted: Owner,
        choices: &[Choice],
        is_free: &mut dyn FnMut(Protocol, IpAddr, u16) -> bool,
    ) -> Result<Claimed, PortsError> {
        refuse_too_many(choices)?;
        let books = self.books.clone();
        let _lock = books.lock()?;
        let claims = books.claims();
        let mut cursors = Vec::new();
        for choice in choices {
            let port = match self.chosen_before(choice, &wanted, &claims)? {
                Some(port) => port,
                None => self.choose(choice, &wanted, &claims, is_free, &mut cursors)?,
            };
            wanted.publications.extend(choice.at(port));
            wanted.chosen.push(Chosen { choice: choice.clone(), port });
        }
        refuse_twice(&wanted.publications)?;
        let list = wanted.claims();
        let mut taken = Vec::new();
        let (mut made, mut aside) = (Vec::new(), HashSet::new());
        for claim in &list {
            let (mine, others) = self.judge(&claims, claim)?;
            for found in &others {
                if let (Claim::Host(protocol, host, ports), Some(holder)) = (found.claim, &found.keeper) {
                    if found.claim == *claim && self.is_done_by(holder, claim, &wanted) {
                        aside.insert(*claim);
                        break;
                    }
                    return Err(PortsError::Taken { protocol, host, ports, holder: holder.clone() });
                }
            }
            if aside.contains(claim) {
                continue;
            }
            taken.extend(others.into_iter().map(|found| books.taken(found.claim, found.holder)));
            if !mine {
                made.push(*claim);
            }
        }
        if !aside.is_empty() {
            let is_aside = |one: &Publication| aside.contains(&host_claim(one));
            (wanted.elsewhere, wanted.publications) = wanted.publications.into_iter().partition(is_aside);
            let list: HashSet<_> = wanted.claims().into_iter().collect();
            made.retain(|claim| list.contains(claim));
        }
        // Nothing was written up to here.
        self.note_waiting(!wanted.elsewhere.is_empty())?;
        document::write(&self.file(INTENT), &wanted, Durability::Boot)?;
        for one in &taken {
            claims.drop(&one.claim)?;
        }
        let outcome = made.iter().try_for_each(|claim| claims.make(claim, &self.endpoint));
        let claimed = Claimed { owner: wanted, taken, made };
        if let Err(error) = outcome {
            self.take_back(&claims, &claimed.made);
            return Err(error.into());
        }
        cursors.into_iter().for_each(|(protocol, port)| books.set_cursor(protocol, port));
        Ok(claimed)
    }

    /// Notes that everything claimed is in place, and drops the claims on what is published no longer.
    ///
    /// # Errors
    ///
    /// When a file cannot be renamed or removed.
    pub fn confirm(&mut self, claimed: &Claimed) -> Result<(), StateError> {
        let (intent, done) = (self.file(INTENT), self.file(DONE));
        fs::rename(&intent, &done).map_err(StateError::io("rename", &intent))?;
        let stay = claimed.owner.claims();
        let before = self.confirmed.replace(claimed.owner.clone());
        let mut gone = before.as_ref().map(Owner::claims).unwrap_or_default();
        gone.retain(|claim| !stay.contains(claim));
        if gone.is_empty() {
            return Ok(());
        }
        let _lock = self.books.lock()?;
        self.drop_own(&gone)
    }

    /// Takes back what was claimed for a change that was not made.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had or a file cannot be removed.
    pub fn abandon(&mut self, claimed: &Claimed) -> Result<(), StateError> {
        let waited = self.confirmed.as_ref().is_some_and(|owner| !owner.elsewhere.is_empty());
        if !claimed.owner.elsewhere.is_empty() && !waited {
            self.books.note_waiting(&self.endpoint, false)?;
        }
        let _lock = self.books.lock()?;
        self.take_back(&self.books.claims(), &claimed.made);
        Ok(())
    }

    /// Returns which of these the attachment has claimed and still has.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had or a claim cannot be read.
    pub fn still_owned(&mut self, claims: &[Claim]) -> Result<Vec<Claim>, StateError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.books.lock()?;
        let book = self.books.claims();
        let mut owned = Vec::new();
        for claim in claims {
            if book.holder(claim)?.is_some_and(|holder| self.is_mine(&holder)) {
                owned.push(*claim);
            }
        }
        self.owned.extend(owned.iter().filter(|claim| claim.is_kept()));
        Ok(owned)
    }

    /// Forgets everything about the attachment, when nothing of it is in the kernel any more. Returns whether nobody
    /// publishes anything now.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn forget(&mut self) -> Result<bool, StateError> {
        let mut gone = self.known_claims();
        if self.damaged {
            gone.extend(self.found_claims()?.into_iter().map(|(claim, _)| claim));
        }
        if !gone.is_empty() {
            let _lock = self.books.lock()?;
            self.drop_own(&gone)?;
        }
        self.note_waiting(false)?;
        for ending in [INTENT, GONE, DONE] {
            remove_file(&self.file(ending))?;
        }
        self.confirmed = None;
        self.interrupted.clear();
        self.damaged = false;
        // Another owner's file keeps the directory.
        Ok(fs::remove_dir(self.books.owners_dir()).is_ok())
    }

    /// Returns what the attachment's files list, each once.
    pub fn known_claims(&self) -> Vec<Claim> {
        let mut claims: Vec<_> =
            self.confirmed.iter().chain(&self.interrupted).flat_map(Owner::claims).collect();
        claims.sort();
        claims.dedup();
        claims
    }

    fn drop_own(&self, gone: &[Claim]) -> Result<(), StateError> {
        let claims = self.books.claims();
        for claim in gone {
            let known = self.owned.contains(claim);
            if known || claims.holder(claim)?.is_some_and(|holder| self.is_mine(&holder)) {
                claims.drop(claim)?;
            }
        }
        Ok(())
    }

    /// Asks the file system only about attachments that have waited before.
    fn note_waiting(&self, waits: bool) -> Result<(), StateError> {
        let has_waited =
            self.confirmed.iter().chain(&self.interrupted).any(|owner| !owner.elsewhere.is_empty());
        if waits || has_waited || self.damaged {
            self.books.note_waiting(&self.endpoint, waits)
        } else {
            Ok(())
        }
    }

    /// What cannot be removed is void as soon as the intent is gone.
    fn take_back(&self, claims: &Claims, made: &[Claim]) {
        made.iter().for_each(|claim| drop(claims.drop(claim)));
        drop(remove_file(&self.file(INTENT)));
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.books.file(&self.endpoint.container, &self.endpoint.ifname, ending)
    }

    pub(super) fn is_mine(&self, holder: &Endpoint) -> bool {
        (&holder.container, &holder.ifname) == (&self.endpoint.container, &self.endpoint.ifname)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        // A lock file that stays is empty and harmless; the next holder removes it.
        self.alone.take().map(FileLock::unlink);
    }
}
