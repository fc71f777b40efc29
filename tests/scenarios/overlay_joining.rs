//! What keeps a host from joining, or from a network of the cluster it joins: each with the reason and the next command, word for word.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_testkit::{Cluster, Host, Output, staged};

/// How etcd is given with TLS.
const WHOLE: &str = "hint: weft overlay join --etcd https://ADDRESS:2379 --ca FILE --cert FILE --key FILE";

/// Runs `weft overlay join` with these words, and returns what it complains of: the reason and the hint.
#[track_caller]
fn refused(host: &Host, words: &[&str]) -> [String; 2] {
    let said = host.weft(["overlay", "join"].into_iter().chain(words.iter().copied()));
    assert_eq!(said.code, 1, "{words:?}: {said}");
    let mut lines = said.stderr.lines().map(str::to_owned);
    let all = [lines.next().unwrap_or_default(), lines.next().unwrap_or_default()];
    assert_eq!(lines.next(), None, "{words:?}: {said}");
    all
}

/// The words that lead to a cluster's store, with a certificate.
fn words(cluster: &Cluster, number: u8) -> Vec<String> {
    let own = cluster.authority.certificate(&format!("h{number}"), &[]);
    let path = |path: &std::path::Path| path.display().to_string();
    let files = [path(&cluster.authority.file()), path(&own.file), path(&own.key)];
    let [ca, cert, key] = files;
    ["--etcd", &cluster.etcd.url(), "--ca", &ca, "--cert", &cert, "--key", &key].map(str::to_owned).into()
}

#[test]
fn settings_that_cannot_lead_to_a_store_are_named() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let host = cluster.host(1);
    let all = words(&cluster, 1);
    let [_, url, _, ca, _, cert, _, key] = &all[..] else { panic!() };
    let (ca, cert, key) = (ca.as_str(), cert.as_str(), key.as_str());
    let plain = url.replace("https", "http");
    let (absent, no_pem) =
        (host.path("absent").display().to_string(), host.path("no-pem").display().to_string());
    host.write("no-pem", "hello\n");
    let look = "hint: ls -l FILE; head -1 FILE tells what is in it, and docs/overlay.md how it is made";
    let files = ["--cert", cert, "--key", key];
    let with =
        |first: &[&str], rest: &[&str]| refused(host, &[first, rest, &["--underlay-if", "u0"]].concat());
    for (words, why, hint) in [
        (vec!["--etcd", &plain], format!("{plain}: without TLS only on this host"), WHOLE),
        (
            [&["--etcd", "http://127.0.0.1:2379", "--ca", ca][..], &files].concat(),
            "http://127.0.0.1:2379: http:// is without TLS, and --ca, --cert and --key are for it".into(),
            WHOLE,
        ),
        (
            [&["--etcd", url][..], &files].concat(),
            "--ca: https:// needs the certificate of who signs the servers' certificates".into(),
            WHOLE,
        ),
        (
            vec!["--etcd", url, "--etcd", &plain, "--ca", ca],
            format!("{plain}: without TLS only on this host"),
            WHOLE,
        ),
        (
            [&["--etcd", url, "--ca", &absent][..], &files].concat(),
            format!("{absent}: No such file or directory (os error 2)"),
            look,
        ),
        (
            [&["--etcd", url, "--ca", &no_pem][..], &files].concat(),
            format!("{no_pem}: there is no CERTIFICATE in it; PEM is expected"),
            look,
        ),
        (
            vec!["--etcd", url, "--ca", ca, "--cert", cert, "--key", cert],
            format!("{cert}: there is no PRIVATE KEY in it; PEM is expected"),
            look,
        ),
    ] {
        assert_eq!(with(&words, &[]), [format!("weft: {why}"), hint.into()]);
    }
    assert_eq!(cluster.etcd.records(), "", "whoever was refused has left nothing");
    assert_eq!(cluster.status(1)["state"], "unjoined");
    cluster.join(1).expect_ok();
}

