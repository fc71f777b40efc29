//! The environment variables of a call, checked together before any work.

use std::ffi::OsString;
use std::path::PathBuf;

use weft_cni::{Code, Failure, Verb, args};
use weft_model::{ContainerId, IdError, IfName, IfNameError};

/// The `CNI_*` variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND` as written.
    pub command: String,
    /// The verb it names; `None` for one we do not know, which is told only after stdin has been read.
    pub verb: Option<Verb>,
    /// `CNI_CONTAINERID`, for the verbs that need it.
    pub container: Option<ContainerId>,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`, for the verbs that need it.
    pub ifname: Option<IfName>,
    /// `CNI_ARGS`, which each plugin reads for itself.
    pub args: String,
    /// `CNI_PATH`, one directory each.
    pub paths: Vec<PathBuf>,
    /// Whether `CNI_NETNS_OVERRIDE` allows working in the plugin's own namespace.
    pub own_netns_allowed: bool,
}

impl Environment {
    /// Reads the variables. `None` when there is no `CNI_COMMAND`: no CNI runtime is calling.
    ///
    /// # Errors
    ///
    /// Code 4 when a required variable is malformed, or missing or empty; all missing ones are named together.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Failure> {
        let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let lossy = |value: OsString| value.to_string_lossy().into_owned();
        let Some(command) = text("CNI_COMMAND").map(lossy) else { return Ok(None) };
        let verb = Verb::parse(&command);
        let mut missing = Vec::new();
        let mut required = |name: &'static str, verbs: &[Verb]| {
            let value = text(name);
            let needed = verb.is_some_and(|verb| verbs.contains(&verb));
            if needed && value.is_none() {
                missing.push(name);
            }
            (value, needed)
        };

        // CNI: a malformed variable is told before the missing ones after it are looked for.
        let attachment = [Verb::Add, Verb::Check, Verb::Del];
        let container = match required("CNI_CONTAINERID", &attachment) {
            (Some(id), true) => Some(container(&lossy(id))?),
            _ => None,
        };
        let (netns, _) = required("CNI_NETNS", &[Verb::Add, Verb::Check]);
        let ifname = match required("CNI_IFNAME", &attachment) {
            (Some(name), true) => Some(ifname(&lossy(name))?),
            _ => None,
        };
        // CNI: the spec has CNI_PATH optional; the reference implementation requires it and its tests say so.
        let everything = [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status];
        let (paths, _) = required("CNI_PATH", &everything);
        if !missing.is_empty() {
            let list = missing.join(",");
            return Err(refuse(format!("required env variables [{list}] missing")));
        }
        let paths = paths.unwrap_or_default();
        Ok(Some(Self {
            command,
            verb,
            container,
            netns: netns.map(PathBuf::from),
            ifname,
            args: text("CNI_ARGS").map(lossy).unwrap_or_default(),
            paths: std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
            own_netns_allowed: text("CNI_NETNS_OVERRIDE").map(lossy).and_then(|text| args::parse_bool(&text))
                == Some(true),
        }))
    }

    /// Returns the verb.
    ///
    /// # Errors
    ///
    /// Code 4 when there is no such verb.
    pub fn known_verb(&self) -> Result<Verb, Failure> {
        self.verb.ok_or_else(|| refuse(format!("unknown CNI_COMMAND: {}", self.command)))
    }
}

fn refuse(msg: impl Into<String>) -> Failure {
    Failure::text(Code::InvalidEnvironment, msg)
}

fn container(text: &str) -> Result<ContainerId, Failure> {
    text.parse().map_err(|error: IdError| {
        match error {
            IdError::Empty | IdError::Invalid(_) => refuse("invalid characters in containerID"),
            IdError::TooLong(_) => refuse("containerID is too long"),
        }
        .with_details(text)
    })
}

fn ifname(text: &str) -> Result<IfName, Failure> {
    text.parse().map_err(|error: IfNameError| match &error {
        IfNameError::TooLong(_) => {
            refuse(error.to_string()).with_details("interface name should be less than 16 characters")
        }
        _ => refuse(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/red"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin::/usr/lib/cni"),
    ];

    /// Reads `ALL` with `changes` on top; an empty value removes a variable half of the time, which is the same.
    fn read(changes: &[(&str, &str)]) -> Result<Option<Environment>, Failure> {
        Environment::read(|name| {
            let changed = changes.iter().find(|(key, _)| *key == name);
            let value = changed.or_else(|| ALL.iter().find(|(key, _)| *key == name))?.1;
            (!value.is_empty() || name.len() % 2 == 0).then(|| value.into())
        })
    }

    fn msg(changes: &[(&str, &str)]) -> String {
        match read(changes) {
            Ok(_) => "ok".into(),
            Err(failure) => {
                assert_eq!(failure.code, Code::InvalidEnvironment);
                failure.msg
            }
        }
    }

    #[test]
    fn every_variable_is_read() {
        let env = read(&[("CNI_ARGS", "A=b"), ("CNI_NETNS_OVERRIDE", "TRUE")]).unwrap().unwrap();
        let expected = Environment {
            command: "ADD".into(),
            verb: Some(Verb::Add),
            container: Some("c1".parse().unwrap()),
            netns: Some("/run/netns/red".into()),
            ifname: Some("eth0".parse().unwrap()),
            args: "A=b".into(),
            paths: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            own_netns_allowed: true,
        };
        assert_eq!(env, expected);
        for (text, allowed) in [("1", true), ("true", true), ("0", false), ("yes", false), ("", false)] {
            assert_eq!(read(&[("CNI_NETNS_OVERRIDE", text)]).unwrap().unwrap().own_netns_allowed, allowed);
        }
    }

    #[test]
    fn each_verb_requires_what_the_table_says() {
        let table = [
            ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].as_slice()),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
            ("GC", &["CNI_PATH"]),
            ("STATUS", &["CNI_PATH"]),
            ("VERSION", &[]),
            ("NOPE", &[]),
        ];
        for (verb, required) in table {
            for (name, _) in &ALL[1..] {
                let expected = match required.contains(name) {
                    true => format!("required env variables [{name}] missing"),
                    false => "ok".into(),
                };
                assert_eq!(msg(&[("CNI_COMMAND", verb), (name, "")]), expected, "{verb}");
            }
            let none: Vec<_> = ALL[1..].iter().map(|(name, _)| (*name, "")).collect();
            let expected = match required {
                [] => "ok".into(),
                required => format!("required env variables [{}] missing", required.join(",")),
            };
            assert_eq!(msg(&[&none[..], &[("CNI_COMMAND", verb)]].concat()), expected, "{verb}");
        }
    }

    #[test]
    fn no_command_is_no_call() {
        assert_eq!(read(&[("CNI_COMMAND", "")]), Ok(None));
        assert_eq!(Environment::read(|_| None), Ok(None));
    }

    #[test]
    fn an_unknown_command_is_told_when_asked_for() {
        let env = read(&[("CNI_COMMAND", "NOPE"), ("CNI_IFNAME", "a/b")]).unwrap().unwrap();
        let failure = env.known_verb().unwrap_err();
        assert_eq!(
            (failure.code, failure.msg.as_str()),
            (Code::InvalidEnvironment, "unknown CNI_COMMAND: NOPE")
        );
        assert_eq!(read(&[("CNI_COMMAND", "add")]).unwrap().unwrap().verb, None);
    }

    #[test]
    fn a_container_id_follows_the_grammar() {
        let failure = read(&[("CNI_CONTAINERID", "some-%%container-id")]).unwrap_err();
        assert_eq!(failure.msg, "invalid characters in containerID");
        assert_eq!(failure.details.as_deref(), Some("some-%%container-id"));
        assert_eq!(msg(&[("CNI_CONTAINERID", &"a".repeat(201))]), "containerID is too long");
        // A format failure comes before what is missing, and does not matter to verbs without a container.
        assert_eq!(msg(&[("CNI_CONTAINERID", "%"), ("CNI_PATH", "")]), "invalid characters in containerID");
        assert_eq!(msg(&[("CNI_CONTAINERID", "%"), ("CNI_COMMAND", "GC")]), "ok");
    }

    #[test]
    fn an_interface_name_is_one_the_kernel_takes() {
        let forbidden = "interface name contains / or : or whitespace characters";
        for (name, why) in [
            ("1234567890123456", "interface name is too long"),
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("a/b", forbidden),
            ("a:b", forbidden),
            ("a b", forbidden),
            ("a\tb", forbidden),
            ("eth%d", "interface name contains % or control characters"),
        ] {
            assert_eq!(msg(&[("CNI_IFNAME", name)]), why, "{name:?}");
            assert_eq!(msg(&[("CNI_IFNAME", name), ("CNI_NETNS", ""), ("CNI_PATH", "")]), why, "{name:?}");
            assert_eq!(msg(&[("CNI_IFNAME", name), ("CNI_COMMAND", "STATUS")]), "ok");
        }
        let details = read(&[("CNI_IFNAME", "1234567890123456")]).unwrap_err().details;
        assert_eq!(details.as_deref(), Some("interface name should be less than 16 characters"));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_where_text_is_needed() {
        use std::os::unix::ffi::OsStringExt;
        let read = |bad: &str| {
            Environment::read(|name| match ALL.iter().find(|(key, _)| *key == name)? {
                (key, _) if *key == bad => Some(OsString::from_vec(vec![b'a', 0xff])),
                (_, value) => Some(value.into()),
            })
        };
        assert!(read("CNI_CONTAINERID").is_err());
        assert!(read("CNI_COMMAND").unwrap().unwrap().known_verb().is_err());
        // A path is bytes to the kernel and stays so.
        let netns = read("CNI_NETNS").unwrap().unwrap().netns.unwrap();
        assert_eq!(netns.into_os_string().into_vec(), [b'a', 0xff]);
    }
}
