//! `weft overlay`: hosts join, see each other, leave and are forgotten; what cannot be is refused with the next command.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use weft_testkit::{Authority, Cluster, Host, Output};

/// `weft overlay join` on a host, with the files that are given.
pub(crate) fn join(
    host: &Host,
    url: &str,
    ca: &std::path::Path,
    cert: &weft_testkit::Certificate,
    more: &[&str],
) -> Output {
    let path = |path: &std::path::Path| path.display().to_string();
    let (ca, cert, key) = (path(ca), path(&cert.file), path(&cert.key));
    let words = ["overlay", "join", "--etcd", url, "--ca", &ca, "--cert", &cert, "--key", &key];
    host.weft(words.into_iter().chain(more.iter().copied()))
}

/// Refused as a failure of the request, with these words and a hint.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = output.expect_failure(code, words);
    assert!(said.contains("hint: "), "{said}");
}

/// Sends a line to the agent's socket and returns its first answer; nothing if it hangs up.
fn say(host: &Host, line: &[u8]) -> Option<Value> {
    let mut stream = UnixStream::connect(host.path("run/weft/overlay/agent.sock")).unwrap();
    // Whoever is refused half-way cannot send the rest.
    stream.write_all(line).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok();
    serde_json::from_str(&answer).ok()
}

#[test]
fn hosts_join_and_see_each_other() {
    let mut cluster = Cluster::unjoined(2);
    cluster.start(1);
    assert_eq!(cluster.status(1)["state"], "unjoined");
    let joined = cluster.join(1);
    let id = joined.expect_ok().trim().to_owned();
    assert_eq!(id.len(), 32, "{id}");
    for words in ["asking https://192.0.2.250:2379", "making a new cluster", "joined as h1 at 192.0.2.1"] {
        assert!(joined.stderr.contains(words), "{}", joined.stderr);
    }
    cluster.start(2);
    cluster.join(2).expect_ok();
    cluster.eventually("h1 and h2 know each other", || {
        [1, 2].iter().all(|host| cluster.status(*host)["alive"] == 1)
    });
    let status = cluster.status(2);
    assert_eq!(status["state"], "ready", "{status}");
    assert_eq!(status["host"]["underlay"], serde_json::json!(["192.0.2.2", "2001:db8::2"]));
    assert_eq!(cluster.status(1)["cluster"], status["cluster"]);
    let peers = cluster.host(2).weft(["overlay", "peers"]);
    let table = peers.expect_ok();
    assert!(table.starts_with("HOST ID") && table.contains("h1"), "{table}");
    assert!(table.contains("alive") && table.contains("192.0.2.1, 2001:db8::1"), "{table}");
    assert!(table.contains(&id[..12]) && !table.contains("h2"), "{table}");
    let metrics = cluster.host(2).weft(["overlay", "status", "--metrics"]);
    for line in
        ["weft_overlay_peers{state=\"alive\"} 1", "weft_overlay_store_connected 1", "weft_overlay_stale 0"]
    {
        assert!(metrics.expect_ok().lines().any(|found| found == line), "{line}: {}", metrics.stdout);
    }
    refused(&cluster.join(1), 4, &["this host is one of cluster", "weft overlay leave"]);
}

