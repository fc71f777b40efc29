//! The records hosts share: what a key's value means.
//!
//! Written as JSON with `"schema": 1` in front. Fields that are not known here are passed over, so a newer weft may add some;
//! a higher schema is refused, because then something known here means something else.

mod addresses;
mod cluster;
mod host;
mod network;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use addresses::{Block, BlockState, Borrow, BorrowState};
pub use cluster::{BlockLength, Cluster, Pool, Slots};
pub use host::{Alive, Host, HostClaim, Left, Slot, SlotState, Underlay};
pub use network::{AUTO, Egress, Encryption, FASTPATH, Fastpath, Member, Network, Removal, VniClaim};

/// The schema of every record written here.
pub const SCHEMA: u64 = 1;

/// A longer value is not looked at: records are some hundred bytes, and etcd itself refuses 1.5 MiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// A longer text in a record is none that people should read.
pub const MAX_TEXT: usize = 1024;

/// A value is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any record.
    #[error("{0} bytes, where a record has {MAX_BYTES} at most")]
    TooLong(usize),

    /// Written by a later version.
    #[error("schema {0}, where this version reads schemas up to {SCHEMA}: a newer weft wrote it")]
    Newer(u64),

    /// Not JSON, or not of this record.
    #[error("{0}")]
    Malformed(String),

    /// A text that a terminal should not see.
    #[error("its {0:?} has control characters, or more than {MAX_TEXT} bytes")]
    Text(&'static str),

    /// A UDP port that is none, or that two things would share.
    #[error("its {0} is zero, or another one's as well")]
    Port(&'static str),

    /// The record says another name than its key.
    #[error("the record is about {0}, its key is not")]
    Elsewhere(String),
}

/// A record as it is written.
#[derive(Serialize)]
pub(crate) struct Written<'a, T> {
    schema: u64,
    #[serde(flatten)]
    record: &'a T,
}

impl<'a, T> Written<'a, T> {
    pub(crate) const fn of(record: &'a T) -> Self {
        Self { schema: SCHEMA, record }
    }
}

/// What every record begins with that is written here.
const WRITTEN: &[u8] = br#"{"schema":1,"#;

#[derive(Deserialize)]
struct Header {
    schema: Option<u64>,
}

/// Returns a record as it stands in the store.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Only maps with keys that are no texts fail, and no record has such.
    serde_json::to_vec(&Written::of(record)).unwrap_or_default()
}

/// Returns a record that is to stand in the place of one that stands in a store: `was` is how that one was understood, and `is`
/// how it is to be. Fields that are not known here stay as a newer weft has written them.
pub fn rewritten(stands: &[u8], was: &[u8], is: Vec<u8>) -> Vec<u8> {
    let parsed = |value: &[u8]| serde_json::from_slice::<Value>(value).ok();
    let (Some(stands), Some(was), Some(mut new)) = (parsed(stands), parsed(was), parsed(&is)) else {
        return is;
    };
    if keep_unknown(&stands, &was, &mut new) { serde_json::to_vec(&new).unwrap_or(is) } else { is }
}

/// Puts fields into a record that were not understood; returns whether there were any.
fn keep_unknown(stands: &Value, was: &Value, is: &mut Value) -> bool {
    let (Value::Object(stands), Value::Object(was), Value::Object(is)) = (stands, was, is) else {
        return false;
    };
    let mut kept = false;
    for (field, value) in stands {
        match (was.get(field), is.get_mut(field)) {
            (None, None) => {
                is.insert(field.clone(), value.clone());
                kept = true;
            }
            (Some(was), Some(is)) => kept |= keep_unknown(value, was, is),
            _ => {}
        }
    }
    kept
}

