//! Which addresses containers of an overlay get: out of their host's blocks, of another one in time, or any that is asked for.

use std::net::Ipv4Addr;
use std::ops::Range;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Container, Host, reaches};

use crate::overlay_agent::{addresses, connected, pair};

/// The IPv4 blocks of a host of network blue.
pub(crate) fn blocks(cluster: &Cluster, number: u8) -> Vec<String> {
    let status = cluster.status(number);
    let blocks = status["networks"][0]["blocks"].as_array().unwrap().clone();
    let v4 = blocks
        .iter()
        .filter_map(|block| block.as_str())
        .filter(|block| block.contains(".") && block.contains("/26"));
    v4.map(String::from).collect()
}

/// Returns an address of a block of 64.
pub(crate) fn nth(block: &str, nth: u32) -> Ipv4Addr {
    let first: Ipv4Addr = block.split('/').next().unwrap().parse().unwrap();
    Ipv4Addr::from_bits(first.to_bits() + nth)
}

fn in_block(block: &str, address: &str) -> bool {
    let address: Ipv4Addr = address.parse().unwrap();
    (nth(block, 0)..=nth(block, 63)).contains(&address)
}

/// Leases of containers that are not there.
pub(crate) fn fill(host: &Host, block: &str, which: Range<u32>) {
    for number in which {
        let lease = format!("var/lib/cni/networks/blue/{}", nth(block, number));
        if !host.path(&lease).exists() {
            host.write(&lease, "somebody\r\neth0");
        }
    }
}

#[test]
fn an_address_may_be_anywhere() {
    let (cluster, red, _green) = pair();
    let host = cluster.host(2);
    let fixed = host.container("fixed");
    let subnet = cluster.status(2)["networks"][0]["subnets"][0].as_str().unwrap().to_owned();
    let network: Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
    let known = cluster.host(2).weft(["network", "inspect", "blue"]).expect_json()[0]["Blocks"].clone();
    let inside = |address: Ipv4Addr| {
        let known = known.as_array().unwrap().iter().filter_map(|block| block["Block"].as_str());
        known.filter(|block| block.contains('.')).any(|block| in_block(block, &address.to_string()))
    };
    let free = (1..10).map(|nth| Ipv4Addr::from_bits(network.to_bits() + 256 * nth + 77));
    let address = free.into_iter().find(|address| !inside(*address)).unwrap().to_string();
    host.weft(["network", "connect", "--ip", &address, "blue", fixed.name()]).expect_ok();
    assert!(addresses(&fixed).contains(&address));
    cluster.eventually("h1 knows the way", || red.ping(&address));
    let usual = host.container("usual");
    host.weft(["network", "connect", "blue", usual.name()]).expect_ok();
    reaches(&red, addresses(&usual));
    let other = cluster.host(1).container("other");
    let taken = cluster.host(1).weft(["network", "connect", "--ip", &address, "blue", other.name()]);
    assert_eq!(taken.code, 4, "{}", taken.stderr);
    host.weft(["network", "disconnect", "blue", fixed.name()]).expect_ok();
}

#[test]
fn a_host_that_fills_up_gets_another_block_in_time() {
    let (cluster, _red, _green) = pair();
    let host = cluster.host(1);
    let [block] = &blocks(&cluster, 1)[..] else { panic!("{:?}", blocks(&cluster, 1)) };
    fill(host, block, 10..60);
    cluster.eventually("another block", || blocks(&cluster, 1).len() == 2);
    cluster.eventually("the plugins know", || {
        let list = host.read("etc/weft/networks.d/blue.conflist");
        blocks(&cluster, 1).iter().all(|block| list.contains(block.as_str()))
    });
    // Everybody knows how full each of them is.
    let [_, other] = &blocks(&cluster, 1)[..] else { panic!("{:?}", blocks(&cluster, 1)) };
    let other = if other == block { &blocks(&cluster, 1)[0] } else { other };
    fill(host, other, 5..12);
    for number in [1, 2] {
        let used = |block: &str| {
            let shown = cluster.host(number).weft(["network", "inspect", "blue"]).expect_json();
            let all = shown[0]["Blocks"].as_array().unwrap().clone();
            all.into_iter().find(|found| found["Block"] == block).unwrap()["Used"].as_u64()
        };
        cluster.eventually("usage", || (used(block), used(other)) == (Some(51), Some(7)));
    }
}

/// The block is used up before the agent has looked: the first container that finds it so waits, and gets its address.
#[test]
fn a_container_that_finds_the_block_used_up_waits_for_another() {
    let (cluster, red, green) = pair();
    let host = cluster.host(1);
    let [block] = &blocks(&cluster, 1)[..] else { panic!("{:?}", blocks(&cluster, 1)) };
    cluster.signal(1, Signal::SIGSTOP);
    fill(host, block, 2..63);
    cluster.signal(1, Signal::SIGCONT);
    let late = host.container("late");
    let output = host.weft(["network", "connect", "blue", late.name()]);
    output.expect_ok();
    assert_eq!(blocks(&cluster, 1).len(), 2, "one block more, not two");
    assert!(!in_block(block, &addresses(&late)[0]));
    cluster.eventually("peers know", || addresses(&late).iter().all(|address| green.ping(address)));
    reaches(&late, addresses(&red));
}

