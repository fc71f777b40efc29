//! IPsec, as far as others have to know of it: whether packets are asked for it at all.

use nix::errno::Errno;
use nix::libc;

use crate::wire::u32_at;
use crate::{Error, Socket};

/// Message types, and an attribute (include/uapi/linux/xfrm.h).
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRM_MSG_GETDEFAULT: u16 = 0x28;
const XFRMA_SPD_INFO: u16 = 1;
/// What a default policy says that lets nothing pass (XFRM_USERPOLICY_BLOCK).
const BLOCK: u8 = 1;

/// What IPsec asks of packets in a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// How many policies there are, but for those of single sockets.
    pub policies: u32,
    /// Whether what no policy is about is dropped in some direction.
    pub blocks: bool,
}

/// Returns what IPsec asks of packets in the calling thread's network namespace.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure. A kernel without IPsec asks nothing.
pub fn demands() -> Result<Demands, Error> {
    let mut socket = match Socket::of(netlink_sys::protocols::NETLINK_XFRM) {
        Ok(socket) => socket,
        Err(Error::Socket { errno: Errno::EPROTONOSUPPORT, .. }) => return Ok(Demands::default()),
        Err(error) => return Err(error),
    };
    let counts = socket.list(&question(XFRM_MSG_GETSPDINFO, &[0; 4]), count)?;
    let policies = *counts.first().ok_or(Error::Malformed("nothing is said of IPsec's policies"))?;
    let blocks = match socket.list(&question(XFRM_MSG_GETDEFAULT, &[0; 4]), blocks) {
        Ok(found) => *found.first().ok_or(Error::Malformed("nothing is said of IPsec's default policy"))?,
        // Before Linux 5.15 everything passes that no policy is about.
        Err(error) if error.errno() == Some(Errno::EINVAL) => false,
        Err(error) => return Err(error),
    };
    Ok(Demands { policies, blocks })
}

/// Reads how many policies there are in three directions, before three numbers of which we do not ask (struct xfrmu_spdinfo).
pub(crate) fn count(payload: &[u8]) -> Option<u32> {
    let (_, info) = crate::wire::attributes(payload.get(4..)?).find(|(kind, _)| *kind == XFRMA_SPD_INFO)?;
    [0, 4, 8].into_iter().try_fold(0_u32, |sum, at| Some(sum.saturating_add(u32_at(info, at)?)))
}

/// Reads whether what no policy is about is dropped: in, forwarded, out (struct xfrm_userpolicy_default).
pub(crate) fn blocks(payload: &[u8]) -> Option<bool> {
    Some(payload.get(..3)?.contains(&BLOCK))
}

/// A netlink message that asks to be acknowledged, by which its answer is known to be complete.
fn question(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap_or_default();
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_policies_than_can_be_counted_are_not_none() {
        let numbers = |numbers: [u32; 3]| {
            let mut payload = vec![0; 4];
            payload.extend(28_u16.to_ne_bytes());
            payload.extend(XFRMA_SPD_INFO.to_ne_bytes());
            payload.extend(numbers.into_iter().chain([0; 3]).flat_map(u32::to_ne_bytes));
            count(&payload)
        };
        assert_eq!(numbers([1, 2, 3]), Some(6));
        assert_eq!(numbers([u32::MAX, 1, 0]), Some(u32::MAX));
        assert_eq!(count(&[0; 8]), None);
    }
}