/// Reads a record.
///
/// # Errors
///
/// Says what is wrong with the value, in one line that does not repeat it.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    if value.len() > MAX_BYTES {
        return Err(RecordError::TooLong(value.len()));
    }
    // As it is written here: hosts that hear of thousands of records need not look at each twice.
    if value.starts_with(WRITTEN)
        && let Ok(record) = serde_json::from_slice(value)
    {
        return Ok(record);
    }
    let malformed = |error: serde_json::Error| {
        // A hostile value may be quoted by the parser: one line of it is enough.
        RecordError::Malformed(error.to_string().chars().filter(|c| !c.is_control()).take(200).collect())
    };
    let header: Header = serde_json::from_slice(value).map_err(malformed)?;
    match header.schema {
        Some(SCHEMA) => serde_json::from_slice(value).map_err(malformed),
        Some(newer) if newer > SCHEMA => Err(RecordError::Newer(newer)),
        Some(other) => Err(RecordError::Malformed(format!("there is no schema {other}"))),
        None => Err(RecordError::Malformed("it has no \"schema\"".into())),
    }
}

/// Refuses a text that is longer than any, or would do something to the terminal it is shown on.
///
/// # Errors
///
/// Names the field.
pub fn check_text(field: &'static str, text: &str) -> Result<(), RecordError> {
    let bad = text.len() > MAX_TEXT || text.chars().any(char::is_control);
    if bad { Err(RecordError::Text(field)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, HostId, NetworkId};

    fn block() -> Block {
        Block {
            network: NetworkId::new([1; 16]),
            cidr: "10.1.0.0/26".parse().unwrap(),
            host: HostId::new([2; 16]),
            epoch: 7,
            state: BlockState::Quarantine { since: 5 },
        }
    }

    #[test]
    fn a_record_survives_the_store() {
        let bytes = encode(&block());
        assert!(bytes.starts_with(br#"{"schema":1,"network":"01"#), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(decode::<Block>(&bytes).unwrap(), block());
        let cluster = Cluster::new(ClusterId::new([0xab; 16]));
        assert_eq!(decode::<Cluster>(&encode(&cluster)).unwrap(), cluster);
        assert_eq!(cluster.mesh_prefix.to_string(), "fdab:abab:abab::/48");
        assert_eq!(cluster.mesh_address(258).to_string(), "fdab:abab:abab::102");
    }

    #[test]
    fn a_newer_field_is_passed_over_and_a_newer_schema_is_not() {
        let text = String::from_utf8(encode(&block())).unwrap();
        let more = text.replacen("{", r#"{"colour":"blue","#, 1);
        assert_eq!(decode::<Block>(more.as_bytes()).unwrap(), block());
        let newer = text.replacen(r#""schema":1"#, r#""schema":2"#, 1);
        assert_eq!(decode::<Block>(newer.as_bytes()), Err(RecordError::Newer(2)));
    }

    #[test]
    fn what_a_newer_weft_has_written_outlives_a_change() {
        let was = block();
        let is = Block { state: BlockState::Active, ..was.clone() };
        let same = |stands: &[u8]| rewritten(stands, &encode(&was), encode(&is));
        assert_eq!(same(&encode(&was)), encode(&is));
        assert_eq!(same(b"{"), encode(&is));
        let text = String::from_utf8(encode(&was)).unwrap();
        let newer =
            text.replacen("{", r#"{"colour":{"hue":7},"#, 1).replace(r#""is":"#, r#""why":"x","is":"#);
        let after: Value = serde_json::from_slice(&same(newer.as_bytes())).unwrap();
        assert_eq!((&after["colour"]["hue"], &after["state"]["why"]), (&7.into(), &"x".into()));
        // What was understood and is no more is gone.
        assert_eq!(after["state"], serde_json::json!({"is": "active", "why": "x"}));
        assert_eq!(decode::<Block>(&same(newer.as_bytes())).unwrap(), is);
    }

    #[test]
    fn what_is_no_record_is_said_in_a_line() {
        let long = vec![b' '; MAX_BYTES + 1];
        assert_eq!(decode::<Block>(&long), Err(RecordError::TooLong(MAX_BYTES + 1)));
        for bad in
            [&b""[..], b"{", b"\xff\xfe", b"[]", b"{}", b"{\"schema\":0}", b"{\"schema\":1}", &[b'['; 9000]]
        {
            let why = decode::<Block>(bad).unwrap_err().to_string();
            assert!(!why.is_empty() && why.len() <= 300 && !why.contains('\n'), "{why:?}");
        }
    }
}
