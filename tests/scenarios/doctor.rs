//! `weft doctor`: what is out of step, why, and the command that mends it.

use serde_json::Value;
use weft_testkit::{Lab, Output};

/// A network with a container that publishes a port.
fn town() -> Lab {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "-o", "bridge=br-blue", "blue"]).expect_ok();
    lab.container("red");
    lab.weft(["network", "connect", "-p", "8080:80", "blue", "red"]).expect_ok();
    lab
}

fn findings(output: &Output) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        ["What", "Why", "Mend"].map(|key| text(&row[key]))
    };
    output.stdout.lines().map(row).collect()
}

#[track_caller]
fn well(lab: &Lab) {
    let output = lab.weft(["doctor"]);
    assert_eq!((output.expect_ok(), output.stderr.as_str()), ("", ""), "{output}");
}

/// What is found, which must be something.
#[track_caller]
fn ill(lab: &Lab) -> Vec<[String; 3]> {
    let output = lab.weft(["doctor", "--format", "json"]);
    assert_eq!(output.code, 1, "{output}");
    let found = findings(&output);
    assert!(!found.is_empty(), "{output}");
    found
}

#[test]
fn all_is_well_to_begin_with() {
    let lab = Lab::new();
    well(&lab);
    let lab = town();
    well(&lab);
    lab.weft(["network", "rm", "-f", "blue"]).expect_ok();
    well(&lab);
}

#[test]
fn what_a_flush_took_is_named_and_its_command_mends_it() {
    let lab = town();
    lab.sh("nft flush ruleset").expect_ok();
    let found = ill(&lab);
    let mends: Vec<&str> = found.iter().map(|[_, _, mend]| mend.as_str()).collect();
    assert!(mends.iter().all(|mend| mend.starts_with("weft network reload")), "{found:?}");
    assert!(found.iter().any(|[what, why, _]| format!("{what} {why}").contains("inet weft")), "{found:?}");
    let table = lab.weft(["doctor"]);
    assert!(table.stdout.starts_with("WHAT") && table.stdout.contains("MENDED BY"), "{table}");

    for mend in mends {
        lab.weft(mend.split(' ').skip(1)).expect_ok();
    }
    well(&lab);
}

#[test]
fn fix_mends_what_takes_no_decision() {
    let lab = town();
    lab.sh("nft flush ruleset").expect_ok();
    lab.set_sysctl("ipv4/ip_forward", "0");
    ill(&lab);
    let fixed = lab.weft(["doctor", "--fix"]);
    assert_eq!(fixed.expect_ok(), "");
    assert_eq!(lab.sysctl("ipv4/ip_forward"), "1");
    well(&lab);
}

#[test]
fn a_port_that_lost_its_element_is_named() {
    let lab = town();
    let listing = lab.sh("nft -a list map inet weft publish4");
    assert!(listing.expect_ok().contains("8080"), "{listing}");
    lab.sh("nft flush map inet weft publish4").expect_ok();
    let found = ill(&lab);
    assert!(found.iter().any(|[what, why, _]| format!("{what} {why}").contains("8080")), "{found:?}");
    lab.weft(["doctor", "--fix"]).expect_ok();
    well(&lab);
}

#[test]
fn a_container_that_is_gone_is_named() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    let red = lab.container("red");
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    well(&lab);
    red.vanish();
    let found = ill(&lab);
    assert_eq!(
        found,
        [["eth0 of red on blue", "the container's namespace is gone", "weft network disconnect blue red"]
            .map(String::from)]
    );
    lab.weft(["doctor", "--fix"]).expect_ok();
    well(&lab);
    assert!(!lab.weft(["ps"]).expect_ok().contains("red"));
}

#[test]
fn what_needs_a_decision_is_only_told() {
    let lab = town();
    lab.ip("link set br-blue down");
    let found = ill(&lab);
    assert!(
        found.iter().any(|[what, why, mend]| {
            what == "eth0 of red on blue"
                && why.contains("br-blue is down")
                && mend.starts_with("weft network disconnect blue red")
        }),
        "{found:?}"
    );
    let left = lab.weft(["doctor", "--fix", "--format", "json"]);
    assert_eq!(left.code, 1, "{left}");
    assert_eq!(findings(&left), found);
    lab.ip("link set br-blue up");
    well(&lab);
}

#[test]
fn files_and_plugins_that_are_missing_are_named() {
    let lab = town();
    lab.write("/etc/weft/networks.d/torn.conflist", r#"{"cniVersion": "1.1.0", "name": "torn", "plu"#);
    let other = r#"{"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "nosuchplugin"}]}"#;
    lab.write("/etc/weft/networks.d/other.conflist", other);
    let found = ill(&lab);
    let named = |word: &str, mend: &str| {
        let both =
            |[what, why, how]: &[String; 3]| format!("{what} {why}").contains(word) && how.contains(mend);
        assert!(found.iter().any(both), "{word}: {found:?}");
    };
    named("torn.conflist", "weft network rm -f torn");
    named("nosuchplugin", "weft plugin ls");
    lab.sh("rm $WEFT_ROOT/etc/weft/networks.d/torn.conflist $WEFT_ROOT/etc/weft/networks.d/other.conflist")
        .expect_ok();
    well(&lab);
}
