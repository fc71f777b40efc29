//! The plugin as a runtime meets it: a process with an environment, an input and an output.

#![expect(clippy::unwrap_used, reason = "a test whose program cannot be run has failed")]

use weft_runtime::exec::{self, Invocation};

/// Returns the exit code and what was printed.
fn run(verb: &str, env: &[(&str, &str)], stdin: &str) -> (i32, String) {
    let base = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ""),
        ("CNI_PATH", "/nonexistent"),
    ];
    let output = exec::run(Invocation {
        env: base.iter().chain(env).map(|(key, value)| (key.into(), value.into())).collect(),
        stdin: stdin.into(),
        ..Invocation::new(weft_testkit::staged("static"))
    });
    let output = output.unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn conf(version: &str, more: &str) -> String {
    let ipam = r#"{"type":"static","addresses":[{"address":"10.10.0.1/24","gateway":"10.10.0.254"}],
        "routes":[{"dst":"0.0.0.0/0"},{"dst":"192.168.0.0/16","gw":"10.10.5.1"}],
        "dns":{"nameservers":["8.8.8.8"],"domain":"example.com","search":["example.com"]}}"#;
    format!(r#"{{"cniVersion":"{version}","name":"net","type":"bridge",{more}"ipam":{ipam}}}"#)
}

#[test]
fn add_prints_the_addresses_in_the_configurations_version() {
    let (code, stdout) = run("ADD", &[], &conf("1.0.0", ""));
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout, @r#"
    {
        "cniVersion": "1.0.0",
        "dns": {
            "domain": "example.com",
            "nameservers": [
                "8.8.8.8"
            ],
            "search": [
                "example.com"
            ]
        },
        "ips": [
            {
                "address": "10.10.0.1/24",
                "gateway": "10.10.0.254"
            }
        ],
        "routes": [
            {
                "dst": "0.0.0.0/0"
            },
            {
                "dst": "192.168.0.0/16",
                "gw": "10.10.5.1"
            }
        ]
    }
    "#);
    let (code, stdout) = run("ADD", &[], &conf("0.4.0", ""));
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout, @r#"
    {
        "cniVersion": "0.4.0",
        "ips": [
            {
                "version": "4",
                "address": "10.10.0.1/24",
                "gateway": "10.10.0.254"
            }
        ],
        "routes": [
            {
                "dst": "0.0.0.0/0"
            },
            {
                "dst": "192.168.0.0/16",
                "gw": "10.10.5.1"
            }
        ],
        "dns": {
            "nameservers": [
                "8.8.8.8"
            ],
            "domain": "example.com",
            "search": [
                "example.com"
            ]
        }
    }
    "#);
    let (code, stdout) = run("ADD", &[], &conf("0.2.0", ""));
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout, @r#"
    {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.10.0.1/24",
            "gateway": "10.10.0.254",
            "routes": [
                {
                    "dst": "0.0.0.0/0"
                },
                {
                    "dst": "192.168.0.0/16",
                    "gw": "10.10.5.1"
                }
            ]
        },
        "dns": {
            "nameservers": [
                "8.8.8.8"
            ],
            "domain": "example.com",
            "search": [
                "example.com"
            ]
        }
    }
    "#);
}

#[test]
fn the_readmes_configuration_works() {
    let readme = include_str!("../README.md");
    let conf = readme.split("```").nth(1).unwrap().strip_prefix("json").unwrap();
    let (code, stdout) = run("ADD", &[], conf);
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("3ffe:ffff:0:1ff::1/64") && stdout.contains("8.8.8.8"), "{stdout}");
}

#[test]
fn the_runtimes_addresses_replace_the_configured_ones() {
    let more = r#""runtimeConfig":{"ips":["10.10.0.7/24"]},"#;
    let (code, stdout) = run("ADD", &[("CNI_ARGS", "IP=10.10.0.8/24")], &conf("1.0.0", more));
    assert_eq!(code, 0);
    assert!(
        stdout.contains("10.10.0.7/24") && !stdout.contains("10.10.0.8") && !stdout.contains("10.10.0.1/24")
    );
}

