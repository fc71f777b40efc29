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
fn what_needs_a_decision_is_only_told_with_all_the_connection_had() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "-o", "bridge=br-blue", "blue"]).expect_ok();
    let red = lab.container("red");
    let more = [
        "--name",
        "web",
        "--ip",
        "10.90.0.7",
        "-p",
        "8080:80",
        "--sysctl",
        "net.ipv4.conf.IFNAME.log_martians=1",
    ];
    lab.weft(["network", "connect"].into_iter().chain(more).chain(["blue", "red"])).expect_ok();
    well(&lab);
    red.ip("link delete eth0");
    let found = ill(&lab);
    let again = "weft network disconnect blue red, then weft network connect -p 0.0.0.0:8080:80/tcp --ip 10.90.0.7 \
                 --name web --sysctl net.ipv4.conf.eth0.log_martians=1 blue red";
    let told = |[what, _, mend]: &[String; 3]| what == "eth0 of red on blue" && mend == again;
    assert!(found.iter().any(told), "{found:?}");
    let left = lab.weft(["doctor", "--fix", "--format", "json"]);
    assert_eq!((left.code, findings(&left).iter().any(told)), (1, true), "{left}");
    for command in again.split(", then ") {
        lab.weft(command.split(' ').skip(1)).expect_ok();
    }
    well(&lab);
}

#[test]
fn a_bridge_that_was_taken_down_comes_up_again() {
    let lab = Lab::new();
    let subnets = ["--subnet", "10.90.0.0/24", "--ipv6", "--subnet", "fd00:90::/64"];
    lab.weft(["network", "create", "-o", "bridge=br-blue"].into_iter().chain(subnets).chain(["blue"]))
        .expect_ok();
    let red = lab.container("red");
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.ip("link set br-blue down");
    assert!(!red.ping("10.90.0.1"));
    let found = ill(&lab);
    let down =
        ["network blue", "host interface br-blue is down", "weft network reload blue"].map(String::from);
    assert!(found.contains(&down), "{found:?}");
    lab.weft(["network", "reload", "blue"]).expect_ok();
    well(&lab);
    // What red knows of its neighbour has to time out.
    assert!((0..5).any(|_| red.ping("10.90.0.1")), "{}", lab.ip("address show br-blue"));
}

#[test]
fn a_table_of_somebody_else_under_our_name_hides_nothing_else() {
    let lab = town();
    lab.sh("nft delete table inet weft; nft add table inet weft '{ comment \"mine\"; }'").expect_ok();
    lab.write(
        "/etc/weft/networks.d/other.conflist",
        r#"{"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "nosuchplugin"}]}"#,
    );
    let found = ill(&lab);
    assert!(found.iter().any(|[_, why, _]| why.contains("nosuchplugin")), "{found:?}");
    let about: Vec<_> = found.iter().filter(|[_, why, _]| why.contains("inet weft")).collect();
    assert_eq!(about.len(), 1, "told once: {found:?}");
    let reload = lab.weft(["network", "reload"]);
    assert_eq!((reload.code, reload.stderr.matches("is not ours").count()), (1, 1), "{reload}");
}

#[test]
fn a_network_whose_file_is_wrong_is_named_with_its_file() {
    let lab = town();
    let mistake = r#"sed -i 's/"type": "bridge"/"type": "bridge", "mtu": "many"/' $WEFT_ROOT/etc/weft/networks.d/blue.conflist"#;
    lab.sh(mistake).expect_ok();
    let reload = lab.weft(["network", "reload"]);
    assert_eq!(reload.code, 1, "{reload}");
    assert!(reload.stderr.contains("network blue") && reload.stderr.contains("blue.conflist"), "{reload}");
    let found = ill(&lab);
    assert!(
        found.iter().any(|[what, _, mend]| what == "network blue" && mend.contains("blue.conflist")),
        "{found:?}"
    );
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

#[test]
fn rules_that_all_share_are_missed_once() {
    let lab = town();
    lab.weft(["network", "create", "-o", "bridge=br-green", "green"]).expect_ok();
    lab.container("green1");
    lab.weft(["network", "connect", "-p", "9090:90", "green", "green1"]).expect_ok();
    lab.sh("nft flush table inet weft").expect_ok();
    let found = ill(&lab);
    let row = |[what, why, _]: &&[String; 3]| {
        what == "table inet weft" && why.contains("chain inet weft published")
    };
    assert_eq!(found.iter().filter(row).count(), 1, "{found:?}");
    assert_eq!(found.len(), 1, "{found:?}");
    lab.weft(["network", "reload"]).expect_ok();
    well(&lab);
}

#[test]
fn a_damaged_list_of_moving_ports_is_named() {
    let lab = town();
    lab.write("/run/weft/ports/moving/red.json", r#"{"schema": 1, "boo"#);
    let found = ill(&lab);
    let named = |[what, why, _]: &[String; 3]| what == "ports of red" && why.contains("red.json");
    assert!(found.len() == 1 && found.iter().all(named), "{found:?}");
    lab.weft(["network", "reload"]).expect_ok();
    assert!(!lab.path("run/weft/ports/moving/red.json").exists());
    well(&lab);
}

#[test]
fn claims_of_nobody_are_named_and_given_up() {
    for mend in ["reload", "prune -f"] {
        let lab = town();
        lab.sh("rm $WEFT_ROOT/run/weft/ports/owners/*").expect_ok();
        let found = ill(&lab);
        let named = |[what, why, _]: &[String; 3]| what == "claims of ports" && why.contains("red");
        assert!(found.iter().any(named), "{found:?}");
        assert!(lab.ruleset().contains("8080"), "{}", lab.ruleset());
        lab.weft(["network"].into_iter().chain(mend.split(' '))).expect_ok();
        assert!(!lab.path("run/weft/ports/claims/tcp").exists(), "{mend}");
        assert!(!lab.ruleset().contains("8080"), "{mend}: {}", lab.ruleset());
        well(&lab);
    }
}

#[test]
fn what_killed_processes_left_half_written_goes() {
    for mend in ["reload", "prune -f"] {
        let lab = town();
        let leave = "touch -d '2 minutes ago' $WEFT_ROOT/run/weft/ports/owners/.weft-new-1-0-0 \
                     $WEFT_ROOT/etc/weft/networks.d/.weft-new-1-0-1";
        lab.sh(leave).expect_ok();
        lab.write("/run/weft/attachments/.weft-new-2-0-0", "being written");
        lab.weft(["network"].into_iter().chain(mend.split(' '))).expect_ok();
        assert!(!lab.path("run/weft/ports/owners/.weft-new-1-0-0").exists(), "{mend}");
        assert!(!lab.path("etc/weft/networks.d/.weft-new-1-0-1").exists(), "{mend}");
        assert!(lab.path("run/weft/attachments/.weft-new-2-0-0").exists(), "{mend}");
    }
}
