//! Comments and other notes that the kernel keeps for user space, as type-length-value triples.
//!
//! The types are those of libnftnl (`include/libnftnl/udata.h`), so that `nft` shows them.

use crate::Values;

/// The comment of a table, a chain, a rule or a set element.
const COMMENT: u8 = 0;
/// How a set's keys and data are stored: 1 as the host does, 2 big-endian.
const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_DATA_BYTE_ORDER: u8 = 1;
/// Whether the values of a map are ranges.
const SET_DATA_INTERVAL: u8 = 6;
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;

/// KERNEL: NFT_USERDATA_MAXLEN is 256 bytes; two of them are type and length, one the final NUL.
const LONGEST_COMMENT: usize = 253;

/// Returns the user data that holds this comment, shortened if need be.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut end = text.len().min(LONGEST_COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = Vec::with_capacity(end + 3);
    bytes.push(COMMENT);
    bytes.push(u8::try_from(end + 1).unwrap_or(u8::MAX));
    bytes.extend_from_slice(&text.as_bytes()[..end]);
    bytes.push(0);
    bytes
}

/// Returns the comment in this user data, if there is one.
pub(crate) fn find_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = bytes {
        let len = usize::from(*len);
        let value = rest.get(..len)?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        bytes = &rest[len..];
    }
    None
}

/// Returns the user data of a set, which tells `nft` how to print its elements.
pub(crate) fn set(host_endian_key: bool, values: Option<Values>) -> Vec<u8> {
    let order = |host| if host { HOST_ENDIAN } else { BIG_ENDIAN };
    let mut bytes = vec![SET_KEY_BYTE_ORDER, 4];
    bytes.extend_from_slice(&order(host_endian_key).to_ne_bytes());
    if values.is_some() {
        bytes.extend_from_slice(&[SET_DATA_BYTE_ORDER, 4]);
        bytes.extend_from_slice(&BIG_ENDIAN.to_ne_bytes());
    }
    if matches!(values, Some(Values::Range(_))) {
        bytes.extend_from_slice(&[SET_DATA_INTERVAL, 4]);
        bytes.extend_from_slice(&1_u32.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_again() {
        for text in ["", "macspoofchk-c1-eth0", "ü"] {
            assert_eq!(find_comment(&comment(text)).as_deref(), Some(text));
        }
        assert_eq!(find_comment(&comment(&"ü".repeat(200))), Some("ü".repeat(126)));
    }

    #[test]
    fn broken_user_data_has_no_comment() {
        for bytes in [&[][..], &[0], &[0, 9, b'a'], &[7, 1, 0]] {
            assert_eq!(find_comment(bytes), None, "{bytes:?}");
        }
        assert_eq!(find_comment(&[7, 1, 0, 0, 2, b'a', 0]).as_deref(), Some("a"));
    }
}
