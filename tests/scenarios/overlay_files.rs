//! A cluster whose store is a directory: the hosts are namespaces of one machine, and no etcd runs.

use std::path::PathBuf;

use weft_testkit::{Cluster, Output, reaches};

use crate::overlay_agent::{addresses, connected};

/// The directory that the hosts share.
fn dir(cluster: &Cluster) -> PathBuf {
    cluster.underlay.lab().path("store")
}

fn join(cluster: &Cluster, number: u8, more: &[&str]) -> Output {
    let (dir, name) = (dir(cluster).display().to_string(), format!("h{number}"));
    let own = format!("192.0.2.{number}");
    let words = ["overlay", "join", "--dir", &dir, "--name", &name, "--underlay-ip", &own];
    cluster.host(number).weft(words.into_iter().chain(more.iter().copied()))
}

/// Two hosts that have joined, and no etcd.
fn pair() -> Cluster {
    let mut cluster = Cluster::unjoined(2);
    cluster.etcd.stop();
    let secret = cluster.host(1).path("var/lib/weft/overlay/keys/cluster.secret").display().to_string();
    for number in [1, 2] {
        cluster.start(number);
        // The first host makes it.
        let more: &[&str] = if number == 1 { &[] } else { &["--secret", &secret] };
        join(&cluster, number, more).expect_ok();
    }
    cluster
}

#[test]
fn hosts_meet_in_a_directory() {
    let mut cluster = pair();
    cluster.eventually("both know each other", || {
        [1, 2].iter().all(|number| cluster.status(*number)["alive"] == 1)
    });
    let status = cluster.status(2);
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["store"]["endpoints"], serde_json::json!([dir(&cluster)]), "{status}");
    cluster.network(1, &["blue"]);
    let (here, there) = (connected(&cluster, 1, "a"), connected(&cluster, 2, "b"));
    reaches(&here, addresses(&there));
    reaches(&there, addresses(&here));
    // It goes on from the directory after a restart, and hears what is new there.
    cluster.kill(2);
    cluster.start(2);
    cluster.network(1, &["green"]);
    reaches(&there, addresses(&here));
    cluster.host(1).weft(["network", "rm", "green"]).expect_ok();
    cluster.eventually("green is gone from h2", || {
        cluster.host(2).weft(["network", "exists", "green"]).code == 3
    });
}

/// As when its file system is mounted later than the agent starts.
#[test]
fn a_directory_that_is_away_is_waited_for() {
    let mut cluster = Cluster::unjoined(1);
    cluster.etcd.stop();
    cluster.start(1);
    join(&cluster, 1, &[]).expect_ok();
    cluster.network(1, &["blue"]);
    cluster.kill(1);
    let (dir, away) = (dir(&cluster), cluster.underlay.lab().path("away"));
    std::fs::rename(&dir, &away).unwrap();
    std::fs::create_dir(&dir).unwrap();
    cluster.start(1);
    cluster.eventually("the store is missed", || {
        cluster.status(1)["store"]["error"].as_str().is_some_and(|why| why.contains("there is no store.json"))
    });
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "another one is made in its place");
    assert_eq!(cluster.host(1).weft(["network", "exists", "blue"]).code, 0, "what was known stays");
    std::fs::remove_dir(&dir).unwrap();
    std::fs::rename(&away, &dir).unwrap();
    cluster.eventually("it is back", || cluster.status(1)["state"] == "ready");
}

#[test]
fn a_host_alone_has_overlays_in_a_directory() {
    let mut cluster = Cluster::unjoined(1);
    cluster.etcd.stop();
    cluster.start(1);
    join(&cluster, 1, &[]).expect_ok();
    cluster.network(1, &["blue"]);
    let (one, other) = (connected(&cluster, 1, "a"), connected(&cluster, 1, "b"));
    reaches(&one, addresses(&other));
    for container in [&one, &other] {
        cluster.host(1).weft(["network", "disconnect", "blue", container.name()]).expect_ok();
    }
    cluster.host(1).weft(["network", "rm", "blue"]).expect_ok();
    cluster.host(1).weft(["overlay", "leave"]).expect_ok();
    assert_eq!(cluster.status(1)["state"], "unjoined");
}

#[test]
fn a_directory_that_cannot_be_the_store_is_refused() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let host = cluster.host(1);
    cluster.underlay.lab().write("taken", "");
    let file = cluster.underlay.lab().path("taken").display().to_string();
    let own = ["--underlay-ip", "192.0.2.1"];
    let said = host.weft(["overlay", "join", "--dir", &file].into_iter().chain(own));
    assert!(said.expect_failure(1, &[&file]).contains("hint: "), "{}", said.stderr);
    let both = host.weft(["overlay", "join", "--dir", "/nowhere", "--etcd", "http://127.0.0.1:2379"]);
    both.expect_failure(2, &["--etcd"]);
    let none = host.weft(["overlay", "join"]);
    none.expect_failure(2, &["--etcd"]);
    assert_eq!(cluster.status(1)["state"], "unjoined");
    // Where nobody says which, and nothing leads to a store, the address that others know is asked for.
    let dir = dir(&cluster).display().to_string();
    let said = host.weft(["overlay", "join", "--dir", &dir]);
    said.expect_failure(1, &["cannot tell which interface leads to other hosts", "--underlay-if"]);
    join(&cluster, 1, &[]).expect_ok();
}
