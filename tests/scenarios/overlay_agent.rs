//! `weftd agent` keeps hosts in step: networks appear everywhere, traffic outlives the agent and the store, what others
//! take away comes back.

use nix::sys::signal::Signal;
use weft_testkit::{Background, Cluster, Container, does_not_reach, reaches};

/// A container on a host, connected to `blue`, and its addresses.
pub(crate) fn connected(cluster: &Cluster, number: u8, name: &str) -> Container {
    let host = cluster.host(number);
    let container = host.container(name);
    host.weft(["network", "connect", "blue", container.name()]).expect_ok();
    container
}

/// A container's addresses on its first interface, without their lengths.
pub(crate) fn addresses(container: &Container) -> Vec<String> {
    let all = container.addresses("eth0");
    let bare: Vec<String> =
        all.iter().filter_map(|address| Some(address.split_once('/')?.0.to_owned())).collect();
    assert!(!bare.is_empty(), "{} has no address", container.name());
    bare
}

/// Two hosts with a container on each, that reach each other in both families.
pub(crate) fn pair() -> (Cluster, Container, Container) {
    let cluster = Cluster::new(2);
    cluster.network(1, &["--ipv6", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    reaches(&red, addresses(&green));
    reaches(&green, addresses(&red));
    (cluster, red, green)
}

/// A ping every 10 ms until it is told to end.
pub(crate) fn pinging(from: &Container, to: &str) -> Background {
    let words = ["-n", "-q", "-i", "0.01", to];
    weft_testkit::Program::new("ping").inside(from).args(words).background()
}

/// Nothing was lost but what was on its way when the ping was told to end.
#[track_caller]
pub(crate) fn lost_nothing(ping: Background) {
    // What breaks may do so a moment later; and a busy machine has not sent the second one yet.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let id = nix::unistd::Pid::from_raw(ping.id().cast_signed());
    nix::sys::signal::kill(id, Signal::SIGINT).unwrap();
    let said = ping.end().stdout;
    let line = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or(&said);
    let mut numbers =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    let (sent, received) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert!(sent > 1 && received + 1 >= sent, "{said}");
}

#[test]
fn a_network_of_one_host_is_on_all_and_goes_from_all() {
    let cluster = Cluster::new(3);
    let created =
        cluster.host(1).weft(["network", "create", "-d", "overlay", "--ipv6", "--label", "a=b", "blue"]);
    let id = created.expect_ok().trim().to_owned();
    assert!(created.stderr.contains("creating network blue in cluster"), "{}", created.stderr);
    for number in [1, 2, 3] {
        let host = cluster.host(number);
        cluster.eventually("blue", || host.weft(["network", "exists", "blue"]).code == 0);
        let shown = host.weft(["network", "inspect", "blue"]).expect_json()[0].take();
        assert_eq!((&shown["Id"], &shown["Scope"]), (&id.as_str().into(), &"global".into()), "{shown}");
        assert_eq!((&shown["Driver"], &shown["Labels"]["a"]), (&"overlay".into(), &"b".into()), "{shown}");
    }
    let all = [1, 2, 3].map(|number| connected(&cluster, number, "c"));
    for from in &all {
        for to in &all {
            reaches(from, addresses(to));
        }
    }
    let shown = cluster.host(1).weft(["network", "inspect", "blue"]).expect_json();
    let blocks = shown[0]["Blocks"].as_array().unwrap();
    let hosts: Vec<&str> = blocks.iter().map(|block| block["Host"].as_str().unwrap()).collect();
    assert_eq!(
        ["h1", "h2", "h3"].map(|host| hosts.iter().filter(|found| **found == host).count()),
        [2, 2, 2]
    );
    let own = blocks.iter().find(|block| block["Host"] == "h1").unwrap();
    assert_eq!((&own["Used"], &own["Size"]), (&1.into(), &61.into()), "{own}");

    let host = cluster.host(1);
    host.weft(["network", "create", "-d", "overlay", "blue"]).expect_failure(4, &["blue"]);
    host.weft(["network", "rm", "blue"]).expect_failure(4, &["h1-c"]);
    // Each host tells within a second that it has a container.
    cluster.eventually("all have told", || cluster.etcd.records().matches("\"used\":{").count() == 3);
    host.weft(["network", "disconnect", "blue", all[0].name()]).expect_ok();
    cluster.eventually("h1 hears of the containers on the others", || {
        let refused = host.weft(["network", "rm", "blue"]);
        assert_eq!(refused.code, 4, "{}", refused.stderr);
        refused.stderr.contains("network blue is in use: 2 addresses on host h")
    });
    for (number, container) in [(2, &all[1]), (3, &all[2])] {
        cluster.host(number).weft(["network", "disconnect", "blue", container.name()]).expect_ok();
    }
    cluster.eventually("blue is not in use", || host.weft(["network", "rm", "blue"]).code == 0);
    for number in [1, 2, 3] {
        let host = cluster.host(number);
        cluster.eventually("blue is gone", || host.weft(["network", "exists", "blue"]).code == 3);
        cluster.eventually("its devices are gone", || !host.sh("ip -d link").stdout.contains("vxlan"));
    }
    assert!(!cluster.etcd.records().contains("blue"), "{}", cluster.etcd.records());
}

#[test]
fn traffic_does_not_notice_that_the_agent_is_killed() {
    let (mut cluster, red, green) = pair();
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.kill(1);
    cluster.host(1).weft(["overlay", "status"]).expect_failure(1, &["weftd agent does not run"]);
    let late = connected(&cluster, 1, "late");
    reaches(&late, addresses(&green));
    cluster.start(1);
    cluster.eventually("h1 is in step", || cluster.status(1)["networks"][0]["name"] == "blue");
    cluster.end(1);
    cluster.start(1);
    lost_nothing(ping);
    reaches(&green, addresses(&late));
}

/// An agent may be killed before what it has just done is on the disk. The next one must not undo it.
#[test]
fn an_agent_that_is_killed_at_once_after_a_change_takes_nothing_back() {
    const COPY: &str = "var/lib/weft/overlay/state.json";
    let mut cluster = Cluster::new(2);
    let host = cluster.host(1);
    let knows_both =
        |copy: &str| ["h1", "h2"].iter().all(|name| copy.contains(&format!(r#""name":"{name}""#)));
    cluster.eventually("the disk has a copy", || host.path(COPY).exists() && knows_both(&host.read(COPY)));
    let old = host.read(COPY);
    cluster.network(1, &["blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    reaches(&red, addresses(&green));
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.kill(1);
    cluster.etcd.stop();
    cluster.host(1).write(COPY, &old);
    cluster.start(1);
    assert_eq!(cluster.status(1)["state"], "stale");
    lost_nothing(ping);
    reaches(&red, addresses(&green));
    // The twin: by that copy alone nobody is behind the network.
    cluster.kill(1);
    cluster.host(1).write(COPY, &old);
    std::fs::remove_file(cluster.host(1).path("run/weft/overlay/agent/state.json")).unwrap();
    cluster.start(1);
    cluster.eventually("nobody is behind the network", || !red.ping(&addresses(&green)[0]));
    does_not_reach(&red, addresses(&green));
}

#[test]
fn an_agent_that_starts_without_its_store_changes_nothing() {
    let (mut cluster, red, green) = pair();
    cluster.end(1);
    cluster.etcd.stop();
    let monitor =
        cluster.host(1).program("ip").args(["monitor", "link", "route", "neigh", "address"]).background();
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.start(1);
    let status = cluster.status(1);
    assert_eq!((&status["state"], &status["alive"]), (&"stale".into(), &0.into()), "{status}");
    let late = connected(&cluster, 1, "late");
    reaches(&late, addresses(&green));
    lost_nothing(ping);
    let said = monitor.end().stdout;
    let ours = |line: &&str| line.contains("Deleted") && (line.contains("ov") || line.contains("proto 201"));
    assert!(!said.is_empty(), "the monitor has heard nothing at all");
    assert_eq!(said.lines().filter(ours).collect::<Vec<_>>(), Vec::<&str>::new());

    let create = cluster.host(1).weft(["network", "create", "-d", "overlay", "other"]);
    create.expect_failure(1, &["does not answer"]);
    cluster.etcd.go_on();
    cluster.eventually("the store is heard of", || cluster.status(1)["state"] == "ready");
    reaches(&red, addresses(&green));
}

#[test]
fn what_somebody_deletes_comes_back() {
    let (cluster, red, green) = pair();
    let host = cluster.host(1);
    let vxlan = host.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '").expect_ok().trim().to_owned();
    let block =
        host.sh("ip -4 route show proto 201 | grep via | cut -d' ' -f1").expect_ok().trim().to_owned();
    assert!(!vxlan.is_empty() && !block.is_empty());
    let fdb = format!("bridge fdb show dev {vxlan} | grep permanent | head -1 | cut -d' ' -f1");
    for line in [
        format!("ip route del {block}"),
        format!("ip neigh flush dev {vxlan} nud permanent"),
        format!("bridge fdb del $({fdb}) dev {vxlan}"),
        format!("ip link set {vxlan} address 02:00:00:00:00:99"),
        format!("ip link set {vxlan} down"),
        format!("ip link del {vxlan}"),
    ] {
        cluster.signal(1, Signal::SIGSTOP);
        host.sh(&line).expect_ok();
        does_not_reach(&red, [&addresses(&green)[0]]);
        cluster.signal(1, Signal::SIGCONT);
        cluster.eventually(&line, || addresses(&green).iter().all(|address| red.ping(address)));
        cluster.eventually("nothing else", || host.weft(["overlay", "peers", "--verify"]).code == 0);
    }
    assert!(cluster.status(1)["mended"].as_u64().unwrap() >= 6);
    cluster.signal(1, Signal::SIGSTOP);
    host.sh(&format!("ip route del {block}")).expect_ok();
    cluster.signal(1, Signal::SIGCONT);
    cluster.eventually("the route", || host.sh("ip -4 route show proto 201").stdout.contains(&block));
}

#[test]
fn what_is_not_as_it_should_be_is_listed() {
    let (cluster, red, green) = pair();
    let host = cluster.host(1);
    let sound = host.weft(["overlay", "peers", "--verify"]);
    assert_eq!(sound.expect_ok(), "");
    // What the agent would mend it cannot, for somebody else has the place.
    let block =
        host.sh("ip -4 route show proto 201 | grep via | cut -d' ' -f1").expect_ok().trim().to_owned();
    host.sh(&format!("ip route replace {block} via 192.0.2.2 dev u0")).expect_ok();
    cluster.eventually("it is told", || {
        let told = host.weft(["overlay", "peers", "--verify"]);
        let named = told.stdout.lines().any(|line| line.contains("network blue") && line.contains(&block));
        named && told.code == 1 && told.stderr.contains("hint: weft overlay apply")
    });
    let json = host.weft(["overlay", "peers", "--verify", "--format", "{{.What}}: {{.Why}}"]);
    assert!(json.stdout.contains(&format!("network blue: route {block} via")), "{}", json.stdout);
    host.ip(&format!("route del {block} via 192.0.2.2"));
    cluster.eventually("all is well", || host.weft(["overlay", "peers", "--verify"]).code == 0);
    reaches(&red, addresses(&green));
}

#[test]
fn diag_names_the_broken_link() {
    let (cluster, red, green) = pair();
    let host = cluster.host(1);
    let address = addresses(&green)[0].clone();
    let whole = host.weft(["overlay", "diag", &address]);
    let table = whole.expect_ok();
    assert!(table.contains("of h2") && !table.contains("BROKEN"), "{table}");
    host.weft(["overlay", "diag", "198.51.100.9"])
        .expect_failure(3, &["no network of the cluster has the address"]);
    // What others made is theirs: the agent leaves it alone, and it is told.
    host.sh(&format!("ip route add blackhole {address}/32")).expect_ok();
    does_not_reach(&red, [&address]);
    let broken = host.weft(["overlay", "diag", &address]);
    let lines: Vec<&str> = broken.stdout.lines().filter(|line| line.contains("BROKEN")).collect();
    assert_eq!(broken.code, 1, "{}", broken.stdout);
    assert!(
        matches!(lines[..], [line] if line.starts_with("route") && line.contains("ip route show to match")),
        "{lines:?}"
    );
    host.sh(&format!("ip route del blackhole {address}/32")).expect_ok();
    reaches(&red, [&address]);
    host.weft(["overlay", "diag", &address]).expect_ok();
    let own = addresses(&red)[0].clone();
    assert!(host.weft(["overlay", "diag", &own]).expect_ok().contains("this one"));
}

#[test]
fn a_record_nobody_understands_is_passed_over() {
    let (cluster, red, green) = pair();
    let key = format!("/weft/v1/host/{}", "ab".repeat(16));
    cluster.etcd.ctl(["put", &key, "{\"schema\":1,\"name\":\"half"]).expect_ok();
    cluster.etcd.ctl(["put", "/weft/v1/nonsense", "x"]).expect_ok();
    cluster.eventually("it is counted", || cluster.status(1)["bad"].as_array().unwrap().len() == 2);
    let status = cluster.host(1).weft(["overlay", "status"]);
    assert!(status.expect_ok().contains(&format!("bad record  {key}")), "{}", status.stdout);
    let metrics = cluster.host(1).weft(["overlay", "status", "--metrics"]);
    assert!(metrics.expect_ok().contains("\nweft_overlay_bad_records 2\n"), "{}", metrics.stdout);
    reaches(&red, addresses(&green));
    cluster.etcd.ctl(["del", &key]).expect_ok();
    cluster.etcd.ctl(["del", "/weft/v1/nonsense"]).expect_ok();
    cluster.eventually("it is forgotten", || cluster.status(1)["bad"].as_array().unwrap().is_empty());
}

/// A claim that can be read, and that nothing may follow from.
#[test]
fn a_block_outside_of_its_network_is_passed_over_and_named() {
    let (cluster, red, green) = pair();
    let all = cluster.etcd.records();
    let lines: Vec<&str> = all.lines().collect();
    let is_block = |pair: &&[&str]| pair[0].starts_with("/weft/v1/block/") && pair[0].ends_with("-26");
    let [key, value] = lines.chunks(2).find(is_block).unwrap() else { panic!("{all}") };
    let (network, block) = key.rsplit_once('/').unwrap();
    let elsewhere = value.replace(&block.replace('-', "/"), "198.51.100.0/26");
    let key = format!("{network}/198.51.100.0-26");
    cluster.etcd.ctl(["put", &key, &elsewhere]).expect_ok();
    for number in [1, 2] {
        let host = cluster.host(number);
        let told = || host.weft(["overlay", "status"]).expect_ok().to_owned();
        let line = format!("passed over in the store: {key}: it is in no subnet of its network");
        cluster.eventually("it is told", || told().contains(&line));
        assert_eq!(cluster.status(number)["state"], "degraded");
        assert!(!host.ip("route show table all").contains("198.51.100."), "a way leads there");
    }
    reaches(&red, addresses(&green));
    let given_up = elsewhere.replace(r#"{"is":"active"}"#, r#"{"is":"quarantine","since":1}"#);
    assert_ne!(given_up, elsewhere);
    cluster.etcd.ctl(["put", &key, &given_up]).expect_ok();
    for number in [1, 2] {
        cluster.eventually("it is forgotten", || cluster.status(number)["state"] == "ready");
    }
}

#[test]
fn a_host_that_is_not_heard_of_keeps_its_routes() {
    let (mut cluster, red, green) = pair();
    let alive = format!("/weft/v1/alive/{}", {
        let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
        peers[0]["id"].as_str().unwrap().to_owned()
    });
    let ways = |cluster: &Cluster| {
        cluster.host(1).sh("ip -4 route show proto 201; ip -6 route show proto 201").stdout
    };
    let before = ways(&cluster);
    assert!(before.contains("via"), "{before}");
    cluster.kill(2);
    assert!(cluster.etcd.records().contains(&alive));
    assert_eq!(cluster.status(1)["suspect"], 0);
    // Nobody takes its lease back: it runs out.
    cluster.eventually("h2 is suspect", || cluster.status(1)["suspect"] == 1);
    assert!(!cluster.etcd.records().contains(&alive));
    assert_eq!(ways(&cluster), before);
    reaches(&red, addresses(&green));
    cluster.start(2);
    cluster.eventually("h2 is alive", || cluster.status(1)["suspect"] == 0);
    assert!(cluster.etcd.records().contains(&alive));
}

#[test]
fn hosts_that_have_nothing_to_say_write_nothing() {
    let (cluster, _red, _green) = pair();
    cluster.eventually("everything was said", || {
        let before = cluster.etcd.revision();
        let kept = cluster.etcd.keep_alives();
        cluster.eventually("leases are renewed", || cluster.etcd.keep_alives() >= kept + 3);
        cluster.etcd.revision() == before
    });
}
