//! The configuration as written, then as meant.

use weft_cni::{Code, Failure};
use weft_plugin::Call;

/// What the plugin will do. There is nothing to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings;

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration gives no addresses: an interface that leads nowhere is good for nothing else.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        if call.conf.ipam_type().is_none() && !call.dismantles() {
            let text = "dummy interface requires an IPAM configuration";
            let hint = "give the network an \"ipam\" with a \"type\"";
            return Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into())));
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use weft_plugin::Verb;

    use super::*;

    fn call(verb: Verb, keys: &str) -> Call {
        let stdin = format!(r#"{{"name": "net"{keys}}}"#);
        Call::read(verb, stdin.as_bytes()).unwrap()
    }

    #[test]
    fn addresses_are_required_unless_things_are_taken_apart() {
        Settings::of(&call(Verb::Add, r#", "ipam": {"type": "x"}"#)).unwrap();
        for verb in [Verb::Add, Verb::Check, Verb::Status] {
            let failure = Settings::of(&call(verb, "")).unwrap_err();
            assert_eq!(failure.msg, "dummy interface requires an IPAM configuration");
        }
        Settings::of(&call(Verb::Del, "")).unwrap();
    }
}
