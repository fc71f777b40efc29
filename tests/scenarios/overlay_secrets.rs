//! What protects encrypted networks is on the hosts, for their administrators alone, and nowhere else.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use weft_overlay::ids::PublicKey;
use weft_testkit::{Cluster, Host, does_not_reach, reaches};
use weft_tunnel::{ClusterSecret, SecretKey};

use crate::overlay_agent::addresses;
use crate::overlay_cli::join;
use crate::overlay_tunnel::CANARY;

const KEYS: &str = "var/lib/weft/overlay/keys";

/// All files below a folder.
fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// The files below a folder, and what they hold up to the zeros at their end, of which a journal has many.
fn contents(below: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    files(below, &mut all);
    let read = |path: PathBuf| {
        // Whatever goes away meanwhile holds nothing any more.
        let mut bytes = fs::read(&path).unwrap_or_default();
        let last = bytes.chunks(4096).rposition(|chunk| chunk.iter().any(|byte| *byte != 0));
        bytes.truncate(last.map_or(0, |last| (last + 1) * 4096));
        (path, bytes)
    };
    all.into_iter().map(read).collect()
}

/// The files that hold this.
fn holders(all: &[(PathBuf, Vec<u8>)], what: &[u8]) -> Vec<PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(what.len()).any(|part| part == what);
    all.iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| path.clone()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A host's private keys.
fn private_keys(host: &Host) -> Vec<SecretKey> {
    let names = ["wg-a.key", "wg-b.key"].map(|name| host.path(&format!("{KEYS}/{name}")));
    let there = names.iter().filter(|path| path.exists());
    there.map(|path| fs::read_to_string(path).unwrap().trim().to_owned().try_into().unwrap()).collect()
}

#[test]
fn what_is_secret_stays_on_the_hosts_and_with_root() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["-o", "encrypted", "dark"]);
    let [(red, _), (_green, to_green)] =
        [(1, "red"), (2, "green")].map(|(number, name)| cluster.host(number).connected("dark", name));
    reaches(&red, &to_green);
    cluster.host(1).weft(["overlay", "rotate"]).expect_ok();
    let keys = |number| private_keys(cluster.host(number));
    cluster.eventually("both have two keys", || [1, 2].iter().all(|number| keys(*number).len() == 2));
    reaches(&red, &to_green);
    let secret = cluster.host(1).path(&format!("{KEYS}/cluster.secret"));
    let text = fs::read_to_string(&secret).unwrap().trim().to_owned();
    let own = keys(1);
    let public = |keys: &[SecretKey]| keys.iter().map(SecretKey::public).collect::<Vec<PublicKey>>();
    let (of_one, of_two) = (public(&own), public(&keys(2)));
    let told = |key: &PublicKey| cluster.etcd.records().contains(&key.to_string());
    cluster.eventually("all public keys are told", || of_one.iter().chain(&of_two).all(told));
    let pairs: Vec<SecretKey> = {
        let secret = ClusterSecret::read(&secret).unwrap();
        of_one.iter().zip(&of_two).map(|(one, two)| secret.of_pair(one, two)).collect()
    };
    // As text, and as the bytes that it stands for.
    let mut secrets = vec![text.into_bytes()];
    for key in own.iter().chain(&keys(2)).chain(&pairs) {
        secrets.push(key.bytes().to_vec());
        secrets.push(String::from(key.clone()).into_bytes());
    }
    let store = contents(&cluster.underlay.lab().path("etcd"));
    for what in &secrets {
        assert_eq!(holders(&store, what), Vec::<PathBuf>::new(), "the store has a secret");
    }
    // The positive twin: it is sought where public keys are found.
    for key in of_one.iter().chain(&of_two) {
        assert!(!holders(&store, key.to_string().as_bytes()).is_empty(), "{key}");
    }
    for host in cluster.underlay.hosts() {
        let (all, mut found) = (contents(host.root()), Vec::new());
        for what in &secrets {
            found.extend(holders(&all, what));
        }
        found.sort();
        found.dedup();
        // The cluster's secret and two keys, whatever drives the tunnels.
        assert!(found.len() >= 3, "{found:?}");
        for path in &found {
            assert_eq!(mode(path), 0o600, "{}", path.display());
        }
        assert_eq!(mode(&host.path(KEYS)), 0o700);
        for words in [&["overlay", "status"][..], &["overlay", "peers"], &["overlay", "status", "--metrics"]]
        {
            let said = host.weft(words.iter().copied()).expect_ok().to_owned();
            let is_told = |what: &Vec<u8>| said.as_bytes().windows(what.len()).any(|part| part == what);
            assert!(!secrets.iter().any(is_told), "{words:?} tells a secret");
        }
    }
}