#[test]
fn check_compares_with_what_was_given() {
    let previous = |ips: &str| conf("1.1.0", &format!(r#""prevResult":{{"ips":[{ips}]}},"#));
    let given = r#"{"address":"10.10.0.1/24","gateway":"10.10.0.254"}"#;
    assert_eq!(run("CHECK", &[], &previous(given)), (0, String::new()));
    for other in
        ["", r#"{"address":"10.10.0.2/24"}"#, r#"{"address":"10.10.0.1/24","gateway":"10.10.0.253"}"#]
    {
        let (code, stdout) = run("CHECK", &[], &previous(other));
        assert_eq!(code, 1);
        assert!(stdout.contains("static: Failed to match addr 10.10.0.1 on interface eth0"), "{stdout}");
    }
    let (code, stdout) = run("CHECK", &[], &conf("1.1.0", ""));
    assert!(code == 1 && stdout.contains("Required prevResult missing"), "{stdout}");
    let (code, stdout) = run("CHECK", &[], &conf("0.3.1", ""));
    assert!(code == 1 && stdout.contains("config version does not allow CHECK"), "{stdout}");
}

#[test]
fn del_and_gc_have_nothing_to_do_and_succeed_whatever_the_configuration() {
    let silent = (0, String::new());
    for _ in 0..2 {
        assert_eq!(run("DEL", &[], &conf("0.1.0", "")), silent);
        assert_eq!(run("DEL", &[("CNI_NETNS", "")], r#"{"name":"net"}"#), silent);
        assert_eq!(run("DEL", &[], &conf("1.0.0", "").replace("10.10.0.1/24", "x")), silent);
    }
    assert_eq!(run("GC", &[], &conf("1.1.0", r#""cni.dev/valid-attachments":[],"#)), silent);
    let (code, stdout) = run("GC", &[], &conf("1.1.0", ""));
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("cni.dev/valid-attachments is missing"), "{stdout}");
}

#[test]
fn status_says_whether_the_configuration_would_do() {
    assert_eq!(run("STATUS", &[], &conf("1.1.0", "")), (0, String::new()));
    let (code, stdout) = run("STATUS", &[], &conf("1.1.0", "").replace("10.10.0.1/24", "x"));
    assert_eq!(code, 1);
    insta::assert_snapshot!(stdout, @r#"
    {
        "cniVersion": "1.1.0",
        "code": 50,
        "msg": "the 'address' field is expected to be in CIDR notation, got: 'x'"
    }
    "#);
}

#[test]
fn the_process_speaks_the_protocol() {
    let versions = r#"["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    let expected = format!("{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":{versions}}}\n");
    assert_eq!(run("VERSION", &[], ""), (0, expected));
    let (code, stdout) = run("ADD", &[], r#"{"cniVersion":"1.0.0","name":"net"}"#);
    assert!(code == 1 && stdout.contains("IPAM config missing 'ipam' key"), "{stdout}");
    let (code, stdout) = run("ADD", &[("CNI_NETNS", "/proc/self/ns/net")], &conf("1.0.0", ""));
    assert!(code == 1 && stdout.contains("should not be the same"), "{stdout}");
    let overriding = [("CNI_NETNS", "/proc/self/ns/net"), ("CNI_NETNS_OVERRIDE", "1")];
    assert_eq!(run("ADD", &overriding, &conf("1.0.0", "")).0, 0);
    let (code, stdout) = run("ADD", &[("CNI_CONTAINERID", ""), ("CNI_PATH", "")], "");
    assert!(
        code == 1 && stdout.contains("required env variables [CNI_CONTAINERID,CNI_PATH] missing"),
        "{stdout}"
    );
}

#[test]
fn without_a_runtime_it_describes_itself() {
    let program = weft_testkit::staged("static");
    let ask = |args: &[&str]| {
        let args = args.iter().map(Into::into).collect();
        let env = vec![("CNI_COMMAND".into(), "".into())];
        let output = exec::run(Invocation { args, env, ..Invocation::new(program.clone()) }).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, stderr) = ask(&["describe"]);
    let about: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, about["type"].as_str(), stderr.as_str()), (0, Some("static"), ""));
    assert_eq!(about.get("driver"), None);
    let (code, stdout, stderr) = ask(&[]);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert!(stderr.starts_with("CNI static plugin "), "{stderr}");
    let (code, stdout, _) = ask(&["compose"]);
    assert!(code == 1 && stdout.contains("\"code\": 6"), "{stdout}");
}
