//! What a plugin is asked to do.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use weft_cni::{AttachmentId, CniArgs, Code, Failure, NetConf, NetworkResult, Verb};
use weft_model::{Endpoint, Mac};
use weft_state::Root;

use crate::linked::Linked;

/// A call by a runtime.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked for.
    pub verb: Verb,
    /// The network configuration.
    pub conf: NetConf,
    /// The network configuration as read, for delegates.
    pub stdin: Vec<u8>,
    /// Where delegates are looked for.
    pub paths: Vec<PathBuf>,
    /// Where our files are.
    pub root: Root,
    /// `CNI_ARGS`.
    pub args: String,
    /// The plugins in this binary, for delegates that are among them.
    pub linked: Linked,
}

/// A call that is about one container's interface.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What is to be connected, to what.
    pub endpoint: Endpoint,
    /// The container's namespace as given: on DEL it may be missing, or a path to nothing.
    pub netns: Option<PathBuf>,
    /// The rest of the call.
    pub call: Call,
}

impl Deref for Attachment {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Attachment {
    /// Returns the namespace, for verbs that cannot do without.
    ///
    /// # Errors
    ///
    /// Code 4 when none was given.
    pub fn required_netns(&self) -> Result<&Path, Failure> {
        let missing =
            || Failure::text(Code::InvalidEnvironment, "required env variables [CNI_NETNS] missing");
        self.netns.as_deref().ok_or_else(missing)
    }
}

impl Call {
    /// Returns a call with a configuration and nothing around it, as a driver's own tests make it.
    ///
    /// # Errors
    ///
    /// Those of reading the configuration.
    pub fn read(verb: Verb, stdin: &[u8]) -> Result<Self, Failure> {
        Ok(Self {
            verb,
            conf: NetConf::parse(stdin)?,
            stdin: stdin.to_vec(),
            paths: Vec::new(),
            root: Root::new(None),
            args: String::new(),
            linked: Linked::default(),
        })
    }

    /// Returns whether something is connected or looked at: then the configuration has to be legal, and what a plugin
    /// works on has to be there.
    pub fn connects(&self) -> bool {
        matches!(self.verb, Verb::Add | Verb::Check)
    }

    /// Returns whether things are taken apart: then what may have been built counts, not what the configuration says
    /// now, and what no ADD accepts was never built.
    pub fn dismantles(&self) -> bool {
        matches!(self.verb, Verb::Del | Verb::Gc)
    }

    /// Returns what the plugins before this one made, for verbs that cannot do without.
    ///
    /// # Errors
    ///
    /// Code 7 when there is none, and those of reading it.
    pub fn required_prev_result(&self) -> Result<NetworkResult, Failure> {
        self.conf.required_prev_result()
    }

    /// Returns the attachments GC keeps.
    ///
    /// # Errors
    ///
    /// Code 7 when nobody said which.
    pub fn valid_attachments(&self) -> Result<&[AttachmentId], Failure> {
        self.conf.required_valid_attachments()
    }

    /// Reads `CNI_ARGS`.
    ///
    /// # Errors
    ///
    /// Code 4 for malformed pairs, and for keys not `known` unless the caller said to ignore them.
    pub fn cni_args(&self, known: &[&str]) -> Result<CniArgs, Failure> {
        CniArgs::parse(&self.args, known)
    }

    /// Returns the hardware address asked for. The runtime's word beats that of `args`, and both that of `CNI_ARGS`.
    ///
    /// # Errors
    ///
    /// When it is no hardware address or that of a group, or `CNI_ARGS` is malformed.
    pub fn requested_mac(&self) -> Result<Option<Mac>, Failure> {
        let args = self.cni_args(&["MAC"])?;
        let text = match self.conf.capability::<String>("mac")? {
            None => self.conf.cni_arg::<String>("mac")?,
            some => some,
        };
        let Some(text) = text.as_deref().or_else(|| args.get("MAC")).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        mac_of(text).map(Some)
    }

