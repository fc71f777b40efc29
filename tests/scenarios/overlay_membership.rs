//! Hosts that come and go many times: what is over is over.

use std::cell::RefCell;
use std::collections::BTreeSet;

use weft_testkit::{Cluster, Host, Snapshot};

use crate::overlay_addresses::blocks;

/// So often two hosts join at the same moment, and leave.
const ROUNDS: usize = 25;

/// The names of what is on a host's disk.
fn on_disk(host: &Host) -> String {
    host.sh(&format!("cd {} && find . | sort", host.root().display())).expect_ok().to_owned()
}

/// What two looks at a host's kernel, and at what its files are, have not in common. What is in files of hosts that stay may change.
fn difference(before: &(Snapshot, String), now: &(Snapshot, String)) -> String {
    let kernel = before.0.difference(&now.0);
    let kernel: Vec<&str> = kernel.lines().filter(|line| !line[1..].starts_with(" file ")).collect();
    let disk = |one: &str, other: &str, sign: &str| {
        let missing = one.lines().filter(|line| !other.lines().any(|found| found == *line));
        missing.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [kernel.join("\n"), disk(&before.1, &now.1, "-").join("\n"), disk(&now.1, &before.1, "+").join("\n")]
        .concat()
}

/// The keys in the store.
fn keys(cluster: &Cluster) -> BTreeSet<String> {
    let all = cluster.etcd.ctl(["get", "--prefix", "--keys-only", "/weft/v1/"]).expect_ok().to_owned();
    all.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A1, again and again: hosts join at the same moment, each with a block of its own, and leave.
#[test]
fn hosts_that_join_and_leave_many_times_leave_nothing_behind() {
    let mut cluster = Cluster::unjoined(3);
    (1..=3).for_each(|number| cluster.start(number));
    cluster.join(1).expect_ok();
    // Whoever signs them does one after another.
    for number in [2, 3] {
        cluster.authority.certificate(&format!("h{number}"), &[]);
    }
    cluster.host(1).weft(["network", "create", "-d", "overlay", "blue"]).expect_ok();
    // The first time some files are made that stay, such as the cluster's secret.
    join_and_leave(&cluster);
    let tidy = |number: u8| (cluster.host(number).snapshot(), on_disk(cluster.host(number)));
    let before = [1, 2, 3].map(tidy);
    let keys_before = keys(&cluster);
    (0..ROUNDS).for_each(|_| join_and_leave(&cluster));
    for (number, before) in (1..=3).zip(&before) {
        // What is kept on the disk is kept a moment later.
        until_equal(&cluster, &format!("h{number} is as before"), || difference(before, &tidy(number)));
    }
    until_equal(&cluster, "the store is as before, but for what is over", || surplus(&cluster, &keys_before));
    assert_eq!(cluster.status(1)["state"], "ready");
}

/// Waits until nothing differs, and tells what does whenever that is something else.
fn until_equal(cluster: &Cluster, what: &str, differs: impl Fn() -> String) {
    let last = RefCell::new(String::new());
    cluster.eventually(what, || {
        let now = differs();
        if last.replace(now.clone()) != now {
            eprintln!("{what}: {now}");
        }
        now.is_empty()
    });
}

/// What the store has more or less than it had, besides that each membership is over and a block of each that nobody gets for a while.
fn surplus(cluster: &Cluster, before: &BTreeSet<String>) -> String {
    let now = keys(cluster);
    let less: Vec<&String> = before.difference(&now).collect();
    let more: Vec<&String> = now.difference(before).collect();
    let of_kind =
        |kind: &str| more.iter().filter(|key| key.starts_with(&format!("/weft/v1/{kind}/"))).count();
    let quarantined = cluster.etcd.records().matches("quarantine\",").count();
    let found = (of_kind("left"), of_kind("block"), more.len(), quarantined);
    let is_as_before = found == (2 * ROUNDS, 2 * ROUNDS, 4 * ROUNDS, 2 * (ROUNDS + 1)) && less.is_empty();
    if is_as_before { String::new() } else { format!("{found:?}, less: {less:?}, more: {more:?}") }
}

fn join_and_leave(cluster: &Cluster) {
    std::thread::scope(|scope| {
        let joining = [2, 3].map(|number| scope.spawn(move || cluster.join(number)));
        for joined in joining {
            joined.join().unwrap().expect_ok();
        }
    });
    let of_each = [1, 2, 3].map(|number| blocks(cluster, number));
    assert!(of_each.iter().all(|blocks| blocks.len() == 1), "{of_each:?}");
    assert_eq!(of_each.iter().flatten().collect::<BTreeSet<_>>().len(), 3, "{of_each:?}");
    let ways = || {
        cluster
            .host(1)
            .sh("ip -4 route show proto 201 | grep via; bridge fdb show | grep 'dst 192.0.2'")
            .stdout
    };
    cluster.eventually("h1 has the ways", || ways().lines().count() == 4);
    for number in [2, 3] {
        cluster.host(number).weft(["overlay", "leave"]).expect_ok();
    }
    cluster.eventually("h1 has no way to the others", || ways().is_empty());
    for number in [2, 3] {
        let left = || cluster.host(number).sh("ip -o -d link; ip route show table all").stdout;
        cluster.eventually("no device", || !left().contains("vxlan") && !left().contains("proto 201"));
    }
}
