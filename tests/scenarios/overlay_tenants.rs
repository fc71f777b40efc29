//! Networks of a cluster with namespaces of their own: two tenants have the same subnet and the same addresses, and neither hears the other.

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Container, does_not_reach, reaches};

/// The address that a container of either tenant has.
const SAME: &str = "10.5.200.7";

/// A container of a tenant on a host.
fn of(cluster: &Cluster, number: u8, tenant: &str) -> Container {
    cluster.host(number).connected(tenant, &format!("{tenant}-1")).0
}

/// A container of a tenant on the second host, at the address that both tenants have.
fn at_the_same(cluster: &Cluster, tenant: &str) -> Container {
    let container = cluster.host(2).container(&format!("{tenant}-same"));
    cluster.host(2).weft(["network", "connect", "--ip", SAME, tenant, container.name()]).expect_ok();
    container
}

/// Runs a command line where a tenant's devices are.
fn inside(cluster: &Cluster, number: u8, tenant: &str, line: &str) -> String {
    let host = cluster.host(number);
    let place = host.path(&format!("run/weft/overlay/netns/{tenant}"));
    host.sh(&format!("nsenter --net={} {line}", place.display())).expect_ok().to_owned()
}

fn has_place(cluster: &Cluster, number: u8, tenant: &str) -> bool {
    cluster.host(number).path(&format!("run/weft/overlay/netns/{tenant}")).exists()
}

/// Both tenants' containers ask the same address, and each is answered by its own.
#[track_caller]
fn each_hears_its_own(askers: [&Container; 2], answering: [&Container; 2]) {
    for (asker, own) in askers.into_iter().zip(answering) {
        let service = own.serve_tcp(80);
        let answer = asker.ask_tcp(SAME.parse().unwrap(), service.port());
        assert_eq!(answer.unwrap().by, own.name(), "{}", asker.name());
    }
}

#[test]
fn two_tenants_of_a_cluster_have_the_same_addresses() {
    two_tenants(&[]);
}

#[test]
fn two_tenants_of_a_cluster_ride_in_one_mesh() {
    two_tenants(&["-o", "encrypted"]);
}

fn two_tenants(options: &[&str]) {
    let cluster = Cluster::new(2);
    for tenant in ["ten-a", "ten-b"] {
        cluster.network(1, &[options, &["-o", "isolated", "--subnet", "10.5.0.0/16", tenant]].concat());
    }
    // The twin: one that shares the host's namespace may not overlap with another such.
    let open = ["network", "create", "-d", "overlay", "--subnet", "10.6.0.0/16"];
    cluster.host(1).weft(open.into_iter().chain(["open"])).expect_ok();
    cluster.host(1).weft(open.into_iter().chain(["late"])).expect_failure(4, &["10.6.0.0/16", "open"]);
    let [a, b] = ["ten-a", "ten-b"].map(|tenant| of(&cluster, 1, tenant));
    let same_a = at_the_same(&cluster, "ten-a");
    cluster.eventually("the first tenant has it", || a.ping(SAME));
    // Nobody of the second tenant has it yet, so whoever answered would be the first one's.
    does_not_reach(&b, [SAME]);
    let same_b = at_the_same(&cluster, "ten-b");
    cluster.eventually("the second tenant has it", || b.ping(SAME));
    each_hears_its_own([&a, &b], [&same_a, &same_b]);
    assert!(!cluster.host(1).ping(SAME), "the host is in neither");
    repaired(&cluster, &a, &b);
    removed(&cluster, [&a, &b], [&same_a, &same_b]);
}

/// What somebody takes inside of a tenant's namespace comes back, and the other tenant does not notice.
fn repaired(cluster: &Cluster, a: &Container, b: &Container) {
    let vxlan =
        inside(cluster, 1, "ten-a", "ip -o link show type vxlan | cut -d: -f2 | cut -d@ -f1 | tr -d ' '");
    let vxlan = vxlan.trim();
    assert!(!vxlan.is_empty());
    let damages = [
        format!("ip route flush dev {vxlan} proto 201"),
        format!("ip neigh flush dev {vxlan} nud permanent"),
        format!("ip link del {vxlan}"),
    ];
    for damage in damages {
        cluster.signal(1, Signal::SIGSTOP);
        inside(cluster, 1, "ten-a", &damage);
        does_not_reach(a, [SAME]);
        reaches(b, [SAME]);
        cluster.signal(1, Signal::SIGCONT);
        cluster.eventually(&damage, || a.ping(SAME));
    }
}