/// An underlay whose packets hold nothing of a network's. The twin: one that holds the least there may be.
#[test]
fn an_underlay_that_nothing_fits_into_is_refused() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let host = cluster.host(1);
    let all = words(&cluster, 1);
    let words: Vec<&str> = all.iter().map(String::as_str).collect();
    host.set_mtu(cluster.underlay.lab(), 625);
    let told = refused(host, &words);
    let why = "weft: interface u0 has an MTU of 625, and networks need at least 626 of it";
    assert_eq!(told, [why, "hint: ip link set u0 mtu 1500"]);
    assert_eq!(cluster.etcd.records(), "");
    assert_eq!(cluster.status(1)["state"], "unjoined");
    host.set_mtu(cluster.underlay.lab(), 626);
    cluster.join(1).expect_ok();
    cluster.network(1, &["blue"]);
    let (red, _) = cluster.host(1).connected("blue", "red");
    assert_eq!(red.link("eth0")["mtu"], 576);
}

/// Has a host join, and returns what it is told. A busy machine may take so long that something of the networks is open in the end: then it
/// leaves, and joins again.
fn joined_in_time(cluster: &Cluster, number: u8) -> Output {
    for _ in 0..5 {
        let joined = cluster.join(number);
        joined.expect_ok();
        if !joined.stderr.contains("\nweft: not known yet of ") {
            return joined;
        }
        cluster.host(number).weft(["overlay", "leave"]).expect_ok();
    }
    panic!("something is open each time");
}

/// The host joins, and has all networks but those that it cannot have; which these are, and why, is told at once.
#[test]
fn networks_that_a_joining_host_cannot_have_are_named() {
    let mut cluster = Cluster::unjoined(2);
    cluster.start(1);
    cluster.join(1).expect_ok();
    for (name, words) in [
        ("blue", &["-o", "vni=4711"][..]),
        ("elsewhere", &["--subnet", "10.200.0.0/16"]),
        ("green", &["-o", "vni=4712"]),
        ("large", &["--ipv6"]),
        // One block, and the first host has it.
        ("small", &["--subnet", "10.201.0.0/26"]),
    ] {
        cluster.network(1, &[words, &[name]].concat());
    }
    let host = cluster.host(2);
    host.set_mtu(cluster.underlay.lab(), 1300);
    host.ip("link add foreign type vxlan id 4711 dstport 4789 local 192.0.2.2 nolearning");
    host.ip("link set foreign up");
    host.ip("route add 10.200.7.0/24 via 192.0.2.1");
    cluster.start(2);
    let joined = joined_in_time(&cluster, 2);
    let told: Vec<&str> = joined.stderr.lines().filter(|line| line.starts_with("weft: network ")).collect();
    let is_not = |network: &str| format!("weft: network {network} is not to be had on this host: ");
    let expected = [
        ("blue", "VNI 4711 on UDP port 4789 is taken by VXLAN device foreign", "ip link delete foreign"),
        (
            "elsewhere",
            "subnet 10.200.0.0/16 overlaps 10.200.7.0/24 of this host, by u0",
            "take that route away",
        ),
        ("large", "an MTU of 1250 is less than the 1280 that the network needs", "raise the underlay's MTU"),
        (
            "small",
            "network small has no free block of IPv4",
            "weft network inspect shows who has which block; weft overlay forget HOST frees those of a dead host",
        ),
    ];
    assert_eq!(told.len(), expected.len(), "{}", joined.stderr);
    for (network, why, mend) in expected {
        let line = told.iter().find(|line| line.starts_with(&is_not(network)));
        let line = line.unwrap_or_else(|| panic!("{network}: {}", joined.stderr));
        assert!(line.contains(why) && line.contains(mend), "{line}");
    }
    let host = cluster.host(2);
    assert_eq!(host.weft(["network", "exists", "green"]).code, 0, "{}", joined.stderr);
    // Nothing is left over to give out: whoever asks is told so, and has nothing of it.
    let red = host.container("red");
    let none = host.weft(["network", "connect", "small", red.name()]);
    none.expect_failure(3, &["small"]);
    assert!(!red.has_link("eth0"));
    // A device that has the whole port.
    host.ip("link delete foreign");
    cluster.eventually("blue comes", || host.weft(["network", "exists", "blue"]).code == 0);
    host.weft(["overlay", "leave"]).expect_ok();
    host.ip("link add foreign type vxlan external dstport 4789");
    host.ip("link set foreign up");
    let joined = joined_in_time(&cluster, 2);
    let line = joined.stderr.lines().find(|line| line.starts_with(&is_not("blue"))).unwrap_or_default();
    assert!(line.contains("UDP port 4789, which ov1267 needs, is taken: ss "), "{}", joined.stderr);
}

