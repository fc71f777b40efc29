use std::cell::RefCell;
use std::io;
use std::sync::Mutex;

use weft_cni::{Finding, IpConfig, NetworkResult};

use super::*;
use crate::{DriverAbout, Linked, OptionAbout};

/// A plugin that notes what it is asked for.
#[derive(Default)]
struct Probe {
    asked: Mutex<Vec<String>>,
    host: bool,
}

const ABOUT: About = About {
    kind: "probe",
    summary: "notes what it is asked for",
    versions: &Version::ALL,
    options: &[OptionAbout {
        name: "mtu",
        aliases: &["com.docker.network.driver.mtu"],
        value: "BYTES",
        default: "the uplink's",
        help: "the MTU",
    }],
    driver: Some(DriverAbout {
        addressing: true,
        attachable: true,
        clustered: false,
        instances: Some(1),
        refusal: None,
        hint: None,
    }),
};

impl Probe {
    fn note(&self, verb: &str, what: String) {
        self.asked.lock().unwrap().push(format!("{verb} {what}"));
    }
}

impl Plugin for Probe {
    fn about(&self) -> &'static About {
        static OLD: About = About { versions: &[Version::V0_4_0, Version::V1_0_0], ..ABOUT };
        static ALL: About = ABOUT;
        if self.host { &OLD } else { &ALL }
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        self.note("add", attachment.endpoint.to_string());
        let ip = IpConfig { address: "10.0.0.2/8".parse().unwrap(), gateway: None, interface: None };
        let named = attachment.conf.name.as_str();
        let ips = if named == "bare" { vec![] } else { vec![ip] };
        Ok(NetworkResult { ips, ..NetworkResult::default() })
    }

    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        self.note("check", attachment.endpoint.to_string());
        attachment.required_prev_result().map(drop)
    }

    fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        self.note("del", format!("{} in {:?}", attachment.endpoint, attachment.netns));
        Ok(())
    }

    fn gc(&self, call: &Call) -> Result<(), Failure> {
        self.note("gc", call.conf.name.to_string());
        call.valid_attachments().map(drop)
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        self.note("status", call.root.path().display().to_string());
        Err(Failure::text(Code::NotAvailable, "no"))
    }

    fn reload(&self, root: &Root, networks: &[Call]) -> Result<(), Failure> {
        let names: Vec<_> = networks.iter().map(|call| call.conf.name.as_str()).collect();
        self.note("reload", format!("{} below {}", names.join("+"), root.path().display()));
        Ok(())
    }

    fn doctor(&self, root: &Root, networks: &[Call]) -> Result<Vec<Finding>, Failure> {
        let what = root.path().display().to_string();
        let finding = |call: &Call| Finding {
            what: what.clone(),
            why: call.conf.name.to_string(),
            mend: "rest".into(),
        };
        Ok(networks.iter().map(finding).collect())
    }

    fn compose(&self, request: &ComposeRequest, _: &Root) -> Result<Vec<Value>, Failure> {
        self.note("compose", request.name.to_string());
        Ok(vec![serde_json::json!({ "type": "probe", "id": request.id })])
    }

    fn shares_host_namespace(&self) -> bool {
        self.host
    }
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("banana"))
    }
}

const ENV: [(&str, &str); 5] = [
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/nonexistent/netns"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
    ("WEFT_ROOT", "/srv/lab"),
];

fn ask(plugin: &Probe, changes: &[(&str, &str)], argument: &str, stdin: &mut dyn Read) -> Reply {
    let variable = |name: &str| {
        let found = changes.iter().chain(&ENV).find(|(key, _)| *key == name)?;
        Some(found.1.into())
    };
    let argument = || Some(argument.into());
    answer(plugin, Inputs { variable: &variable, argument: &argument, stdin, linked: Linked::default() })
}

fn call(plugin: &Probe, verb: &str, stdin: &str) -> Reply {
    ask(plugin, &[("CNI_COMMAND", verb)], "describe", &mut stdin.as_bytes())
}

fn failure(reply: &Reply) -> (u32, String) {
    assert!(!reply.ok && reply.stderr.is_empty(), "{reply:?}");
    let failure = Failure::from_json(reply.stdout.as_bytes()).unwrap();
    (failure.code.number(), failure.msg)
}

