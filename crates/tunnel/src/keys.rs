//! Keys: made on the host they are for and never leaving it, and the secret of a pair of hosts.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gotatun::x25519;
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use weft_overlay::ids::PublicKey;
use weft_state::atomic::Durability;
use weft_state::{Root, StateError};

use crate::slot::{Slot, keys_dir};

/// The mode of whatever holds a secret.
const SECRET_MODE: u32 = 0o600;

/// A file with a secret is not longer than this, in bytes.
const MAX_FILE: u64 = 4096;

/// The shortest cluster secret taken, in bytes. Every host can try secrets against the proof in the store, so none may be
/// short enough to be found that way.
const MIN_SECRET: usize = 32;

/// Where a host keeps the cluster's secret, under the directory of its keys.
const CLUSTER_SECRET: &str = "cluster.secret";

/// What `HKDF-Extract` is salted with: another protocol that has the same secret gets other keys.
const SALT: &[u8] = b"weft mesh pair secret v1";

/// A secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },

    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] StateError),

    /// Others than its owner may read or write the file.
    #[error("{} has mode {mode:04o}, so others may read it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },

    /// The file is no private key.
    #[error("{} is not a private key: 44 characters of base64 are expected, as wg genkey prints them", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },

    /// The file is too short, or too long, for a secret.
    #[error("{} holds {length} bytes, and a cluster secret has 32 to 4096", path.display())]
    NotASecret {
        /// Which file.
        path: PathBuf,
        /// How many bytes it has, white space at its ends not counted.
        length: usize,
    },

    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes")]
    NoRandom,
}

impl KeyError {
    /// Returns the next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!("chmod 0600 {}", path.display())),
            Self::NotAKey { path } => Some(format!("rm {}; weft overlay rotate", path.display())),
            // What the hosts of a cluster know already is not made anew.
            Self::NotASecret { path, .. } if path.ends_with(CLUSTER_SECRET) => {
                Some(format!("copy {} from a host that has joined", path.display()))
            }
            Self::NotASecret { path, .. } => {
                Some(format!("head -c 32 /dev/urandom | base64 > {}", path.display()))
            }
            Self::Read { .. } | Self::Write(_) | Self::NoRandom => None,
        }
    }
}

/// 32 bytes that stay secret: a private key, or the secret of a pair of hosts. Written in base64 as `wg(8)` does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretKey([u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretKey(..)")
    }
}

impl TryFrom<String> for SecretKey {
    type Error = weft_overlay::ids::OverlayIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Public and private keys are written alike. The error must not repeat what may be a secret.
        match text.parse::<PublicKey>() {
            Ok(key) => Ok(Self(key.0)),
            Err(_) => Err(weft_overlay::ids::OverlayIdError::NotAKey("(a secret)".into())),
        }
    }
}

impl From<SecretKey> for String {
    fn from(key: SecretKey) -> Self {
        PublicKey(key.0).to_string()
    }
}

impl SecretKey {
    /// Returns the key made of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns a key nobody else has.
    ///
    /// # Errors
    ///
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::NoRandom)?;
        Ok(Self(bytes))
    }

    /// Returns the key's bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the public key that belongs to this private one (RFC 7748).
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.x25519()).to_bytes())
    }

    pub(crate) fn x25519(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(self.0)
    }
}

/// Returns the private key of a slot, or nothing if there is none.
///
/// # Errors
///
/// When the file is something else, or others may read it.
pub fn load(root: &Root, slot: Slot) -> Result<Option<SecretKey>, KeyError> {
    let path = slot.key_file(root);
    let Some(text) = read_secret(&path)? else { return Ok(None) };
    let key = String::from_utf8(text).ok().and_then(|text| SecretKey::try_from(text.trim().to_string()).ok());
    key.map(Some).ok_or(KeyError::NotAKey { path })
}

