//! What ADD answered, kept for CHECK, DEL and GC in the reference library's format.
//!
//! The cache is a convenience: a file that is damaged, missing or someone else's never keeps DEL from
//! doing its work, it only leaves it without `prevResult`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use weft_cni::AttachmentId;
use weft_cni::json::get;
use weft_model::{ContainerId, Endpoint, IfName};
use weft_state::StateError;
use weft_state::atomic::{self, Durability};

use crate::Attachment;

const KIND: &str = "cniCacheV1";

/// The directory of cached results.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// A cached attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct Cached {
    /// The network's name.
    pub network: String,
    /// The container and the interface.
    pub id: AttachmentId,
    /// The namespace it was made for.
    pub netns: Option<PathBuf>,
    /// The arguments it was made with.
    pub capability_args: Map<String, Value>,
}

impl Cache {
    /// Returns the cache in `dir`, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, endpoint: &Endpoint) -> PathBuf {
        self.dir.join(format!("{}-{}-{}", endpoint.network, endpoint.container, endpoint.ifname))
    }

    /// Keeps what ADD answered.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn put(
        &self,
        endpoint: &Endpoint,
        conflist: &Value,
        attachment: &Attachment,
        result: &Value,
    ) -> Result<(), StateError> {
        let mut entry = Map::new();
        entry.insert("kind".into(), json!(KIND));
        entry.insert("containerId".into(), json!(endpoint.container));
        entry.insert("config".into(), json!(base64(conflist.to_string().as_bytes())));
        entry.insert("ifName".into(), json!(endpoint.ifname));
        entry.insert("networkName".into(), json!(endpoint.network));
        if let Some(netns) = &attachment.netns {
            entry.insert("netns".into(), json!(netns.to_string_lossy()));
        }
        if !attachment.args.is_empty() {
            entry.insert("cniArgs".into(), json!(attachment.args));
        }
        if !attachment.capability_args.is_empty() {
            entry.insert("capabilityArgs".into(), json!(attachment.capability_args));
        }
        entry.insert("result".into(), result.clone());
        let bytes = Value::Object(entry).to_string().into_bytes();
        atomic::write(&self.file(endpoint), &bytes, Durability::Boot, 0o600)
    }

    /// Returns what ADD answered, if that is known.
    pub fn result(&self, endpoint: &Endpoint) -> Option<Value> {
        get(&read(&self.file(endpoint))?, "result").filter(|result| result.is_object()).cloned()
    }

    /// Returns the arguments an attachment was made with; none if that is not known.
    pub fn capability_args(&self, endpoint: &Endpoint) -> Map<String, Value> {
        let entry = read(&self.file(endpoint));
        entry.as_ref().and_then(cached).map(|cached| cached.capability_args).unwrap_or_default()
    }

    /// Forgets an attachment. Forgetting an unknown one is no error.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn forget(&self, endpoint: &Endpoint) -> std::io::Result<()> {
        match std::fs::remove_file(self.file(endpoint)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the readable attachments of a network.
    pub fn of_network(&self, network: &str) -> Vec<Cached> {
        let prefix = format!("{network}-");
        let mut found = self.all(|name| name.starts_with(&prefix));
        found.retain(|cached| cached.network == network);
        found.sort_by(|a, b| (&a.id.container_id, &a.id.ifname).cmp(&(&b.id.container_id, &b.id.ifname)));
        found
    }

    /// Returns the readable attachments of a container's interface, to whatever network.
    pub fn of_interface(&self, container: &ContainerId, ifname: &IfName) -> Vec<Cached> {
        let suffix = format!("-{container}-{ifname}");
        let mut found = self.all(|name| name.ends_with(&suffix));
        found.retain(|cached| {
            cached.id.container_id == container.as_str() && cached.id.ifname == ifname.as_str()
        });
        found
    }

    fn all(&self, named: impl Fn(&str) -> bool) -> Vec<Cached> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let matching = entries.filter(|entry| named(&entry.file_name().to_string_lossy()));
        matching.filter_map(|entry| cached(&read(&entry.path())?)).collect()
    }
}

fn read(path: &Path) -> Option<Value> {
    let entry: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (get(&entry, "kind")?.as_str()? == KIND).then_some(entry)
}

fn cached(entry: &Value) -> Option<Cached> {
    let text = |key: &str| get(entry, key).and_then(Value::as_str);
    let capability_args = match get(entry, "capabilityArgs") {
        Some(Value::Object(args)) => args.clone(),
        _ => Map::new(),
    };
    let id = AttachmentId { container_id: text("containerId")?.into(), ifname: text("ifName")?.into() };
    Some(Cached {
        network: text("networkName")?.into(),
        id,
        netns: text("netns").filter(|path| !path.is_empty()).map(PathBuf::from),
        capability_args,
    })
}

/// Encodes bytes as Go's `encoding/json` does a byte slice (RFC 4648, padded).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(char::from(DIGITS[(group >> (18 - 6 * digit)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{ff}>", "w78+"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