#[test]
fn what_cannot_join_is_told_why() {
    let mut cluster = Cluster::unjoined(2);
    let host = cluster.host(1);
    let nobody = host.weft(["overlay", "status"]);
    refused(&nobody, 1, &["weftd agent does not run on this host", "systemctl enable --now weft-agent"]);
    cluster.start(1);
    let host = cluster.host(1);
    let (url, ca) = (cluster.etcd.url(), cluster.authority.file());
    let good = cluster.authority.certificate("h1", &[]);

    // Each with the reason, and the next command.
    let look = "openssl x509 -in CERT -noout -dates -subject -ext subjectAltName";
    let ours = [url.as_str(), "ertificate", look];
    refused(&join(host, &url, &ca, &cluster.authority.expired("late"), &[]), 1, &ours);
    let others = Authority::new(&host.path("others"));
    refused(&join(host, &url, &ca, &others.certificate("h1", &[]), &[]), 1, &ours);
    let theirs = [url.as_str(), "invalid peer certificate", look];
    refused(&join(host, &url, &others.file(), &good, &[]), 1, &theirs);
    let nowhere = "https://192.0.2.249:2379";
    let silent = [nowhere, "does not answer", "weft overlay status; try again when the store answers"];
    refused(&join(host, nowhere, &ca, &good, &["--underlay-if", "u0"]), 1, &silent);
    join(host, "http://192.0.2.250:2379", &ca, &good, &[])
        .expect_failure(1, &["without TLS only on this host"]);
    join(host, &url, &host.path("absent"), &good, &[]).expect_failure(1, &["absent"]);
    refused(
        &join(host, &url, &ca, &good, &["--underlay-if", "nope"]),
        2,
        &["there is no interface \"nope\""],
    );
    refused(&join(host, &url, &ca, &good, &["--underlay-ip", "192.0.2.77"]), 2, &["192.0.2.77"]);
    host.write("short", "abc\n");
    host.sh(&format!("chmod 600 {}", host.path("short").display())).expect_ok();
    let short = host.path("short").display().to_string();
    refused(&join(host, &url, &ca, &good, &["--secret", &short]), 1, &["short"]);
    assert_eq!(cluster.etcd.records(), "", "whoever was refused has left nothing");
    assert_eq!(cluster.status(1)["state"], "unjoined");
    cluster.join(1).expect_ok();

    cluster.start(2);
    let host = cluster.host(2);
    host.write("other", format!("{}\n", "x".repeat(40)));
    host.sh(&format!("chmod 600 {}", host.path("other").display())).expect_ok();
    let other = host.path("other").display().to_string();
    let second = cluster.authority.certificate("h2", &[]);
    let secret = ["have another secret", "copy /var/lib/weft/overlay/keys/cluster.secret", "--secret"];
    refused(&join(host, &url, &ca, &second, &["--secret", &other]), 1, &secret);
    // An address that h1 has told everybody is its own.
    host.ip("address add 192.0.2.1/32 dev u0");
    let taken = join(host, &url, &ca, &second, &["--underlay-ip", "192.0.2.1"]);
    refused(&taken, 4, &["192.0.2.1", "h1"]);
    host.ip("address del 192.0.2.1/32 dev u0");
    cluster.join(2).expect_ok();
}

#[test]
fn a_second_agent_is_refused() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let second = cluster.host(1).weftd(["agent"]).run();
    second.expect_failure(1, &["another weftd agent is at work below", "weft overlay status"]);
    assert_eq!(cluster.status(1)["state"], "unjoined", "the first one is not disturbed");
    let said = cluster.end(1);
    assert_eq!(said.code, 0, "{}", said.stderr);
    cluster.start(1);
}

#[test]
fn nonsense_on_the_socket_is_refused_and_disturbs_nobody() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let host = cluster.host(1);
    let long = [vec![b'x'; 200_000], vec![b'\n']].concat();
    for line in [&b"\n"[..], b"{}\n", b"\xff\n", b"{\"version\":1,\"request\":\"sing\"}\n", b"half", &long] {
        let refused = say(host, line).is_none_or(|answer| answer["refused"]["kind"] == "usage");
        assert!(refused, "{:?}", String::from_utf8_lossy(&line[..line.len().min(40)]));
    }
    let newer = say(host, b"{\"version\":9,\"request\":\"status\"}\n").unwrap();
    assert!(newer["refused"]["hint"].as_str().unwrap().contains("systemctl restart weft-agent"), "{newer}");
    let answer = say(host, b"{\"version\":1,\"request\":\"status\"}\n").unwrap();
    assert_eq!(answer["done"]["state"], "unjoined", "{answer}");
    let mode = host.sh(&format!("stat -c %a {}", host.path("run/weft/overlay/agent.sock").display()));
    assert_eq!(mode.expect_ok().trim(), "600");
}