/// Makes a private key for a slot, on disk before anybody is told, and returns it. One there was is gone.
///
/// # Errors
///
/// When it cannot be written.
pub fn create(root: &Root, slot: Slot) -> Result<SecretKey, KeyError> {
    let key = SecretKey::random()?;
    weft_state::atomic::create_dir(&keys_dir(root), 0o700)?;
    let text = format!("{}\n", String::from(key.clone()));
    weft_state::atomic::write(&slot.key_file(root), text.as_bytes(), Durability::Disk, SECRET_MODE)?;
    Ok(key)
}

/// Forgets the private key of a slot; that there is none is no error.
///
/// # Errors
///
/// When the file cannot be removed.
pub fn forget(root: &Root, slot: Slot) -> Result<(), KeyError> {
    let path = slot.key_file(root);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(KeyError::Read { path, source }),
        _ => Ok(()),
    }
}

/// What all hosts of a cluster know and its store never gets: whoever can write to the store alone cannot join the mesh.
#[derive(Clone)]
pub struct ClusterSecret(Vec<u8>);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ClusterSecret(..)")
    }
}

impl ClusterSecret {
    /// Returns where a host keeps it.
    pub fn file(root: &Root) -> PathBuf {
        weft_overlay::here::secret_file(root)
    }

    /// Reads it from where the host keeps it, or returns nothing if it has none.
    ///
    /// # Errors
    ///
    /// When others may read the file, or it is no secret.
    pub fn load(root: &Root) -> Result<Option<Self>, KeyError> {
        let path = Self::file(root);
        read_secret(&path)?.map(|bytes| Self::of(&bytes, &path)).transpose()
    }

    /// Reads it from a file somebody brought, to be kept.
    ///
    /// # Errors
    ///
    /// When there is no such file, others may read it, or it is no secret.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let missing = || KeyError::Read { path: path.into(), source: ErrorKind::NotFound.into() };
        Self::of(&read_secret(path)?.ok_or_else(missing)?, path)
    }

    /// Returns a secret nobody else has, for the first host of a cluster.
    ///
    /// # Errors
    ///
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self, KeyError> {
        Ok(Self(String::from(SecretKey::random()?).into_bytes()))
    }

    fn of(bytes: &[u8], path: &Path) -> Result<Self, KeyError> {
        // Files are written by hand, and an editor's last newline is no part of what was meant.
        let secret = bytes.trim_ascii();
        if secret.len() < MIN_SECRET {
            return Err(KeyError::NotASecret { path: path.into(), length: secret.len() });
        }
        Ok(Self(secret.to_vec()))
    }

    /// Keeps it on this host.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn keep(&self, root: &Root) -> Result<(), KeyError> {
        weft_state::atomic::create_dir(&keys_dir(root), 0o700)?;
        let text = [&self.0[..], b"\n"].concat();
        Ok(weft_state::atomic::write(&Self::file(root), &text, Durability::Disk, SECRET_MODE)?)
    }

    /// Returns the secret of a pair of hosts: HKDF-SHA256 (RFC 5869) over both public keys, the lower first, so that both
    /// hosts come to the same. WireGuard mixes it into every handshake (psk2 of the Noise protocol).
    pub fn of_pair(&self, one: &PublicKey, other: &PublicKey) -> SecretKey {
        let (low, high) = if one.0 <= other.0 { (one, other) } else { (other, one) };
        let info = [&low.0[..], &high.0[..]];
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&self.0);
        let mut bytes = [0; 32];
        // Fails only for more than 255 times 32 bytes.
        if secret.expand(&info, hkdf::HKDF_SHA256).and_then(|key| key.fill(&mut bytes)).is_err() {
            unreachable!("32 bytes are what one round of HKDF-SHA256 makes");
        }
        SecretKey(bytes)
    }
}