    /// As [`Call::requested_mac`], for plugins whose networks can have one in their configuration, the key `mac`: that
    /// counts when nobody asks for another.
    ///
    /// # Errors
    ///
    /// As [`Call::requested_mac`], also for what is `written`.
    pub fn mac_or(&self, written: Option<&str>) -> Result<Option<Mac>, Failure> {
        let written = written.filter(|text| !text.is_empty()).map(mac_of).transpose()?;
        Ok(self.requested_mac()?.or(written))
    }
}

/// CNI: the words are those of the reference plugins.
fn mac_of(text: &str) -> Result<Mac, Failure> {
    let refused = |error| format!("invalid args {text} for MAC addr: {error}");
    Mac::of_interface(text).map_err(|error| Failure::text(Code::InvalidConfig, refused(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(conf: &str, args: &str) -> Call {
        let stdin = format!(r#"{{"name":"n","x":1{conf}}}"#).into_bytes();
        Call { args: args.into(), ..Call::read(Verb::Add, &stdin).unwrap() }
    }

    #[test]
    fn the_runtimes_hardware_address_beats_the_others() {
        let runtime = r#","runtimeConfig":{"mac":"c2:11:22:33:44:01"}"#;
        let args = r#","args":{"cni":{"mac":"c2:11:22:33:44:02"}}"#;
        let env = "MAC=c2:11:22:33:44:03;IgnoreUnknown=1;A=b";
        for (conf, env, expected) in [
            (format!("{runtime}{args}"), env, Some(1)),
            (args.to_owned(), env, Some(2)),
            (String::new(), env, Some(3)),
            (String::new(), "MAC=", None),
            (String::new(), "", None),
        ] {
            let mac = call(&conf, env).requested_mac().unwrap();
            assert_eq!(mac.map(|mac| mac.0[5]), expected, "{conf} {env}");
        }
        for (conf, env, why) in [
            (runtime, "A=b", r#"ARGS: unknown args ["A=b"]"#),
            ("", "MAC=x", r#"invalid args x for MAC addr: "x" is not a MAC address"#),
            (
                "",
                "MAC=01:00:5e:00:00:01",
                "invalid args 01:00:5e:00:00:01 for MAC addr: 01:00:5e:00:00:01 is a",
            ),
        ] {
            let told = call(conf, env).requested_mac().unwrap_err().msg;
            assert!(told.starts_with(why), "{told}");
        }
    }

    #[test]
    fn what_a_network_says_of_the_hardware_address_counts_last() {
        let of = |env, written| call("", env).mac_or(written).map(|mac| mac.map(|mac| mac.0[5]));
        assert_eq!(of("MAC=c2:11:22:33:44:03", Some("c2:11:22:33:44:04")), Ok(Some(3)));
        assert_eq!(of("", Some("c2:11:22:33:44:04")), Ok(Some(4)));
        assert_eq!((of("", Some("")), of("", None)), (Ok(None), Ok(None)));
        let told = of("", Some("00:00:00:00:00:00")).unwrap_err();
        assert!(told.msg.starts_with("invalid args 00:00:00:00:00:00 for MAC addr: "), "{told}");
    }

    #[test]
    fn what_a_verb_needs_is_asked_for_by_name() {
        let endpoint = Endpoint {
            network: "n".parse().unwrap(),
            container: "c".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let attachment = Attachment { endpoint, netns: None, call: call("", "") };
        let code = |failure: Failure| (failure.code.number(), failure.msg);
        let missing = attachment.required_netns().map(drop).map_err(code);
        assert_eq!(missing, Err((4, "required env variables [CNI_NETNS] missing".into())));
        let missing = attachment.required_prev_result().map(drop).map_err(code);
        assert_eq!(missing, Err((7, "Required prevResult missing".into())));
        assert!(attachment.valid_attachments().is_err());
    }
}
