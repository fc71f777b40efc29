//! What takes long, and what cannot be: whoever waits is told so again and again, and whoever is refused is told what to do next.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_testkit::{Cluster, reaches};

use crate::overlay_agent::{addresses, connected, lost_nothing, pair, pinging};

/// A store that takes calls and does not answer them: nobody waits for ever, and what to do next works when it does.
#[test]
fn whoever_joins_by_a_store_that_is_silent_is_told_so() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let id = Pid::from_raw(cluster.etcd.id().cast_signed());
    kill(id, Signal::SIGSTOP).unwrap();
    let said = cluster.join(1);
    kill(id, Signal::SIGCONT).unwrap();
    let hint = "hint: weft overlay status; try again when the store answers";
    said.expect_failure(1, &["weft: asking https://192.0.2.250:2379", "does not answer", hint]);
    assert_eq!(cluster.status(1)["state"], "unjoined");
    cluster.eventually("it answers", || cluster.join(1).code == 0);
}

/// B4: longer than a host's word that it is there is good for.
#[test]
fn a_store_that_is_away_for_longer_than_leases_last_is_not_missed() {
    let (mut cluster, red, green) = pair();
    let before: Vec<String> = keys(&cluster);
    let alive = |cluster: &Cluster| cluster.status(1)["alive"].clone();
    assert_eq!(alive(&cluster), 1);
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.etcd.stop();
    cluster
        .eventually("both know it", || (1..=2).all(|number| cluster.status(number)["state"] == "degraded"));
    let away = std::time::Instant::now();
    let mut nth = 0;
    // A lease is good for 30 s.
    while away.elapsed() < std::time::Duration::from_secs(40) {
        nth += 1;
        let late = connected(&cluster, 1, &format!("late{nth}"));
        reaches(&green, addresses(&late));
        cluster.host(1).weft(["network", "disconnect", "blue", late.name()]).expect_ok();
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    assert!(nth > 2, "{nth} containers came meanwhile");
    cluster.etcd.go_on();
    cluster.eventually("all is as it was", || {
        (1..=2).all(|number| cluster.status(number)["state"] == "ready") && alive(&cluster) == 1
    });
    lost_nothing(ping);
    assert_eq!(keys(&cluster), before);
}

/// The keys that no lease takes.
fn keys(cluster: &Cluster) -> Vec<String> {
    let all = cluster.etcd.records();
    let keys = all.lines().filter(|line| line.starts_with("/weft/v1/") && !line.contains("/alive/"));
    keys.map(str::to_owned).collect()
}

/// Somebody else has the mesh's port: it is named, and the mesh comes when it is free.
#[test]
fn a_port_of_the_mesh_that_somebody_has_is_named() {
    let cluster = Cluster::new(2);
    let host = cluster.host(2);
    let socket = host.inside(|| std::net::UdpSocket::bind("[::]:51820").unwrap());
    let create = ["network", "create", "-d", "overlay", "-o", "encrypted", "dark"];
    cluster.host(1).weft(create).expect_ok();
    cluster.eventually("it is told", || cluster.status(2)["alarms"].to_string().contains("51820"));
    drop(socket);
    cluster.eventually("it is over", || cluster.status(2)["state"] == "ready");
}