/// Reads a file that only its owner may read; nothing if it is not there.
fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::Read { path: path.into(), source };
    let file = match weft_state::file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(KeyError::NotASecret { path: path.into(), length: bytes.len() });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(Some(folder.path().into()));
        (folder, root)
    }

    #[test]
    fn the_public_key_is_that_of_wg() {
        // wg pubkey <<< AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
        let key = SecretKey::new([1; 32]);
        assert_eq!(key.public().to_string(), "pOCSkrZRwni5dyxWn1+puxPZBrRqtoyd+dwrRAn4ogk=");
    }

    #[test]
    fn a_key_is_kept_and_nobody_else_may_read_it() {
        let (_folder, root) = root();
        assert_eq!(load(&root, Slot::A).unwrap(), None);
        let key = create(&root, Slot::A).unwrap();
        assert_eq!(load(&root, Slot::A).unwrap(), Some(key.clone()));
        assert_eq!(load(&root, Slot::B).unwrap(), None);
        assert_ne!(create(&root, Slot::B).unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = Slot::A.key_file(&root);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load(&root, Slot::A).unwrap_err();
        assert!(error.to_string().ends_with("has mode 0640, so others may read it"), "{error}");
        assert_eq!(error.hint().unwrap(), format!("chmod 0600 {}", path.display()));
        forget(&root, Slot::A).unwrap();
        forget(&root, Slot::A).unwrap();
        assert_eq!(load(&root, Slot::A).unwrap(), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let (_folder, root) = root();
        create(&root, Slot::A).unwrap();
        let path = Slot::A.key_file(&root);
        for bad in ["", "hunter2", &"A".repeat(44), &"A".repeat(5000), "\u{fffd}"] {
            weft_state::atomic::write(&path, bad.as_bytes(), Durability::Boot, 0o600).unwrap();
            let error = load(&root, Slot::A).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(format!("{:?}", SecretKey::new([7; 32])), "SecretKey(..)");
        let error = serde_json::from_str::<SecretKey>("\"hunter2\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_pair_has_one_secret_and_every_pair_another() {
        let secret = ClusterSecret(b"a secret of sixteen bytes or more".to_vec());
        let [a, b, c] = [1, 2, 3].map(|byte| SecretKey::new([byte; 32]).public());
        assert_eq!(secret.of_pair(&a, &b), secret.of_pair(&b, &a));
        assert_ne!(secret.of_pair(&a, &b), secret.of_pair(&a, &c));
        let other = ClusterSecret(b"another secret of 16 bytes or more".to_vec());
        assert_ne!(secret.of_pair(&a, &b), other.of_pair(&a, &b));
    }

    #[test]
    fn a_secret_is_kept_without_the_editors_newline() {
        let (folder, root) = root();
        assert!(ClusterSecret::load(&root).unwrap().is_none());
        let brought = folder.path().join("secret");
        weft_state::atomic::write(&brought, b"0123456789abcdef0123456789abcdef\n", Durability::Boot, 0o600)
            .unwrap();
        ClusterSecret::read(&brought).unwrap().keep(&root).unwrap();
        assert_eq!(ClusterSecret::load(&root).unwrap().unwrap().0, b"0123456789abcdef0123456789abcdef");
        weft_state::atomic::write(&brought, b"0123456789abcdef0123456789abcde\n", Durability::Boot, 0o600)
            .unwrap();
        let error = ClusterSecret::read(&brought).unwrap_err();
        assert!(
            error.to_string().ends_with("holds 31 bytes, and a cluster secret has 32 to 4096"),
            "{error}"
        );
        assert!(error.hint().unwrap().starts_with("head -c 32 /dev/urandom"));
        // The one that is kept may be all that others have: the hint takes nothing away.
        let kept = ClusterSecret::file(&root);
        weft_state::atomic::write(&kept, b"damaged", Durability::Boot, 0o600).unwrap();
        let hint = ClusterSecret::load(&root).unwrap_err().hint().unwrap();
        assert_eq!(hint, format!("copy {} from a host that has joined", kept.display()));
        ClusterSecret::random().unwrap().keep(&root).unwrap();
        assert_eq!(ClusterSecret::load(&root).unwrap().unwrap().0.len(), 44);
    }
}
