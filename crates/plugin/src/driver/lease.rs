//! The IPAM plugin's answer, used before the plugin has ended.

use weft_cni::{Code, Failure, NetworkResult};

use crate::delegate::{self, Running};

/// What the IPAM plugin gave to an ADD.
pub(super) struct Lease {
    /// The answer, or why there is none; nothing once it was taken.
    answer: Option<Result<NetworkResult, Failure>>,
    /// The plugin, while its end is still to be seen, and what it has to confirm.
    unconfirmed: Option<(Running, NetworkResult)>,
    /// Whether there may be a lease to give back. A plugin that said why it failed has given none; one that
    /// hung, or printed what nobody understands, may have.
    pub(super) held: bool,
}

impl Lease {
    /// Waits for the answer. A network without an IPAM plugin gives nothing.
    pub(super) fn await_of(ipam: Option<Running>) -> Self {
        let Some(mut running) = ipam else {
            return Self { answer: Some(Ok(NetworkResult::default())), unconfirmed: None, held: false };
        };
        match delegate::answer(&mut running) {
            Ok(Some(result)) => {
                let unconfirmed = Some((running, result.clone()));
                Self { answer: Some(Ok(result)), unconfirmed, held: true }
            }
            Ok(None) => {
                let answer = delegate::finish(running);
                let held = answer.as_ref().map_or_else(|failure| failure.code == Code::Decode, |_| true);
                Self { answer: Some(answer), unconfirmed: None, held }
            }
            Err(failure) => Self { answer: Some(Err(failure)), unconfirmed: None, held: true },
        }
    }

    /// Returns the answer.
    pub(super) fn take(&mut self) -> Result<NetworkResult, Failure> {
        self.answer.take().unwrap_or_else(|| Ok(NetworkResult::default()))
    }

    /// Waits until the plugin has ended, and makes sure that it ended well and said nothing else.
    pub(super) fn confirm(self) -> Result<(), Failure> {
        let Some((running, told)) = self.unconfirmed else { return Ok(()) };
        if delegate::finish(running)? == told {
            return Ok(());
        }
        Err(Failure::text(Code::Decode, "the IPAM plugin printed more than one result"))
    }
}