/// One tenant goes with everything it had on all hosts, and the other stays.
fn removed(cluster: &Cluster, [a, b]: [&Container; 2], [same_a, same_b]: [&Container; 2]) {
    for (number, container) in [(1, a), (2, same_a)] {
        cluster.host(number).weft(["network", "disconnect", "ten-a", container.name()]).expect_ok();
    }
    assert!(has_place(cluster, 1, "ten-a") && has_place(cluster, 2, "ten-a"));
    cluster.eventually("the first one goes", || cluster.host(1).weft(["network", "rm", "ten-a"]).code == 0);
    for number in [1, 2] {
        let host = cluster.host(number);
        cluster.eventually("its namespace goes", || !has_place(cluster, number, "ten-a"));
        assert!(has_place(cluster, number, "ten-b"), "{}", host.name());
    }
    reaches(b, [SAME]);
    reaches(same_b, [&crate::overlay_agent::addresses(b)[0]]);
}

#[test]
fn tenants_are_apart_again_after_a_boot() {
    boots_again(&[]);
}

#[test]
fn tenants_of_a_mesh_are_apart_again_after_a_boot() {
    boots_again(&["-o", "encrypted"]);
}

/// What a reboot takes: processes, devices, namespaces, rules and `/run`.
fn reboot(cluster: &mut Cluster, number: u8, containers: [Container; 2]) {
    cluster.end(number);
    let host = cluster.host(number);
    containers.iter().for_each(Container::vanish);
    let root = host.root().display().to_string();
    host.sh(&format!("kill -9 $(pgrep -f '[r]oot {root} tunnel')"));
    // A namespace ends when nobody is in it any more, and its devices a while later: here they go at once.
    for tenant in ["ten-a", "ten-b"] {
        let vxlan = inside(cluster, number, tenant, "ip -o link show type vxlan | cut -d: -f2 | cut -d@ -f1");
        inside(cluster, number, tenant, &format!("ip link del {}", vxlan.trim()));
    }
    let pins = host.path("run/weft/overlay/netns").display().to_string();
    host.sh(&format!("for pin in {pins}/*; do umount -l $pin || exit; done")).expect_ok();
    // The folder may be a mount, too.
    host.sh(&format!("umount -l {pins}"));
    let devices = host.sh("ip -o link show | grep -o 'weftwg[ab]\\|ovb*[0-9a-f]*:' | tr -d :").stdout;
    devices.split_whitespace().for_each(|device| drop(host.sh(&format!("ip link del {device}"))));
    host.sh(
        "nft flush ruleset; ip route flush proto 201; ip -6 route flush proto 202; rm -r $WEFT_ROOT/run/*",
    )
    .expect_ok();
}

fn boots_again(options: &[&str]) {
    let mut cluster = Cluster::new(2);
    for tenant in ["ten-a", "ten-b"] {
        cluster.network(1, &[options, &["-o", "isolated", "--subnet", "10.5.0.0/16", tenant]].concat());
    }
    let [a, b] = ["ten-a", "ten-b"].map(|tenant| of(&cluster, 1, tenant));
    let [same_a, same_b] = ["ten-a", "ten-b"].map(|tenant| at_the_same(&cluster, tenant));
    for container in [&a, &b] {
        cluster.eventually("each tenant has it", || container.ping(SAME));
    }
    let blocks = |cluster: &Cluster| {
        let status = cluster.status(1);
        status["networks"].as_array().unwrap().iter().map(|one| one["blocks"].clone()).collect::<Vec<_>>()
    };
    let before = blocks(&cluster);
    // The store is away while the host boots.
    cluster.etcd.stop();
    reboot(&mut cluster, 1, [a, b]);
    assert!(["ten-a", "ten-b"].iter().all(|tenant| !has_place(&cluster, 1, tenant)));
    cluster.start(1);
    assert_eq!(cluster.status(1)["state"], "stale");
    assert_eq!(blocks(&cluster), before);
    cluster.eventually("the agent has made what was there", || {
        ["ten-a", "ten-b"].iter().all(|tenant| has_place(&cluster, 1, tenant))
            && cluster.host(1).weft(["overlay", "peers", "--verify"]).code == 0
    });
    let [a, b] = ["ten-a", "ten-b"].map(|tenant| {
        let container = cluster.host(1).container(&format!("{tenant}-again"));
        cluster.host(1).weft(["network", "connect", tenant, container.name()]).expect_ok();
        cluster.eventually("the other host is there", || container.ping(SAME));
        container
    });
    each_hears_its_own([&a, &b], [&same_a, &same_b]);
    assert!(!cluster.host(1).ping(SAME), "the host is in neither");
    cluster.etcd.go_on();
    cluster.eventually("the store is heard of", || cluster.status(1)["state"] == "ready");
    each_hears_its_own([&a, &b], [&same_a, &same_b]);
    removed(&cluster, [&a, &b], [&same_a, &same_b]);
}
