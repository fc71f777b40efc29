//! What plugins say when they are asked about their networks, and what is said of those that fail.

use std::iter;

use serde_json::Value;
use weft_cni::json::get;
use weft_cni::{Code, Finding, MendRequest};
use weft_model::NetworkName;

use crate::Error;

/// A failure of a plugin, and the network it was about if it was about one.
pub(super) struct Failed {
    pub(super) kind: String,
    pub(super) network: Option<NetworkName>,
    pub(super) error: Box<Error>,
}

/// Asks a plugin about its networks at once; about each by itself where one is wrong, as the others may be well.
pub(super) fn each<T>(
    kind: &str,
    request: &MendRequest,
    ask: impl Fn(&MendRequest) -> Result<T, Error>,
) -> Vec<Result<T, Failed>> {
    let failed = |network| move |error| Failed { kind: kind.into(), network, error: Box::new(error) };
    match ask(request) {
        Err(error) if is_about_one(&error) && !request.networks.is_empty() => {
            let alone = |conf: &Value| {
                let name = get(conf, "name").and_then(Value::as_str).and_then(|name| name.parse().ok());
                (name, vec![conf.clone()])
            };
            let all = iter::once((None, Vec::new())).chain(request.networks.iter().map(alone));
            let one =
                |(name, networks)| ask(&MendRequest { networks, ..request.clone() }).map_err(failed(name));
            all.map(one).collect()
        }
        outcome => vec![outcome.map_err(failed(None))],
    }
}

fn is_about_one(error: &Error) -> bool {
    let Error::Refused { failure, .. } = error else { return false };
    matches!(
        failure.code,
        Code::InvalidConfig | Code::IncompatibleVersion | Code::Decode | Code::UnsupportedField
    )
}

/// Returns what is to be said of failures: the same thing once, with all the plugins that say it.
pub(super) fn findings(failures: Vec<Failed>) -> Vec<Finding> {
    let mut said: Vec<(Vec<String>, Finding)> = Vec::new();
    for failed in failures {
        let finding = finding(&failed);
        match said.iter_mut().find(|(_, said)| (&said.why, &said.mend) == (&finding.why, &finding.mend)) {
            Some((kinds, _)) => kinds.extend((!kinds.contains(&failed.kind)).then_some(failed.kind)),
            None => said.push((vec![failed.kind], finding)),
        }
    }
    let named = |(kinds, finding): (Vec<String>, Finding)| match finding.what.is_empty() {
        false => finding,
        true => {
            let plural = if kinds.len() > 1 { "s" } else { "" };
            Finding { what: format!("plugin{plural} {}", kinds.join(", ")), ..finding }
        }
    };
    said.into_iter().map(named).collect()
}

/// Returns what is to be said of one failure. Where it is about no network, the plugins are filled in later.
fn finding(Failed { network, error, .. }: &Failed) -> Finding {
    match (network, &**error) {
        (Some(network), Error::Refused { failure, .. }) if is_about_one(error) => {
            Finding::misconfigured(network, failure.msg.clone())
        }
        (_, Error::Refused { failure, .. }) => {
            let mend =
                failure.details.clone().unwrap_or_else(|| "mend the cause, then weft network reload".into());
            Finding { what: String::new(), why: failure.msg.clone(), mend }
        }
        (_, error) => {
            let mend = error.hint().unwrap_or_else(|| "weft plugin ls".into());
            Finding { what: String::new(), why: error.to_string(), mend }
        }
    }
}