/// It takes part in what needs no secret, is told what is missing, and lets nothing out meanwhile.
#[test]
fn a_host_without_the_secret_has_all_networks_but_encrypted_ones() {
    let mut cluster = Cluster::unjoined(2);
    cluster.start(1);
    cluster.join(1).expect_ok();
    cluster.start(2);
    let own = cluster.authority.certificate("h2", &[]);
    let bare = join(cluster.host(2), &cluster.etcd.url(), &cluster.authority.file(), &own, &["--name", "h2"]);
    bare.expect_ok();
    cluster.network(1, &["blue"]);
    let create = ["network", "create", "-d", "overlay", "-o", "encrypted", "dark"];
    cluster.host(1).weft(create).expect_ok();
    let missing = "this host has no cluster secret: weft overlay leave, and join with --secret";
    cluster
        .eventually("h2 says what is missing", || cluster.status(2)["alarms"].to_string().contains(missing));
    let host = cluster.host(2);
    assert!(!host.path(&format!("{KEYS}/cluster.secret")).exists());
    assert!(!host.has_link("weftwga") && !host.path(&format!("{KEYS}/wg-a.key")).exists());
    let (red, to_red) = cluster.host(1).connected("blue", "red");
    let (green, to_green) = host.connected("blue", "green");
    cluster.eventually("blue is whole", || red.ping(&to_green[0]) && green.ping(&to_red[0]));
    // A container that would reach nobody is refused, and nothing of it stays.
    let (hidden, to_hidden) = cluster.host(1).connected("dark", "hidden");
    let late = host.container("late");
    let pairs = || host.sh("ip -o link show type veth").expect_ok().lines().count();
    let before = pairs();
    let refused = host.weft(["network", "connect", "dark", late.name()]);
    let parts = [
        "network dark cannot be on this host: it is encrypted, and this host has no cluster secret",
        "hint: weft overlay leave, and join with --secret",
    ];
    assert_ne!(refused.code, 0, "{refused}");
    assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{refused}");
    assert!(!late.has_link("eth0"));
    assert_eq!(pairs(), before);
    let traces = host.sh("grep -rls h2-late $WEFT_ROOT/var/lib $WEFT_ROOT/run");
    assert_eq!(traces.stdout, "");
    // One that came before the secret was lost lets nothing out, and can go.
    let lost = host.path(&format!("{KEYS}/cluster.secret"));
    cluster.signal(2, Signal::SIGSTOP);
    fs::create_dir_all(host.path(KEYS)).unwrap();
    fs::copy(cluster.host(1).path(&format!("{KEYS}/cluster.secret")), &lost).unwrap();
    host.weft(["network", "connect", "dark", late.name()]).expect_ok();
    fs::remove_file(&lost).unwrap();
    cluster.signal(2, Signal::SIGCONT);
    let capture = cluster.underlay.capture();
    let socket = late.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for _ in 0..20 {
        socket.send_to(CANARY, (to_hidden[0].as_str(), 9)).ok();
    }
    does_not_reach(&late, &to_hidden);
    assert_eq!(capture.stop_and_count(CANARY), 0);
    host.weft(["network", "disconnect", "dark", late.name()]).expect_ok();
    // The twin: what is sent in blue is seen.
    let capture = cluster.underlay.capture();
    let socket = green.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.send_to(CANARY, (to_red[0].as_str(), 9)).unwrap();
    reaches(&green, &to_red);
    assert_ne!(capture.stop_and_count(CANARY), 0);
    cluster.eventually("h1 has a mesh", || cluster.host(1).has_link("weftwga"));
    // What the page says then.
    host.weft(["network", "disconnect", "blue", green.name()]).expect_ok();
    host.weft(["overlay", "leave"]).expect_ok();
    cluster.join(2).expect_ok();
    cluster.eventually("dark is on h2", || host.weft(["network", "exists", "dark"]).code == 0);
    let (seen, to_seen) = host.connected("dark", "seen");
    cluster.eventually("dark is whole", || hidden.ping(&to_seen[0]));
    reaches(&seen, addresses(&hidden));
}
