//! Plugins of others that do not keep to the protocol.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use weft_testkit::{Lab, Output};

/// Makes a network whose only plugin is this shell script.
fn network_of(lab: &Lab, script: &str) {
    lab.write("plugins/strange", format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(lab.path("plugins/strange"), std::fs::Permissions::from_mode(0o755)).unwrap();
    lab.write(
        "etc/weft/networks.d/odd.conflist",
        r#"{"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "strange"}]}"#,
    );
}

fn connect(lab: &Lab, limit: u64) -> Output {
    let program =
        lab.weft_program(["network", "connect", "odd", "red"]).env("WEFT_PLUGIN_PATH", lab.path("plugins"));
    program.limit(Duration::from_secs(limit)).run()
}

#[test]
fn garbage_is_named_as_such() {
    let lab = Lab::new();
    lab.container("red");
    network_of(&lab, "cat >/dev/null; echo this is no json");
    let before = lab.snapshot();
    let refused = connect(&lab, 30);
    refused.expect_failure(1, &["strange"]);
    lab.assert_restored(&before);
}

#[test]
fn an_error_object_is_passed_on() {
    let lab = Lab::new();
    lab.container("red");
    network_of(&lab, r#"cat >/dev/null; echo '{"code": 999, "msg": "the pigeons are asleep"}'; exit 1"#);
    let before = lab.snapshot();
    connect(&lab, 30).expect_failure(1, &["the pigeons are asleep"]);
    lab.assert_restored(&before);
}

#[test]
fn silence_and_a_bad_end_are_named() {
    let lab = Lab::new();
    lab.container("red");
    network_of(&lab, "cat >/dev/null; echo a complaint >&2; exit 3");
    connect(&lab, 30).expect_failure(1, &["strange", "a complaint"]);
}

#[test]
fn a_missing_plugin_is_named() {
    let lab = Lab::new();
    lab.container("red");
    network_of(&lab, "exit 0");
    std::fs::remove_file(lab.path("plugins/strange")).unwrap();
    let before = lab.snapshot();
    let refused = connect(&lab, 30);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("strange"), "{refused}");
    lab.assert_restored(&before);
}

#[test]
fn a_plugin_that_hangs_is_killed_and_named() {
    let lab = Lab::new();
    lab.container("red");
    lab.write("etc/weft/weft.toml", "timeout = 1\n");
    network_of(
        &lab,
        r#"cat >/dev/null
case $CNI_COMMAND in
    ADD) echo $$ >"$WEFT_ROOT/pid"; exec sleep 300 ;;
    DEL) echo $$ >"$WEFT_ROOT/del" ;;
esac"#,
    );
    let before = lab.snapshot();
    connect(&lab, 30).expect_failure(1, &["strange", "odd", "within 1 s"]);
    let pid = lab.read("pid");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the plugin still runs");
    assert!(lab.path("del").exists(), "what the plugin may have done was not undone");
    for trace in ["pid", "del"] {
        std::fs::remove_file(lab.path(trace)).unwrap();
    }
    lab.assert_restored(&before);
}

#[test]
fn a_plugin_that_reads_nothing_and_says_much_does_not_block() {
    let lab = Lab::new();
    lab.container("red");
    network_of(&lab, r#"yes | head -c 300000 >&2; echo '{"cniVersion": "1.0.0"}'"#);
    connect(&lab, 30).expect_ok();
}