/// Connects a container with this very address.
fn connect(host: &Host, container: &Container, address: &str) -> weft_testkit::Output {
    host.weft(["network", "connect", "--ip", address, "blue", container.name()])
}

/// An address in the block of another host, which gives addresses out without asking anybody: that one lends it first.
#[test]
fn an_address_of_another_hosts_block_is_lent() {
    let (mut cluster, red, green) = pair();
    let [block] = &blocks(&cluster, 2)[..] else { panic!("{:?}", blocks(&cluster, 2)) };
    let address = nth(block, 40).to_string();
    let host = cluster.host(1);
    let fixed = host.container("fixed");
    connect(host, &fixed, &address).expect_ok();
    assert!(addresses(&fixed).contains(&address));
    let late = connected(&cluster, 2, "late");
    cluster.eventually("all know the way", || [&red, &green, &late].iter().all(|from| from.ping(&address)));
    reaches(&fixed, addresses(&green));
    let shown = cluster.host(2).weft(["network", "inspect", "blue"]).expect_json();
    let of =
        shown[0]["Blocks"].as_array().unwrap().iter().find(|one| one["Block"] == format!("{address}/32"));
    let of = of.unwrap_or_else(|| panic!("{shown}"));
    assert_eq!((&of["State"], &of["Host"]), (&"borrowed".into(), &"h1".into()), "{of}");
    // The owner does not give it out, not even when asked for, and not after a restart.
    let owner = cluster.host(2);
    let other = owner.container("other");
    for _ in 0..2 {
        let taken = connect(cluster.host(2), &other, &address);
        assert_ne!(taken.code, 0, "{}", taken.stdout);
        assert!(taken.stderr.contains(&address), "{}", taken.stderr);
        cluster.end(2);
        cluster.start(2);
    }
    let owner = cluster.host(2);
    fill(owner, block, 2..39);
    fill(owner, block, 41..63);
    let next = connected(&cluster, 2, "next");
    assert_ne!(addresses(&next)[0], address, "it is the last that is left, and lent");
    // The agent claims another block meanwhile.
    cluster.eventually("all is as it should be", || {
        blocks(&cluster, 2).len() == 2 && owner.weft(["overlay", "peers", "--verify"]).code == 0
    });
    let diag = owner.weft(["overlay", "diag", &address]);
    assert!(diag.expect_ok().contains("of h1"), "{}", diag.stdout);
    // It comes back when it is given back.
    let lease = owner.path(&format!("var/lib/cni/networks/blue/{address}"));
    assert!(lease.exists());
    let answers = "ip neigh show proxy | grep -c .";
    assert_eq!(owner.sh(answers).stdout.trim(), "1");
    cluster.host(1).weft(["network", "disconnect", "blue", fixed.name()]).expect_ok();
    // As its host does after two minutes.
    let network = cluster.status(1)["networks"][0]["id"].as_str().unwrap().to_owned();
    cluster.etcd.ctl(["del", &format!("/weft/v1/borrow/{network}/{address}")]).expect_ok();
    cluster.eventually("h2 has it again", || !lease.exists() && owner.sh(answers).stdout.trim() == "0");
    cluster.eventually("and may give it out", || connect(owner, &other, &address).code == 0);
    reaches(&red, [&address]);
}

#[test]
fn an_address_that_cannot_be_lent_is_refused_with_the_reason() {
    let (mut cluster, red, green) = pair();
    let [block] = &blocks(&cluster, 2)[..] else { panic!("{:?}", blocks(&cluster, 2)) };
    let taken = addresses(&green).into_iter().find(|address| address.contains('.')).unwrap();
    let host = cluster.host(1);
    let fixed = host.container("fixed");
    let in_use = connect(host, &fixed, &taken);
    in_use.expect_failure(4, &["host h2 does not lend", &taken, "it is in use there", "weft ps, on h2"]);
    assert!(!fixed.has_link("eth0"));
    cluster.eventually("nothing is left", || !cluster.etcd.records().contains("/weft/v1/borrow/"));
    let gateway = nth(block, 1).to_string();
    connect(host, &fixed, &gateway).expect_failure(4, &[&gateway, "gateway"]);
    // An owner that does not answer, and one that nobody has heard of.
    cluster.signal(2, Signal::SIGSTOP);
    let free = nth(block, 40).to_string();
    connect(host, &fixed, &free).expect_failure(1, &["host h2 to lend", &free, "not within"]);
    cluster.signal(2, Signal::SIGCONT);
    cluster.kill(2);
    let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
    let alive = format!("/weft/v1/alive/{}", peers[0]["id"].as_str().unwrap());
    cluster.etcd.ctl(["del", &alive]).expect_ok();
    let host = cluster.host(1);
    connect(host, &fixed, &free).expect_failure(1, &[&free, "h2", "not heard of", "weft overlay forget"]);
    assert!(!cluster.etcd.records().contains("/weft/v1/borrow/"));
    reaches(&red, addresses(&green));
    cluster.start(2);
    cluster.eventually("h2 answers", || connect(cluster.host(1), &fixed, &free).code == 0);
    cluster.eventually("h2 knows the way", || green.ping(&free));
}
