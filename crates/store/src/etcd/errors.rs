//! What etcd and the library below it say, in our words.

use std::error::Error as _;
use std::time::Duration;

use etcd_client::Error;

use crate::{LeaseId, StoreError};

/// Words of `rustls` and of TLS alerts that mean certificates, not the network.
const CERTIFICATES: [&str; 4] = ["invalid peer certificate", "certificate", "fatal alert", "UnknownIssuer"];

/// Translates an error.
pub(super) fn translated(store: &str, error: &Error) -> StoreError {
    let store = store.to_string();
    let reason = chain(error);
    let Error::GRpcStatus(status) = error else {
        return unreachable_or_certificate(store, reason);
    };
    let message = status.message();
    // Codes are written as numbers (https://grpc.github.io/grpc/core/md_doc_statuscodes.html): the enum is tonic's, which we do
    // not name as a dependency just for this.
    match status.code() as i32 {
        UNAUTHENTICATED | PERMISSION_DENIED => StoreError::Refused {
            store,
            reason: message.into(),
            hint: "etcdctl user get NAME, where NAME is the certificate's common name; docs/overlay.md has the roles",
        },
        INVALID_ARGUMENT if message.contains("user name is empty") => StoreError::Refused {
            store,
            reason: "it asks who we are, and we show no certificate".into(),
            hint: "join with --cert and --key; the common name is the user's name",
        },
        RESOURCE_EXHAUSTED if message.contains("space exceeded") => StoreError::Refused {
            store,
            reason: message.into(),
            hint: "etcdctl compact, etcdctl defrag, then etcdctl alarm disarm",
        },
        INVALID_ARGUMENT | OUT_OF_RANGE | NOT_FOUND | UNIMPLEMENTED => {
            StoreError::Invalid { store, reason: message.into() }
        }
        _ => unreachable_or_certificate(store, reason),
    }
}

/// Returns whether an answer was longer than is taken.
pub(super) fn is_too_long(error: &StoreError) -> bool {
    matches!(error, StoreError::Invalid { reason, .. } if reason.contains("message length too large"))
}

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

fn unreachable_or_certificate(store: String, reason: String) -> StoreError {
    if CERTIFICATES.iter().any(|word| reason.contains(word)) {
        let hint =
            "openssl x509 -in CERT -noout -dates -subject -ext subjectAltName, for the server's and for ours";
        return StoreError::Refused { store, reason, hint };
    }
    StoreError::Unreachable { store, reason }
}

/// Translates the error of the first request on a connection.
///
/// With TLS 1.3 a server judges our certificate when we are through with greeting it (RFC 8446, section 4.4.2.4), and the library
/// passes on only that it hung up then.
pub(super) fn of_first_request(store: &str, error: &Error, tls: bool) -> StoreError {
    match translated(store, error) {
        StoreError::Unreachable { store, reason } if tls && hung_up(&reason) => {
            let reason = format!("it does not take our certificate: {reason}");
            StoreError::Refused { store, reason, hint: CERTIFICATE_HINT }
        }
        other => other,
    }
}

/// Returns whether the library means a connection that was made and closed at once.
fn hung_up(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["connection closed", "broken pipe", "connection reset"].iter().any(|words| reason.contains(words))
}

const CERTIFICATE_HINT: &str =
    "openssl x509 -in CERT -noout -dates -subject -ext subjectAltName, for the server's and for ours";

/// Nothing was heard.
pub(super) fn silent(store: &str, limit: Duration) -> StoreError {
    StoreError::Unreachable { store: store.into(), reason: format!("no answer within {} s", limit.as_secs()) }
}

/// Returns whether the revision asked for has been compacted away.
pub(super) fn is_compacted(error: &StoreError) -> bool {
    matches!(error, StoreError::Invalid { reason, .. } if reason.contains("has been compacted"))
}

/// Tells a lease that has run out from other errors.
pub(super) fn of_lease(error: StoreError, lease: LeaseId) -> StoreError {
    match &error {
        StoreError::Invalid { reason, .. } | StoreError::Unreachable { reason, .. }
            if reason.contains("lease not found") =>
        {
            StoreError::NoLease(lease.0)
        }
        _ => error,
    }
}

/// Returns an error with its causes, each once.
fn chain(error: &Error) -> String {
    let mut text = match error {
        // The code and the metadata say nothing to people.
        Error::GRpcStatus(status) => status.message().to_string(),
        other => other.to_string(),
    };
    let mut cause = match error {
        Error::TransportError(error) => error.source(),
        Error::GRpcStatus(status) => status.source(),
        other => other.source(),
    };
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = if text.is_empty() { words } else { format!("{text}: {words}") };
        }
        cause = error.source();
    }
    text
}