#[test]
fn a_host_leaves_and_comes_back_as_another() {
    let mut cluster = Cluster::new(2);
    cluster.network(1, &["blue"]);
    let red = cluster.host(2).container("red");
    cluster.host(2).weft(["network", "connect", "blue", red.name()]).expect_ok();
    let first = cluster.status(2)["host"]["id"].as_str().unwrap().to_owned();

    let busy = cluster.host(2).weft(["overlay", "leave"]);
    refused(
        &busy,
        4,
        &["container h2-red is connected to network blue", "weft network disconnect blue h2-red"],
    );
    cluster.host(2).weft(["network", "disconnect", "blue", red.name()]).expect_ok();
    assert!(cluster.host(2).ruleset().contains("weft_tunnels"), "{}", cluster.host(2).ruleset());
    cluster.host(2).weft(["overlay", "leave"]).expect_ok();
    assert_eq!(cluster.status(2)["state"], "unjoined");
    assert!(!cluster.host(2).ruleset().contains("weft_tunnels"), "{}", cluster.host(2).ruleset());
    assert!(!cluster.host(2).sh("ip -d link").stdout.contains("vxlan"));
    cluster
        .eventually("blue is gone from h2", || cluster.host(2).weft(["network", "exists", "blue"]).code == 3);
    cluster.eventually("h1 has dropped h2", || {
        let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
        peers.as_array().unwrap().is_empty()
    });
    assert_eq!(cluster.host(1).weft(["network", "exists", "blue"]).code, 0);
    cluster.host(2).weft(["overlay", "leave"]).expect_failure(3, &["this host is of no cluster"]);

    cluster.join(2).expect_ok();
    assert_ne!(cluster.status(2)["host"]["id"], first.as_str());
    cluster
        .eventually("blue is on h2 again", || cluster.host(2).weft(["network", "exists", "blue"]).code == 0);
    let said = cluster.end(2);
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn a_dead_host_is_forgotten_and_a_living_one_is_not() {
    let mut cluster = Cluster::new(3);
    cluster.network(1, &["blue"]);
    let host = cluster.host(1);
    refused(&host.weft(["overlay", "forget", "h2"]), 4, &["host h2 (", "is alive"]);
    host.weft(["overlay", "forget", "h1"]).expect_failure(2, &["h1 is this host"]);
    refused(&host.weft(["overlay", "forget", "nobody"]), 3, &["no such host: nobody", "weft overlay peers"]);
    cluster.kill(2);
    cluster.host(1).weft(["overlay", "forget", "-f", "h2"]).expect_ok();
    for number in [1, 3] {
        cluster.eventually("h2 is dropped", || {
            let peers = cluster.host(number).weft(["overlay", "peers", "--format", "json"]).expect_json();
            peers.as_array().unwrap().iter().all(|peer| peer["name"] != "h2")
        });
    }
    let blocks = cluster.host(1).weft(["network", "inspect", "blue"]).expect_json();
    let blocks = blocks[0]["Blocks"].as_array().unwrap();
    let states: Vec<&str> = blocks.iter().map(|block| block["State"].as_str().unwrap()).collect();
    assert!(states.contains(&"quarantine") && states.contains(&"active"), "{states:?}");
    // It was forgotten while it slept: it says so, and does not take part.
    cluster.start(2);
    cluster.eventually("h2 notices", || cluster.status(2)["state"] == "degraded");
    let why = cluster.status(2)["why"].as_str().unwrap().to_owned();
    assert!(why.contains("weft overlay leave"), "{why}");
}

#[test]
fn keys_of_encrypted_networks_are_replaced() {
    let cluster = Cluster::new(2);
    let host = cluster.host(1);
    refused(&host.weft(["overlay", "rotate"]), 3, &["the cluster has no encrypted network"]);
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let [red, green] = [1, 2].map(|number| {
        let container = cluster.host(number).container("c");
        cluster.host(number).weft(["network", "connect", "blue", container.name()]).expect_ok();
        container
    });
    let address = green.addresses("eth0")[0].split('/').next().unwrap().to_owned();
    cluster.eventually("containers reach each other", || red.ping(&address));
    let diag = host.weft(["overlay", "diag", &address]);
    for link in ["mesh", "tunnel", "handshake"] {
        assert!(
            diag.expect_ok().lines().any(|line| line.starts_with(link) && line.contains("ok")),
            "{}",
            diag.stdout
        );
    }
    let slots = || -> Vec<String> {
        let peers = cluster.host(2).weft(["overlay", "peers", "--format", "json"]).expect_json();
        let tunnels = peers[0]["tunnels"].as_array().unwrap().clone();
        tunnels.iter().map(|tunnel| tunnel["slot"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(slots(), ["A"]);
    host.weft(["overlay", "rotate"]).expect_ok();
    refused(&host.weft(["overlay", "rotate"]), 4, &["a key is being replaced already"]);
    cluster.eventually("h2 has a tunnel by the new key", || slots().contains(&"B".to_owned()));
    assert!(red.ping(&address));

    // A host that leaves takes its keys and tunnels along.
    let left = || {
        let links = host.sh("ip -o link show").expect_ok().matches("weftwg").count();
        let keys = ["a.key", "b.key"].map(|key| host.path(&format!("var/lib/weft/overlay/keys/wg-{key}")));
        let known = host.path("var/lib/weft/overlay/wg.json").exists();
        (links > 0, keys.iter().any(|key| key.exists()), known)
    };
    assert_eq!(left(), (true, true, true));
    host.weft(["network", "disconnect", "blue", red.name()]).expect_ok();
    host.weft(["overlay", "leave"]).expect_ok();
    assert_eq!(left(), (false, false, false));
}

#[test]
fn networks_that_cannot_be_are_refused_and_leave_nothing() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["--subnet", "10.200.0.0/16", "-o", "vni=4711", "blue"]);
    let host = cluster.host(1);
    host.sh("ip link add foreign type vxlan id 4712 dstport 4789 local 192.0.2.1 nolearning && ip link set foreign up")
        .expect_ok();
    host.ip("route add 10.77.0.0/16 dev u0");
    let before = cluster.etcd.records();
    let free = "leave --subnet out to get a free one";
    for (words, code, parts) in [
        (&["--subnet", "10.200.4.0/24", "red"][..], 4, &["10.200.4.0/24", "blue", free][..]),
        (&["--subnet", "192.0.0.0/16", "red"], 4, &["192.0.0.0/16", free]),
        (&["--subnet", "10.77.1.0/24", "red"], 4, &["overlaps the host's route 10.77.0.0/16"]),
        (&["-o", "vni=4711", "red"], 4, &["VNI 4711 belongs to another network", "give no VNI"]),
        (
            &["-o", "vni=4712", "red"],
            4,
            &["VNI 4712", "is taken by VXLAN device foreign", "ip link delete foreign"],
        ),
        (&["-o", "vni=0", "red"], 2, &["option vni", "1 to 16777215"]),
        (&["-o", "mtu=9000", "red"], 4, &["9000", "1500", "raise the underlay's MTU"]),
        (&["--ipv6", "-o", "mtu=1200", "red"], 4, &["1200 is less than the 1280", "give another -o mtu"]),
        (&["-o", "mtu=many", "red"], 2, &["option mtu"]),
        (&["-o", "encrypted=perhaps", "red"], 2, &["option encrypted", "true or false"]),
        (&["-o", "colour=red", "red"], 2, &["colour"]),
        (&["--gateway", "10.201.0.1", "--subnet", "10.201.0.0/16", "red"], 2, &["--gateway"]),
    ] {
        let create = ["network", "create", "-d", "overlay"];
        let output = host.weft(create.iter().chain(words).copied());
        assert_eq!(output.code, code, "{words:?}: {}", output.stderr);
        assert!(parts.iter().all(|part| output.stderr.contains(part)), "{words:?}: {}", output.stderr);
        host.weft(["network", "exists", "red"]).expect_failure(3, &[]);
    }
    let networks = |records: &str| records.lines().filter(|line| line.starts_with("/weft/v1/net/")).count();
    assert_eq!(networks(&cluster.etcd.records()), networks(&before));
    host.weft(["network", "create", "-d", "overlay", "red"]).expect_ok();
}
