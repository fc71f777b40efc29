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

/// All that is kept of an attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Whose it is.
    pub endpoint: Endpoint,
    /// Its namespace: as it was given, or as the answer has it, since older runtimes keep that alone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: String,
    /// The configurations of its plugins, each with the network's name and version.
    pub plugins: Vec<Value>,
    /// What ADD answered.
    pub result: Value,
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

    /// Returns the readable attachments, with all that is kept of them.
    pub fn made(&self) -> Vec<Made> {
        self.files(|_| true).filter_map(|file| made(&read(&file)?)).collect()
    }

    /// Returns the readable attachments to all networks.
    pub fn everybody(&self) -> Vec<Cached> {
        self.all(|_| true)
    }

    fn all(&self, named: impl Fn(&str) -> bool) -> Vec<Cached> {
        self.files(named).filter_map(|file| cached(&read(&file)?)).collect()
    }

    fn files(&self, named: impl Fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter(move |entry| named(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
    }
}

fn read(path: &Path) -> Option<Value> {
    let entry: Value = serde_json::from_slice(&weft_state::file::read(path).ok()?).ok()?;
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

fn made(entry: &Value) -> Option<Made> {
    let cached = cached(entry)?;
    let result = get(entry, "result").filter(|result| result.is_object())?.clone();
    let endpoint = Endpoint {
        network: cached.network.parse().ok()?,
        container: cached.id.container_id.parse().ok()?,
        ifname: cached.id.ifname.parse().ok()?,
    };
    let interfaces = get(&result, "interfaces").and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value, key: &str| Some(get(value, key)?.as_str()?.to_owned());
    let inside = |link: &Value| {
        let sandbox = text(link, "sandbox").filter(|path| !path.is_empty())?;
        (text(link, "name")? == cached.id.ifname).then(|| PathBuf::from(sandbox))
    };
    let netns = cached.netns.clone().or_else(|| interfaces.clone().find_map(inside));
    let pairs = get(entry, "cniArgs").and_then(Value::as_array).into_iter().flatten();
    let pair = |pair: &Value| Some(format!("{}={}", pair.get(0)?.as_str()?, pair.get(1)?.as_str()?));
    let args = pairs.filter_map(pair).collect::<Vec<_>>().join(";");
    let config = bytes(get(entry, "config")?.as_str()?)?;
    Some(Made { endpoint, netns, args, plugins: plugins(serde_json::from_slice(&config).ok()?), result })
}

/// Returns the plugins of a list, or the one that stands alone.
pub(crate) fn plugins(config: Value) -> Vec<Value> {
    let Some(plugins) = get(&config, "plugins").and_then(Value::as_array) else { return vec![config] };
    let with_head = |plugin: &Value| {
        let mut plugin = plugin.as_object()?.clone();
        for key in ["name", "cniVersion"] {
            plugin.extend(get(&config, key).map(|value| (key.to_owned(), value.clone())));
        }
        Some(Value::Object(plugin))
    };
    plugins.iter().filter_map(with_head).collect()
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Decodes what [`base64`] makes; nothing for another text.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for chunk in digits.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for digit in chunk {
            group = group << 6 | u32::try_from(DIGITS.iter().position(|known| known == digit)?).ok()?;
        }
        let [_, whole @ ..] = (group << (6 * (4 - chunk.len()))).to_be_bytes();
        bytes.extend(whole.get(..chunk.len().checked_sub(1)?)?);
    }
    Some(bytes)
}

/// Encodes bytes as Go's `encoding/json` does a byte slice (RFC 4648, padded).
fn base64(bytes: &[u8]) -> String {
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
            assert_eq!(bytes(coded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(bytes("Zg!="), None);
    }

    #[test]
    fn what_an_older_runtime_keeps_is_read() {
        let list = json!({"name": "n1", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, 5]});
        let mut entry = json!({
            "kind": KIND, "containerId": "c1", "ifName": "eth0", "networkName": "n1",
            "config": base64(list.to_string().as_bytes()), "cniArgs": [["K", "v"], ["L", "w"], ["M"]],
            "result": {"interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/run/netns/c1"}]},
        });
        let made = made(&entry).unwrap();
        assert_eq!((made.endpoint.container.as_str(), made.args.as_str()), ("c1", "K=v;L=w"));
        assert_eq!(made.netns.as_deref(), Some(Path::new("/run/netns/c1")));
        assert_eq!(made.plugins, [json!({"type": "bridge", "name": "n1", "cniVersion": "1.0.0"})]);
        entry["config"] = json!("!");
        assert_eq!(super::made(&entry), None);
    }
}
