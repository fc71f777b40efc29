//! Networks come, are listed, and go.

use weft_testkit::Lab;

#[test]
fn a_network_in_use_stays() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "rm", "blue"]).expect_failure(4, &["blue", "red"]);
    assert!(red.ping("10.90.0.1"));
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert_eq!(lab.weft(["network", "rm", "blue"]).expect_ok(), "blue\n");
    lab.weft(["network", "exists", "blue"]).expect_failure(3, &[]);
}

#[test]
fn rm_does_what_it_can() {
    let lab = Lab::new();
    lab.weft(["network", "create", "a"]).expect_ok();
    lab.weft(["network", "create", "b"]).expect_ok();
    let done = lab.weft(["network", "rm", "a", "ghost", "b"]);
    done.expect_failure(3, &["ghost"]);
    assert_eq!(done.stdout, "a\nb\n");
    lab.weft(["network", "rm", "-f", "ghost"]).expect_ok();
}

#[test]
fn prune_takes_the_unused() {
    let lab = Lab::new();
    let red = lab.container("red");
    for name in ["used", "old", "older"] {
        lab.weft(["network", "create", name]).expect_ok();
    }
    lab.weft(["network", "connect", "used", "red"]).expect_ok();
    let pruned = lab.weft(["network", "prune", "-f"]);
    assert!(pruned.expect_ok().contains("old") && pruned.stdout.contains("older"), "{pruned}");
    assert!(!pruned.stdout.contains("used\n"), "{pruned}");
    lab.weft(["network", "exists", "used"]).expect_ok();
    lab.weft(["network", "exists", "old"]).expect_failure(3, &[]);
    for name in ["bridge", "host", "none"] {
        lab.weft(["network", "exists", name]).expect_ok();
    }
    assert!(red.has_link("eth0"));
}

#[test]
fn labels_and_filters_choose() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--label", "team=a", "one"]).expect_ok();
    lab.weft(["network", "create", "--label", "team=b", "two"]).expect_ok();
    let names = |filter: &str| {
        let listing = lab.weft(["network", "ls", "--format", "{{.Name}}", "-f", filter]);
        listing.expect_ok().lines().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names("label=team=a"), ["one"]);
    assert_eq!(names("label=team"), ["one", "two"]);
    assert_eq!(names("name=tw"), ["two"]);
    assert_eq!(names("driver=host"), ["host"]);
}

#[test]
fn an_id_or_the_start_of_one_will_do() {
    let lab = Lab::new();
    let id = lab.weft(["network", "create", "blue"]).expect_ok().trim().to_string();
    assert_eq!(lab.weft(["network", "inspect", &id[..8]]).expect_json()[0]["Name"], "blue");
    lab.weft(["network", "rm", &id]).expect_ok();
    lab.weft(["network", "exists", "blue"]).expect_failure(3, &[]);
}

#[test]
fn a_listing_for_machines() {
    let lab = Lab::new();
    lab.weft(["network", "create", "blue"]).expect_ok();
    let quiet = lab.weft(["network", "ls", "-q"]);
    assert!(
        quiet.expect_ok().lines().count() == 4 && quiet.stdout.lines().all(|line| line.len() == 12),
        "{quiet}"
    );
    let json = lab.weft(["network", "ls", "--format", "json"]);
    for line in json.expect_ok().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["Name"].is_string(), "{line}");
    }
}

#[test]
fn an_internal_network_has_no_way_out() {
    let lab = Lab::new();
    lab.uplink();
    let (red, _green) = (lab.container("red"), lab.container("green"));
    lab.weft(["network", "create", "--internal", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    assert!(red.ping("10.90.0.3"), "neighbours talk");
    assert!(!red.ip("route").contains("default"));
    assert!(!red.ping("192.0.2.2"));
}

#[test]
fn options_of_docker_are_understood() {
    let lab = Lab::new();
    let red = lab.container("red");
    let words = [
        "network",
        "create",
        "-o",
        "com.docker.network.bridge.name=mybr",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "blue",
    ];
    lab.weft(words).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(lab.has_link("mybr"));
    assert_eq!(red.link("eth0")["mtu"], 1400);
}

#[test]
fn drivers_and_their_options_are_listed() {
    let lab = Lab::new();
    let listing = lab.weft(["plugin", "ls"]);
    for kind in ["bridge", "host", "none"] {
        assert!(listing.expect_ok().contains(kind), "{kind}: {listing}");
    }
    let described = lab.weft(["plugin", "describe", "bridge"]);
    assert!(described.expect_ok().contains("mtu"), "{described}");
    lab.weft(["plugin", "describe", "pigeon"]).expect_failure(3, &["pigeon"]);
}

#[test]
fn completion_and_version_need_nothing() {
    let lab = Lab::new();
    assert!(lab.weft(["completion", "bash"]).expect_ok().contains("weft"));
    assert!(lab.weft(["--version"]).expect_ok().starts_with("weft "));
    assert_eq!(lab.weft(["network", "create"]).code, 2, "wrong usage");
    assert_eq!(lab.weft(["network", "dance"]).code, 2);
}

#[test]
fn the_root_can_be_given_as_a_flag_and_counts_for_plugins_too() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = lab.snapshot().lines_with("file ").join("\n");
    // $WEFT_ROOT is set as well: the flag is closer to the command.
    let below = lab.root().with_file_name("below");
    let root = below.to_str().unwrap();
    let weft = |line: &str| lab.weft(["--root", root].into_iter().chain(line.split(' ')));
    weft("network create --subnet 10.90.0.0/24 blue").expect_ok();
    weft("network connect blue red").expect_ok();
    assert!(red.ping("10.90.0.1"));
    let files = [
        "etc/weft/networks.d/blue.conflist",
        "run/weft/attachments/red/eth0.json",
        "var/lib/cni/networks/blue/10.90.0.2",
    ];
    for file in files {
        assert!(below.join(file).is_file(), "{file} is not below the root given");
    }
    assert!(weft("network ls").expect_ok().contains("blue"));
    assert!(weft("ps").expect_ok().contains("red"));
    assert!(!lab.weft(["ps"]).expect_ok().contains("red"));
    lab.weft(["network", "exists", "blue"]).expect_failure(3, &[]);
    assert_eq!(lab.snapshot().lines_with("file ").join("\n"), before, "something is below the other root");

    weft("network disconnect blue red").expect_ok();
    assert!(!red.has_link("eth0"));
    weft("network rm blue").expect_ok();
    for file in files {
        assert!(!below.join(file).exists(), "{file} stayed");
    }
    assert!(!lab.ip("-brief link").contains("veth"));
}
