//! The records hosts share: what a key's value means.
//!
//! Written as JSON with `"schema": 1` in front. Fields that are not known here are passed over, so a newer weft may add some;
//! a higher schema is refused, because then something known here means something else.

mod addresses;
mod cluster;
mod host;
mod network;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use addresses::{Block, BlockState, Borrow, BorrowState};
pub use cluster::{BlockLength, Cluster, Pool, Slots};
pub use host::{Alive, Host, HostClaim, Left, Slot, SlotState, Underlay};
pub use network::{Egress, Encryption, Member, Network, Removal, VniClaim};

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

#[derive(Deserialize)]
struct Header {
    schema: Option<u64>,
}

/// Returns a record as it stands in the store.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Only maps with keys that are no texts fail, and no record has such.
    serde_json::to_vec(&Written::of(record)).unwrap_or_default()
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
