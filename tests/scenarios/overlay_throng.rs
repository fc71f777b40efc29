//! Many containers at once: nobody is asked for what is known.

use std::cell::Cell;
use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Container, Output, reaches};

use crate::overlay_addresses::{blocks, fill, nth};
use crate::overlay_agent::{addresses, connected};

/// As many containers come to each host.
const CROWD: usize = 100;

/// Nothing more comes when so many looks one after another find the same.
const STEADY: usize = 10;

/// Gives a host two blocks, so that the crowd has room: it gets the second one when the first is nearly used up.
fn make_room(cluster: &Cluster, number: u8) {
    let host = cluster.host(number);
    let own = || blocks(cluster, number);
    let [block] = &own()[..] else { panic!("{:?}", own()) };
    fill(host, block, 10..60);
    cluster.eventually("another block", || own().len() == 2);
    for lease in 10..60 {
        std::fs::remove_file(host.path(&format!("var/lib/cni/networks/blue/{}", nth(block, lease)))).unwrap();
    }
    let list = || host.read("etc/weft/networks.d/blue.conflist");
    cluster.eventually("the plugins know", || own().iter().all(|block| list().contains(block.as_str())));
}

/// A4: nobody asks the store for a container, however many come at once, and everybody reaches them.
#[test]
fn a_crowd_of_containers_asks_the_store_nothing() {
    let cluster = Cluster::new(3);
    cluster.network(1, &["blue"]);
    let firsts = [1, 2, 3].map(|number| connected(&cluster, number, "first"));
    (1..=3).for_each(|number| make_room(&cluster, number));
    let crowd: Vec<(u8, Container)> = (1..=3)
        .flat_map(|number| (0..CROWD).map(move |nth| (number, format!("c{nth}"))))
        .map(|(number, name)| (number, cluster.host(number).container(&name)))
        .collect();
    for (number, first) in (1..=3).zip(&firsts) {
        let routes =
            || cluster.host(number).sh("ip -4 route show proto 201 | grep via").stdout.lines().count();
        cluster.eventually(&format!("all blocks are known to {}", first.name()), || routes() == 4);
    }
    // Agents tell at times that they are there, and how many addresses are in use: they sleep, and whoever asks is a plugin.
    (1..=3).for_each(|number| cluster.signal(number, Signal::SIGSTOP));
    let before = settled(&cluster);
    for output in all_at_once(&cluster, &crowd) {
        output.expect_ok();
    }
    assert_eq!(cluster.etcd.requests(), before);
    let different: BTreeSet<String> = crowd.iter().flat_map(|(_, container)| addresses(container)).collect();
    assert_eq!(different.len(), crowd.len());
    for (_, some) in crowd.iter().step_by(CROWD / 4) {
        for first in &firsts {
            reaches(first, addresses(some));
            reaches(some, addresses(first));
        }
    }
    assert_eq!(cluster.etcd.requests(), before);
    // The twin: agents that say what has become of it are counted.
    (1..=3).for_each(|number| cluster.signal(number, Signal::SIGCONT));
    cluster.eventually("they have told", || {
        cluster.etcd.requests().iter().zip(before).all(|(now, before)| *now > before)
    });
    cluster.eventually("all is well", || (1..=3).all(|number| cluster.status(number)["state"] == "ready"));
}

/// Waits until what was on its way to the store is there, and returns how much it has been asked.
fn settled(cluster: &Cluster) -> [u64; 3] {
    let last = Cell::new(([0; 3], 0));
    cluster.eventually("nothing is on its way to the store", || {
        let (before, times) = last.get();
        let now = cluster.etcd.requests();
        last.set((now, if now == before { times + 1 } else { 0 }));
        last.get().1 == STEADY
    });
    last.get().0
}

/// Connects containers, ten at a time on each host.
fn all_at_once(cluster: &Cluster, crowd: &[(u8, Container)]) -> Vec<Output> {
    let add = |(number, container): &(u8, Container)| {
        cluster.host(*number).weft(["network", "connect", "blue", container.name()])
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = crowd
            .chunks(CROWD / 10)
            .map(|some| scope.spawn(move || some.iter().map(add).collect::<Vec<_>>()))
            .collect();
        running.into_iter().flat_map(|one| one.join().unwrap()).collect()
    })
}