fn asked(plugin: &Probe) -> Vec<String> {
    plugin.asked.lock().unwrap().drain(..).collect()
}

const CONF: &str = r#"{"cniVersion":"1.1.0","name":"n","type":"probe"}"#;

#[test]
fn each_verb_reaches_its_function() {
    let plugin = Probe::default();
    let silent = Reply::printed(String::new());
    let reply = call(&plugin, "ADD", CONF);
    insta::assert_snapshot!(reply.stdout, @r#"
    {
        "cniVersion": "1.1.0",
        "ips": [
            {
                "address": "10.0.0.2/8"
            }
        ]
    }
    "#);
    assert!(reply.ok && reply.stderr.is_empty() && reply.stdout.ends_with('}'));
    assert_eq!(call(&plugin, "DEL", CONF), silent);
    assert_eq!(failure(&call(&plugin, "CHECK", CONF)), (7, "Required prevResult missing".into()));
    let conf = CONF.replace("\"name\"", "\"prevResult\":{},\"name\"");
    assert_eq!(call(&plugin, "CHECK", &conf), silent);
    let conf = CONF.replace("\"name\"", "\"cni.dev/attachments\":null,\"name\"");
    assert_eq!(call(&plugin, "GC", &conf), silent);
    assert_eq!(failure(&call(&plugin, "GC", CONF)).0, 7);
    assert_eq!(failure(&call(&plugin, "STATUS", CONF)), (50, "no".into()));
    let expected = [
        "add eth0 of c1 on n",
        "del eth0 of c1 on n in Some(\"/nonexistent/netns\")",
        "check eth0 of c1 on n",
        "check eth0 of c1 on n",
        "gc n",
        "gc n",
        "status /srv/lab",
    ];
    assert_eq!(asked(&plugin), expected);
}

#[test]
fn del_needs_no_namespace() {
    let plugin = Probe::default();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    drop(std::fs::File::create(&plain).unwrap());
    for (netns, seen) in [("", "None".to_owned()), (plain.to_str().unwrap(), format!("{:?}", Some(&plain)))] {
        let reply = ask(&plugin, &[("CNI_COMMAND", "DEL"), ("CNI_NETNS", netns)], "", &mut CONF.as_bytes());
        assert!(reply.ok, "{reply:?}");
        assert_eq!(asked(&plugin), [format!("del eth0 of c1 on n in {seen}")]);
    }
}

#[test]
fn version_reads_no_input() {
    let reply = ask(&Probe::default(), &[("CNI_COMMAND", "VERSION")], "", &mut Unreadable);
    let versions = r#"["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    let expected = format!("{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":{versions}}}\n");
    assert_eq!(reply, Reply::printed(expected));
}

#[test]
fn bad_calls_are_refused_before_any_work_in_the_order_of_the_reference() {
    let plugin = Probe::default();
    let with =
        |changes: &[(&str, &str)], stdin: &str| failure(&ask(&plugin, changes, "", &mut stdin.as_bytes()));
    let conf = |version: &str| CONF.replace("1.1.0", version);
    let missing = with(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", ""), ("CNI_IFNAME", "")], "{");
    assert_eq!(missing, (4, "required env variables [CNI_NETNS,CNI_IFNAME] missing".into()));
    let unreadable = ask(&plugin, &[("CNI_COMMAND", "ADD")], "", &mut Unreadable);
    assert_eq!(failure(&unreadable), (5, "error reading from stdin: banana".into()));
    for (verb, stdin, code, msg) in [
        (
            "ADD",
            "{".into(),
            6,
            "error unmarshall network config: EOF while parsing an object at line 1 column 1",
        ),
        (
            "NOPE",
            "{".into(),
            6,
            "error unmarshall network config: EOF while parsing an object at line 1 column 1",
        ),
        ("NOPE", "{}".into(), 7, "missing network name"),
        ("NOPE", conf("9.9.9"), 4, "unknown CNI_COMMAND: NOPE"),
        ("NOPE", CONF.into(), 4, "unknown CNI_COMMAND: NOPE"),
        ("ADD", CONF.replace("\"n\"", "\"a/b\""), 7, "invalid characters found in network name"),
        ("ADD", conf("9.9.9"), 1, "incompatible CNI versions"),
        ("CHECK", conf("0.3.1"), 1, "config version does not allow CHECK"),
        ("GC", conf("1.0.0"), 1, "config version does not allow GC"),
        ("STATUS", conf("1.0.0"), 1, "config version does not allow STATUS"),
        (
            "CHECK",
            conf("adsfsadf"),
            6,
            "cniVersion \"adsfsadf\" is not up to three numbers with dots between them",
        ),
    ] {
        assert_eq!(failure(&call(&plugin, verb, &stdin)), (code, msg.into()), "{verb} {stdin}");
    }
    assert!(asked(&plugin).is_empty());

    let old = Probe { host: true, ..Probe::default() };
    assert_eq!(failure(&call(&old, "ADD", "{\"name\":\"n\"}")), (1, "incompatible CNI versions".into()));
    assert_eq!(failure(&call(&old, "GC", CONF)), (1, "plugin version does not allow GC".into()));
    let details =
        Failure::from_json(call(&old, "ADD", "{\"name\":\"n\"}").stdout.as_bytes()).unwrap().details;
    assert_eq!(details.unwrap(), r#"config is "0.1.0", plugin supports ["0.4.0" "1.0.0"]"#);
}

#[test]
fn errors_name_the_configurations_version_where_it_is_known() {
    let plugin = Probe::default();
    let version = |verb: &str, stdin: &str| {
        let reply = call(&plugin, verb, stdin);
        let object: Value = serde_json::from_str(&reply.stdout).unwrap();
        object["cniVersion"].as_str().unwrap().to_owned()
    };
    assert_eq!(version("STATUS", CONF), "1.1.0");
    assert_eq!(version("GC", &CONF.replace("1.1.0", "0.4.0")), "0.4.0");
    assert_eq!(version("ADD", r#"{"cniVersion":"0.3.1"}"#), "0.3.1");
    assert_eq!(version("ADD", "{"), "1.1.0");
    assert_eq!(version("NOPE", &CONF.replace("1.1.0", "0.3.0")), "0.3.0");
}

#[test]
fn a_result_that_the_version_cannot_hold_is_an_error() {
    let conf = r#"{"cniVersion":"0.2.0","name":"bare"}"#;
    let expected = (999, "cannot convert: no valid IP addresses".into());
    assert_eq!(failure(&call(&Probe::default(), "ADD", conf)), expected);
}

#[test]
fn our_own_namespace_is_refused_before_any_work() {
    let own = "/proc/self/ns/net";
    let ask = |plugin: &Probe, verb: &str, more: (&str, &str)| {
        let conf = CONF.replace("1.1.0", "1.0.0").replace("\"name\"", "\"prevResult\":{},\"name\"");
        let reply = ask(plugin, &[("CNI_COMMAND", verb), ("CNI_NETNS", own), more], "", &mut conf.as_bytes());
        (reply.ok, asked(plugin).len(), reply.stdout)
    };
    let plugin = Probe::default();
    for verb in ["ADD", "DEL"] {
        let (ok, calls, stdout) = ask(&plugin, verb, ("", ""));
        let failure = Failure::from_json(stdout.as_bytes()).unwrap();
        assert_eq!((ok, calls, failure.code), (false, 0, Code::InvalidNetns));
        assert_eq!(failure.msg, "plugin's netns and netns from CNI_NETNS should not be the same");
        let (ok, calls, _) = ask(&plugin, verb, ("CNI_NETNS_OVERRIDE", "True"));
        assert_eq!((ok, calls), (true, 1));
    }
    assert!(ask(&plugin, "CHECK", ("", "")).0, "CHECK changes nothing");
    let host = Probe { host: true, ..Probe::default() };
    assert!(ask(&host, "ADD", ("", "")).0);
}

#[test]
fn people_get_an_introduction_on_stderr() {
    for argument in ["", "version", "--help"] {
        let reply = ask(&Probe::default(), &[], argument, &mut Unreadable);
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "CNI probe plugin weft {version}\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        );
        assert_eq!(reply, Reply { stdout: String::new(), stderr: expected, ok: true });
    }
}

#[test]
fn the_manager_gets_a_description() {
    let reply = ask(&Probe { host: true, ..Probe::default() }, &[], "describe", &mut Unreadable);
    insta::assert_snapshot!(reply.stdout, @r#"
    {
        "type": "probe",
        "summary": "notes what it is asked for",
        "versions": [
            "0.4.0",
            "1.0.0"
        ],
        "options": [
            {
                "name": "mtu",
                "aliases": [
                    "com.docker.network.driver.mtu"
                ],
                "value": "BYTES",
                "default": "the uplink's",
                "help": "the MTU"
            }
        ],
        "driver": {
            "addressing": true,
            "attachable": true,
            "clustered": false,
            "instances": 1,
            "refusal": null,
            "hint": null
        }
    }
    "#);
    assert!(reply.ok && reply.stderr.is_empty());
}

#[test]
fn the_manager_gets_a_list_of_plugins() {
    let id = "ab".repeat(32);
    let subnet = r#"{"subnet":"10.1.0.0/16","gateway":"10.1.0.1","range":null,"aux":{"router":"10.1.0.5"}}"#;
    let dns = r#"{"nameservers":["10.1.0.1"],"search":[],"options":[]}"#;
    let request = format!(
        r#"{{"name":"n1","id":"{id}","internal":false,"subnets":[{subnet}],"dns":{dns},"options":{{"mtu":"9000"}}}}"#
    );
    let plugin = Probe::default();
    let compose = |stdin: &str| ask(&plugin, &[], "compose", &mut stdin.as_bytes());
    let reply = compose(&request);
    let value: Value = serde_json::from_str(&reply.stdout).unwrap();
    assert_eq!(value, serde_json::json!({ "plugins": [{ "type": "probe", "id": id }] }));
    assert_eq!(asked(&plugin), ["compose n1"]);
    let bad = failure(&compose(&request.replace("10.1.0.1\",\"range", "x\",\"range")));
    assert_eq!(bad, (6, "cannot read the request: subnets[0].gateway: invalid IP address syntax".into()));
}

#[test]
fn input_is_read_once() {
    struct Once<'a>(RefCell<&'a [u8]>);
    impl Read for Once<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (now, later) = self.0.borrow().split_at(self.0.borrow().len().min(7));
            buffer[..now.len()].copy_from_slice(now);
            self.0.replace(later);
            Ok(now.len())
        }
    }
    let mut stdin = Once(RefCell::new(CONF.as_bytes()));
    assert!(ask(&Probe::default(), &[("CNI_COMMAND", "ADD")], "", &mut stdin).ok);
}

#[test]
fn networks_are_looked_after_without_a_runtime() {
    let plugin = Probe::default();
    let with = |argument: &str, stdin: &str| ask(&plugin, &[], argument, &mut stdin.as_bytes());
    let both =
        r#"{"networks":[{"cniVersion":"1.1.0","name":"a","type":"probe"},{"name":"b","type":"probe"}]}"#;
    assert_eq!(with("reload", both), Reply::printed(String::new()));
    let moved = both.replacen('{', r#"{"root":"/srv/other","#, 1);
    assert_eq!(with("reload", &moved), Reply::printed(String::new()));
    assert_eq!(with("reload", "{}"), Reply::printed(String::new()));
    assert_eq!(
        asked(&plugin),
        ["reload a+b below /srv/lab", "reload a+b below /srv/other", "reload  below /srv/lab"]
    );
    let findings: Findings = serde_json::from_str(&with("doctor", both).stdout).unwrap();
    assert_eq!(findings.problems[1].to_string(), "/srv/lab: b");
    assert_eq!(with("doctor", "{}").stdout, "{\n    \"problems\": []\n}\n");

    assert_eq!(failure(&with("doctor", "[")).0, 6);
    assert_eq!(
        failure(&with("reload", r#"{"networks":[{"type":"probe"}]}"#)),
        (7, "missing network name".into())
    );
}
