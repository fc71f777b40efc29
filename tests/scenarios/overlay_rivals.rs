//! Two hosts have the same block: the store was set back, and gave it out again.

use weft_testkit::{Cluster, reaches};

use crate::overlay_addresses::{blocks, nth};
use crate::overlay_agent::{addresses, connected};

/// Of two claims the earlier is right. Whoever has the later one gives nothing out any more, and gives way when its containers are gone.
#[test]
fn of_two_hosts_with_one_block_the_later_gives_way() {
    let mut cluster = Cluster::unjoined(3);
    cluster.start(1);
    cluster.join(1).expect_ok();
    // Two blocks, and the first host has one of them.
    cluster.network(1, &["--subnet", "10.201.0.0/25", "blue"]);
    let red = connected(&cluster, 1, "red");
    cluster.etcd.back_up("early");
    cluster.start(2);
    cluster.join(2).expect_ok();
    let block = blocks(&cluster, 2)[0].clone();
    let green = connected(&cluster, 2, "green");
    cluster.eventually("they reach each other", || red.ping(&addresses(&green)[0]));
    // The second host sleeps; the store forgets it, and a third one comes.
    cluster.kill(2);
    cluster.etcd.restore("early");
    cluster.etcd.go_on();
    cluster.eventually("h1 is heard of", || cluster.etcd.records().contains("/weft/v1/alive/"));
    cluster.start(3);
    cluster.eventually("h3 joins", || cluster.join(3).code == 0);
    assert_eq!(blocks(&cluster, 3), std::slice::from_ref(&block), "the store has given it out again");
    let pink = cluster.host(3).container("pink");
    let own = nth(&block, 40).to_string();
    cluster.host(3).weft(["network", "connect", "--ip", &own, "blue", pink.name()]).expect_ok();
    // Those who knew the first one keep it.
    reaches(&red, addresses(&green));
    cluster.start(2);
    let key = format!("/weft/v1/block/{}", {
        let all =
            cluster.etcd.ctl(["get", "--prefix", "--keys-only", "/weft/v1/block/"]).expect_ok().to_owned();
        let found = all.lines().find(|line| line.ends_with(&block.replace('/', "-"))).unwrap().to_owned();
        found.trim_start_matches("/weft/v1/block/").to_owned()
    });
    let id = |number: u8| cluster.status(number)["host"]["id"].as_str().unwrap().to_owned();
    let (second, third) = (id(2), id(3));
    let holder = || cluster.etcd.ctl(["get", "--print-value-only", &key]).expect_ok().to_owned();
    cluster.eventually("h2 has it again", || holder().contains(&second) && !holder().contains(&third));
    // The later one is told, and gives nothing out of it any more.
    let host = cluster.host(3);
    let told = format!(
        "network blue: {block} is not this host's any more, and stays on its bridge because 1 containers have addresses of it"
    );
    cluster.eventually("h3 is told", || cluster.status(3)["alarms"].to_string().contains(&told));
    assert_eq!(cluster.status(3)["state"], "degraded");
    assert!(
        host.weft(["overlay", "status"]).stdout.contains("weft network disconnect blue and connect again")
    );
    assert!(blocks(&cluster, 3).is_empty());
    let late = host.container("late");
    let none = host.weft(["network", "connect", "blue", late.name()]);
    assert_ne!(none.code, 0, "{none}: {:?}", late.addresses("eth0"));
    assert!(!late.has_link("eth0"));
    reaches(&red, addresses(&green));
    // The earlier one goes on giving out, and never what a container has.
    let fresh = connected(&cluster, 2, "fresh");
    assert!(![&addresses(&green)[0], &own].contains(&&addresses(&fresh)[0]), "{:?}", addresses(&fresh));
    cluster.eventually("h1 has the way", || red.ping(&addresses(&fresh)[0]));
    // The container goes, and the block with it; the host has the way to it like everybody.
    host.weft(["network", "disconnect", "blue", pink.name()]).expect_ok();
    let bridge = || host.sh("ip -o -4 address show | grep ovb").stdout;
    cluster.eventually("it is on the bridge no more", || !bridge().contains("10.201."));
    let way = || host.sh(&format!("ip -4 route show {block} proto 201")).stdout;
    cluster.eventually("h3 has the way", || way().contains("via"));
    cluster.host(1).weft(["overlay", "peers", "--verify"]).expect_ok();
}
