//! Making an index from the lease files, which are the truth.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weft_state::{StateError, atomic};

use crate::index::{Index, Lease, NOBODY};
use crate::key::Key;
use crate::store::Location;

/// What the names of lease files that nobody needs begin with.
pub(crate) const SPARE: &str = "spare.";

/// Makes an index from the lease files.
///
/// Our own files go: the temporary ones of those who were killed, and the spare ones, of which nobody knows
/// any more which are also leases.
pub(crate) fn rescan(location: &Location, before: Option<&Index>) -> Result<Index, StateError> {
    let ours = [atomic::TEMPORARY, SPARE];
    for entry in fs::read_dir(&location.index).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if ours.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes())) {
            drop(fs::remove_file(entry.path()));
        }
    }
    scan(&location.dir, before)
}

/// Reads every lease file of a directory and removes those that are empty.
///
/// INVARIANT: the caller holds the directory's lock. Whoever writes a lease does so under it, so an empty
/// file is not one being written: it is what a power loss, a full disk or a kill left behind, and no DEL
/// would ever find it.
///
/// What the index of before knew about a lease besides its holder is kept if its file is still the same.
///
/// # Errors
///
/// When the directory or one of its files cannot be read.
fn scan(dir: &Path, before: Option<&Index>) -> Result<Index, StateError> {
    let known = before.and_then(|index| index.leases().ok()).unwrap_or_default();
    let known: HashMap<IpAddr, Lease> = known.into_iter().map(|lease| (lease.address, lease)).collect();
    let mut leases = Vec::new();
    for entry in fs::read_dir(dir).map_err(StateError::io("read", dir))? {
        let entry = entry.map_err(StateError::io("read", dir))?;
        if let Some(address) = address_of(entry.file_name().to_str()) {
            leases.extend(examine(&entry.path(), address, &known)?);
        }
    }
    Ok(Index::new(&leases))
}

/// Returns the address that a file is named after, if it is spelled as we and the reference plugin spell it.
fn address_of(name: Option<&str>) -> Option<IpAddr> {
    let address: IpAddr = name?.parse().ok()?;
    (address.to_canonical() == address && Some(address.to_string().as_str()) == name).then_some(address)
}

fn examine(
    path: &Path,
    address: IpAddr,
    known: &HashMap<IpAddr, Lease>,
) -> Result<Option<Lease>, StateError> {
    let foreign = |holder| Lease { holder, address, boot: 0, written: 0 };
    let (content, file) = match read(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Nothing can be created over a directory, so its address is taken, and nobody's.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Ok(Some(foreign(NOBODY))),
        Err(error) => return Err(StateError::io("read", path)(error)),
    };
    let Some(key) = Key::of_content(&content) else {
        fs::remove_file(path).map_err(StateError::io("remove", path))?;
        return Ok(None);
    };
    let holder = key.hash();
    Ok(Some(match known.get(&address).filter(|lease| lease.boot != 0) {
        Some(lease) if written(&file) == Some(lease.written) => Lease { holder, ..*lease },
        _ => foreign(holder),
    }))
}

/// Reads a lease file. Nothing in a longer one is of interest.
fn read(path: &Path) -> io::Result<(Vec<u8>, File)> {
    let mut file = File::open(path)?;
    let mut content = [0; 1024];
    let length = file.read(&mut content)?;
    Ok((content[..length].to_vec(), file))
}

/// Returns the key in a lease file; `None` when there is no file or nothing in it.
///
/// # Errors
///
/// When the file is there and cannot be read.
pub(crate) fn holder(path: &Path) -> Result<Option<Key>, StateError> {
    match read(path) {
        Ok((content, _)) => Ok(Key::of_content(&content)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            Ok(None)
        }
        Err(error) => Err(StateError::io("read", path)(error)),
    }
}

/// Returns when a file was written, in nanoseconds.
pub(crate) fn written(file: &File) -> Option<u64> {
    let facts = file.metadata().ok()?;
    let nanos = i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec());
    u64::try_from(nanos).ok()
}
