//! What docs/overlay.md says about who may do what in the store, with the roles as they stand there, and about certificates.

use weft_testkit::{Certificate, Cluster, Output, reaches};

use crate::overlay_agent::{addresses, connected, lost_nothing, pair, pinging};
use crate::overlay_cli::join;

/// Gives users of the store the roles of the page: `h1` may take part, `operator` may do everything.
fn give_roles(cluster: &Cluster) {
    let page = include_str!("../../docs/overlay.md");
    let commands = page.lines().filter_map(|line| line.trim().strip_prefix("$ etcdctl "));
    let mut done = 0;
    for command in
        commands.filter(|command| ["role ", "user ", "auth "].iter().any(|word| command.starts_with(word)))
    {
        cluster.etcd.ctl(command.split_whitespace()).expect_ok();
        done += 1;
    }
    assert!(done > 10, "the page has {done} commands");
}

/// A host joins as this user of the store.
fn join_as(cluster: &Cluster, number: u8, user: &Certificate, more: &[&str]) -> Output {
    let name = format!("h{number}");
    let more = [&["--name", &name], more].concat();
    join(cluster.host(number), &cluster.etcd.url(), &cluster.authority.file(), user, &more)
}

#[test]
fn the_roles_of_the_page_are_enough_for_hosts_and_operators_and_no_more() {
    let mut cluster = Cluster::unjoined(2);
    give_roles(&cluster);
    let user = |name: &str| cluster.authority.certificate(name, &[]);
    let (operator, host, nobody) = (user("operator"), user("h1"), user("nobody"));
    for number in [1, 2] {
        cluster.start(number);
    }
    // Who may take part founds nothing, and whom nobody knows may not even look.
    let hint = "hint: ";
    for user in [&host, &nobody] {
        join_as(&cluster, 1, user, &[]).expect_failure(1, &["permission denied", hint]);
        assert_eq!(cluster.status(1)["state"], "unjoined");
    }
    join_as(&cluster, 1, &operator, &[]).expect_ok();
    let secret = cluster.host(1).path("var/lib/weft/overlay/keys/cluster.secret").display().to_string();
    join_as(&cluster, 2, &nobody, &["--secret", &secret]).expect_failure(1, &["permission denied", hint]);
    join_as(&cluster, 2, &host, &["--secret", &secret]).expect_ok();
    // Networks are the operator's to make.
    let create = ["network", "create", "-d", "overlay", "blue"];
    cluster.host(2).weft(create).expect_failure(1, &["permission denied", hint]);
    assert!(!cluster.etcd.records().contains("/weft/v1/net/blue"));
    cluster.network(1, &["--ipv6", "-o", "encrypted", "blue"]);
    // Blocks, a tunnel, an address of the operator's host, another key.
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    cluster.eventually("they reach each other", || addresses(&green).iter().all(|address| red.ping(address)));
    let taken = addresses(&red)[0].clone();
    let asked = taken
        .rsplit_once('.')
        .map(|(net, last)| format!("{net}.{}", last.parse::<u8>().unwrap() + 9))
        .unwrap();
    let lent = cluster.host(2).container("lent");
    cluster.host(2).weft(["network", "connect", "--ip", &asked, "blue", lent.name()]).expect_ok();
    cluster.eventually("the way to it is known", || red.ping(&asked));
    cluster.host(2).weft(["overlay", "rotate"]).expect_ok();
    cluster.eventually("the other key is in use", || {
        cluster.host(2).sh("ip -6 route show proto 202").expect_ok().contains("weftwgb")
    });
    reaches(&red, addresses(&green));
    // What it may not take away it does not; what is its own it does.
    for (number, container) in [(2, &lent), (2, &green), (1, &red)] {
        cluster.host(number).weft(["network", "disconnect", "blue", container.name()]).expect_ok();
    }
    cluster.eventually("it is told that it may not", || {
        let told = cluster.host(2).weft(["network", "rm", "blue"]);
        told.code == 1 && told.stderr.contains("permission denied")
    });
    assert!(cluster.etcd.records().contains("/weft/v1/net/blue"));
    cluster.host(2).weft(["overlay", "leave"]).expect_ok();
    cluster
        .eventually("h1 is alone", || cluster.status(1)["alive"] == 0 && cluster.status(1)["suspect"] == 0);
    cluster.host(1).weft(["network", "rm", "blue"]).expect_ok();
    assert!(!cluster.etcd.records().contains("/weft/v1/net/blue"));
    cluster.etcd.ctl(["auth", "disable"]).expect_ok();
}

/// A host's certificate runs out. It hears no news and says why, and that is all; the new one needs nobody to start anything.
#[test]
fn a_certificate_that_runs_out_stops_the_news_alone_until_there_is_another() {
    let (mut cluster, red, green) = pair();
    let (good, late) = (cluster.authority.certificate("h1", &[]), cluster.authority.expired("late"));
    let put = |from: &Certificate, to: &Certificate| {
        for (from, to) in [(&from.file, &to.file), (&from.key, &to.key)] {
            std::fs::copy(from, to).unwrap();
        }
    };
    let kept = cluster.authority.certificate("kept", &[]);
    put(&good, &kept);
    let ping = pinging(&red, &addresses(&green)[0]);
    put(&late, &good);
    // A certificate is shown when a connection begins.
    cluster.etcd.stop();
    cluster.etcd.go_on();
    cluster.eventually("h1 says why it hears nothing", || {
        let status = cluster.status(1);
        status["store"]["connected"] == false
            && status["why"].as_str().unwrap_or_default().contains("ertificate")
    });
    cluster.eventually("h2 hears", || cluster.status(2)["store"]["connected"] == true);
    let late = connected(&cluster, 1, "late");
    reaches(&green, addresses(&late));
    put(&kept, &good);
    cluster.eventually("h1 hears again", || cluster.status(1)["state"] == "ready");
    lost_nothing(ping);
}