/// A host that runs out of addresses when no block is left.
#[test]
fn a_network_without_a_free_block_is_told_of() {
    let cluster = Cluster::new(2);
    // Two blocks, one for each host.
    cluster.network(1, &["--subnet", "10.201.0.0/25", "small"]);
    let host = cluster.host(1);
    let status = cluster.status(1);
    let block = status["networks"][0]["blocks"][0].as_str().unwrap().to_owned();
    let first: std::net::Ipv4Addr = block.split('/').next().unwrap().parse().unwrap();
    // A network without containers is cleared of leases that are nobody's. The first one has the first address.
    host.connected("small", "first");
    for nth in 3..63 {
        let lease =
            format!("var/lib/cni/networks/small/{}", std::net::Ipv4Addr::from_bits(first.to_bits() + nth));
        host.write(&lease, "somebody\r\neth0");
    }
    let red = host.container("red");
    let full = host.weft(["network", "connect", "small", red.name()]);
    let parts = [
        "network small has no free block of IPv4: each of its subnets is shared out among hosts, or in quarantine",
        ": weft network inspect shows who has which block; weft overlay forget HOST frees those of a dead host",
    ];
    full.expect_failure(1, &parts);
    assert!(!red.has_link("eth0"));
    // The twin: a lease less.
    let lease = format!("var/lib/cni/networks/small/{}", std::net::Ipv4Addr::from_bits(first.to_bits() + 40));
    std::fs::remove_file(host.path(&lease)).unwrap();
    host.weft(["network", "connect", "small", red.name()]).expect_ok();
}

/// Whoever waits for a silent store is told so again and again, and in the end how it went.
#[test]
fn whoever_waits_is_told_so_again_and_again() {
    let mut cluster = Cluster::unjoined(1);
    cluster.start(1);
    let id = Pid::from_raw(cluster.etcd.id().cast_signed());
    let still =
        |said: &str| said.lines().filter(|line| line.starts_with("weft: still asking https://")).count();
    kill(id, Signal::SIGSTOP).unwrap();
    let silent = cluster.join(1);
    kill(id, Signal::SIGCONT).unwrap();
    silent.expect_failure(
        1,
        &["does not answer", "hint: weft overlay status; try again when the store answers"],
    );
    assert!(still(&silent.stderr) >= 2, "{}", silent.stderr);
    // It answers once somebody was told. A busy machine may take so long to see it that join gives up first.
    let line = format!(
        "{} overlay join --name h1 {} 2> {}",
        staged("weft").display(),
        words(&cluster, 1).join(" "),
        cluster.host(1).path("heard").display()
    );
    let patient = || {
        cluster.host(1).write("heard", "");
        kill(id, Signal::SIGSTOP).unwrap();
        let joined = std::thread::scope(|scope| {
            let joined = scope.spawn(|| cluster.host(1).sh(&line));
            cluster.eventually("it is told", || still(&cluster.host(1).read("heard")) > 0);
            kill(id, Signal::SIGCONT).unwrap();
            joined.join().unwrap()
        });
        (joined.code == 0).then(|| cluster.host(1).read("heard"))
    };
    let said = std::iter::repeat_with(patient).take(10).flatten().next().expect("it gives up each time");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("weft: joined as h1 at 192.0.2.1"), "{said}");
}
