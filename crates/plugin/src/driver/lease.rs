//! The IPAM plugin's answer, used before the plugin has ended.

use weft_cni::{Code, Failure, NetworkResult};

use crate::delegate::{self, Outcome, Running};

/// What the IPAM plugin gave to an ADD.
pub(super) struct Lease<'call> {
    /// The answer, or why there is none; nothing once it was taken.
    answer: Option<Result<NetworkResult, Failure>>,
    /// The plugin, while its end is still to be seen, and what it has to confirm.
    unconfirmed: Option<(Running<'call>, NetworkResult)>,
    /// Whether there may be a lease to give back.
    pub(super) held: bool,
}

impl<'call> Lease<'call> {
    /// Waits for the answer. A network without an IPAM plugin gives nothing.
    pub(super) fn await_of(ipam: Option<Running<'call>>) -> Self {
        let Some(mut running) = ipam else {
            return Self { answer: Some(Ok(NetworkResult::default())), unconfirmed: None, held: false };
        };
        match delegate::answer(&mut running) {
            Ok(Some(result)) => {
                let unconfirmed = Some((running, result.clone()));
                Self { answer: Some(Ok(result)), unconfirmed, held: true }
            }
            Ok(None) => {
                let Outcome { result, held } = delegate::outcome(running);
                Self { answer: Some(result), unconfirmed: None, held }
            }
            Err(failure) => Self { answer: Some(Err(failure)), unconfirmed: None, held: true },
        }
    }

    /// Returns the answer.
    pub(super) fn take(&mut self) -> Result<NetworkResult, Failure> {
        self.answer.take().unwrap_or_else(|| Ok(NetworkResult::default()))
    }

    /// Waits until the plugin has ended, and makes sure that it ended well and said nothing else.
    pub(super) fn confirm(mut self) -> Result<(), Failure> {
        let Some((running, told)) = self.unconfirmed.take() else { return Ok(()) };
        if delegate::finish(running)? == told {
            return Ok(());
        }
        Err(Failure::text(Code::Decode, "the IPAM plugin printed more than one result"))
    }
}

impl Drop for Lease<'_> {
    /// Lets the plugin end before its lease is given back: it may still be writing it down.
    fn drop(&mut self) {
        if let Some((running, _)) = self.unconfirmed.take() {
            drop(delegate::outcome(running));
        }
    }
}
