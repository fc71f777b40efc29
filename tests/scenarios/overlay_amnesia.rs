//! What a host loses of what it was told, or the store of what it was told by a host: nothing that runs goes by it, and it is said
//! until it is there again.

use std::path::Path;

use weft_testkit::{Background, Cluster, Host, Output, Program, reaches, skip_unless};

use crate::overlay_agent::{addresses, connected, lost_nothing, pair, pinging};
use crate::overlay_cli::join;

const MEMBERSHIP: &str = "var/lib/weft/overlay/membership.json";

/// The keys of the store that hold what a host claims.
fn claims(cluster: &Cluster, host: &str) -> Vec<String> {
    let all = cluster.etcd.records();
    let lines: Vec<&str> = all.lines().collect();
    let own = |pair: &&[&str]| {
        let kinds = ["/block/", "/member/", "/host/", "/underlay/", "/mesh/"];
        kinds.iter().any(|kind| pair[0].contains(kind)) && pair.concat().contains(host)
    };
    lines.chunks(2).filter(own).map(|pair| pair[0].to_owned()).collect()
}

fn own_id(cluster: &Cluster, number: u8) -> String {
    cluster.status(number)["host"]["id"].as_str().unwrap().to_owned()
}

fn routes(host: &Host) -> String {
    host.sh("ip -4 route show proto 201; ip -6 route show proto 201; ip -o link show type vxlan").stdout
}

#[test]
fn a_damaged_membership_ends_nothing_and_loses_nothing() {
    let (mut cluster, red, green) = pair();
    let good = cluster.host(1).read(MEMBERSHIP);
    let before = routes(cluster.host(1));
    assert!(before.contains("via"), "{before}");
    let ping = pinging(&red, &addresses(&green)[0]);
    for damaged in [
        "",
        "{",
        &good[..good.len() / 2],
        "\u{fffd}\0",
        "[]",
        "{\"schema\":1}",
        &good.replace("\"schema\":1", "\"schema\":99"),
        &good.replace("\"host\":\"", "\"host\":\"x"),
    ] {
        cluster.end(1);
        cluster.host(1).write(MEMBERSHIP, damaged);
        cluster.start(1);
        let host = cluster.host(1);
        let status = cluster.status(1);
        let why = status["why"].as_str().unwrap_or_default();
        assert_eq!(status["state"], "degraded", "{damaged:?}: {status}");
        for part in ["membership.json", "systemctl restart weft-agent", "weft overlay leave -f"] {
            assert!(why.contains(part), "{damaged:?}: {why}");
        }
        assert_eq!(routes(host), before, "{damaged:?}");
        assert_eq!(host.weft(["network", "exists", "blue"]).code, 0, "{damaged:?}");
        let apply = host.weft(["overlay", "apply"]);
        assert_ne!(apply.code, 0, "{apply}");
        cluster.join(1).expect_failure(4, &["membership.json", "hint: weft overlay leave -f"]);
        assert_eq!(host.read(MEMBERSHIP), damaged, "what may be mended by hand is left alone");
    }
    // Nobody waits for whoever writes into a pipe, the plugin included.
    cluster.end(1);
    let path = cluster.host(1).path(MEMBERSHIP);
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    cluster.start(1);
    let status = cluster.status(1);
    assert!(status["why"].as_str().is_some_and(|why| why.contains("it is no file")), "{status}");
    assert_eq!(routes(cluster.host(1)), before);
    // A new container comes meanwhile, as without any agent.
    let late = connected(&cluster, 1, "late");
    reaches(&late, addresses(&green));
    cluster.end(1);
    std::fs::remove_file(&path).unwrap();
    cluster.host(1).write(MEMBERSHIP, &good);
    cluster.start(1);
    cluster.eventually("h1 is what it was", || cluster.status(1)["state"] == "ready");
    lost_nothing(ping);
    // The other way out: to leave, and be another host.
    cluster.end(1);
    cluster.host(1).write(MEMBERSHIP, "{");
    cluster.start(1);
    let host = cluster.host(1);
    for container in [&red, &late] {
        host.weft(["network", "disconnect", "blue", container.name()]).expect_ok();
    }
    host.weft(["overlay", "leave"]).expect_failure(1, &["membership.json", "hint: weft overlay leave -f"]);
    host.weft(["overlay", "leave", "-f"]).expect_ok();
    assert_eq!(cluster.status(1)["state"], "unjoined");
    cluster.eventually("its devices are gone", || routes(host).is_empty());
    assert!(!host.ruleset().contains("weft_tunnels"), "{}", host.ruleset());
}

/// The store takes nothing from the host for a while. What was withdrawn meanwhile is said again and again, by the next agent,
/// too, until it is there.
#[test]
fn a_lost_claim_is_said_again_until_it_is_there() {
    let (mut cluster, red, green) = pair();
    let id = own_id(&cluster, 2);
    let before = claims(&cluster, &id);
    assert!(before.len() >= 6, "{before:?}");
    let ctl = |line: &str| cluster.etcd.ctl(line.split(' ')).expect_ok().to_owned();
    for line in [
        "role add reader",
        "role grant-permission reader read --prefix=true /weft/v1/",
        "role grant-permission reader readwrite --prefix=true /weft/v1/alive/",
        "role add all",
        "role grant-permission all readwrite --prefix=true /weft/v1/",
        "user add h1 --no-password",
        "user grant-role h1 all",
        "user add h2 --no-password",
        "user grant-role h2 reader",
        "user add root --no-password",
        "user grant-role root root",
        "auth enable",
    ] {
        ctl(line);
    }
    let keys: Vec<&str> = before.iter().map(String::as_str).collect();
    cluster.etcd.delete_together(&keys);
    let refused = |cluster: &Cluster| {
        let alarms = cluster.status(2)["alarms"].to_string();
        alarms.contains("records are kept against it") && alarms.contains("is not there again")
    };
    cluster.eventually("h2 has tried and says so", || refused(&cluster));
    assert!(claims(&cluster, &id).is_empty(), "{:?}", claims(&cluster, &id));
    cluster.kill(2);
    cluster.start(2);
    cluster.eventually("the next agent knows what is owed", || refused(&cluster));
    assert_eq!(cluster.status(2)["state"], "degraded");
    cluster.etcd.ctl(["user", "grant-role", "h2", "all"]).expect_ok();
    cluster.eventually("what was lost is there again", || claims(&cluster, &id) == before);
    cluster.eventually("h2 is content", || cluster.status(2)["state"] == "ready");
    // One host that vanishes is dropped by the others until it says again that it is there.
    cluster.eventually("h1 has the way again", || addresses(&green).iter().all(|address| red.ping(address)));
    reaches(&green, addresses(&red));
    cluster.etcd.ctl(["auth", "disable"]).expect_ok();
}

/// The store has lost a host that will not come back, so nobody says it again, and the others keep it.
#[test]
fn a_host_that_is_kept_against_the_store_is_forgotten() {
    let (mut cluster, _red, _green) = pair();
    let with_h2 = routes(cluster.host(1)).lines().count();
    cluster.kill(2);
    // It cannot leave by itself any more: nobody would tell the others.
    let before = routes(cluster.host(2));
    for words in [&["overlay", "leave"][..], &["overlay", "leave", "-f"]] {
        let said = cluster.host(2).weft(words.iter().copied());
        said.expect_failure(
            1,
            &["weftd agent does not run on this host", "systemctl enable --now weft-agent"],
        );
    }
    assert_eq!(routes(cluster.host(2)), before);
    assert!(cluster.host(2).path(MEMBERSHIP).exists());
    cluster.etcd.wipe();
    cluster.etcd.go_on();
    let host = cluster.host(1);
    let id = own_id(&cluster, 1);
    cluster.eventually("h1 is there again", || claims(&cluster, &id).len() >= 6);
    assert_eq!(routes(host).lines().count(), with_h2);
    cluster
        .eventually("and h2 is kept", || cluster.status(1)["alarms"].to_string().contains("kept against it"));
    host.weft(["overlay", "forget", "h2"]).expect_ok();
    cluster.eventually("nothing leads to it", || routes(host).lines().count() < with_h2);
    cluster.eventually("h1 is content", || cluster.status(1)["state"] == "ready");
}

/// The first host is killed at every moment of making a cluster. Whatever it has left, it joins by the same command.
#[test]
fn a_founder_that_is_killed_half_way_founds_by_the_same_command() {
    skip_unless!(Path::new("/usr/bin/strace").exists(), "strace");
    let mut cluster = Cluster::unjoined(2);
    let mut killed = 0;
    // As it enters the call: nothing that follows is done.
    for call in ["rename", "fsync", "unlink"] {
        for nth in 1..=5 {
            cluster.start(1);
            let strace = doomed(&cluster, call, nth);
            let joined = found(&cluster);
            let alive = cluster.host(1).weft(["overlay", "status"]).code == 0;
            drop(strace);
            let moment = format!("{call} {nth}");
            if alive {
                joined.expect_ok();
            } else {
                killed += 1;
                cluster.kill(1);
                cluster.start(1);
                if cluster.status(1)["state"] == "unjoined" {
                    found(&cluster).expect_ok();
                }
            }
            cluster.eventually(&moment, || cluster.status(1)["state"] == "ready");
            assert_eq!(own_id(&cluster, 1).len(), 32, "{moment}");
            assert!(!cluster.host(1).path("var/lib/weft/overlay/joining.json").exists(), "{moment}");
            // It has the secret that the store has the proof of: another host that brings it is not refused.
            cluster.start(2);
            cluster.join(2).expect_ok();
            for number in [2, 1] {
                cluster.host(number).weft(["overlay", "leave", "-f"]).expect_ok();
                cluster.end(number);
                // As it was: no cluster, and no secret.
                let rest = cluster.host(number).path("var/lib/weft/overlay").display().to_string();
                cluster.host(number).sh(&format!("find {rest} -mindepth 1 -delete")).expect_ok();
            }
            cluster.etcd.ctl(["del", "--prefix", "/weft/v1/"]).expect_ok();
            if alive {
                break;
            }
        }
    }
    assert!(killed >= 5, "{killed} kills: strace does not do what it is told");
}

/// The command that makes a cluster, with a secret that the host makes itself.
fn found(cluster: &Cluster) -> Output {
    let own = cluster.authority.certificate("h1", &[]);
    join(cluster.host(1), &cluster.etcd.url(), &cluster.authority.file(), &own, &["--name", "h1"])
}

/// Has the agent of h1 be killed as it enters a call for the `nth` time from now on.
fn doomed(cluster: &Cluster, call: &str, nth: u32) -> Background {
    let agent = cluster.agent_id(1);
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    let words = ["-f", "-o", "/dev/null", "-e", &inject, "-p", &agent.to_string()];
    let strace = Program::new("strace").args(words).background();
    cluster.eventually("strace is there", || {
        let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    strace
}

/// Its record in the store makes no sense, to an agent that knew it and to one that never did: it can be forgotten all the same.
#[test]
fn a_host_whose_record_makes_no_sense_is_forgotten() {
    let (mut cluster, _red, _green) = pair();
    let id = own_id(&cluster, 2);
    for knows in [true, false] {
        if !knows {
            cluster.start(2);
            cluster.eventually("h2 knows that it is out", || cluster.status(2)["state"] == "degraded");
            cluster.host(2).weft(["overlay", "leave", "-f"]).expect_ok();
        }
        let id = match knows {
            true => id.clone(),
            false => {
                cluster.join(2).expect_ok();
                own_id(&cluster, 2)
            }
        };
        let key = format!("/weft/v1/host/{id}");
        cluster.kill(2);
        cluster.etcd.ctl(["del", &format!("/weft/v1/alive/{id}")]).expect_ok();
        if !knows {
            cluster.end(1);
            for folder in ["var/lib/weft/overlay", "run/weft/overlay/agent"] {
                std::fs::remove_file(cluster.host(1).path(folder).join("state.json")).unwrap();
            }
        }
        cluster.etcd.ctl(["put", &key, "{"]).expect_ok();
        if !knows {
            cluster.start(1);
        }
        cluster.eventually("h1 says that it makes no sense", || {
            let bad = cluster.status(1)["bad"].clone();
            bad.as_array().is_some_and(|bad| bad.iter().any(|bad| bad["key"] == key.as_str()))
        });
        let reference = if knows { "h2" } else { &id[..12] };
        cluster.host(1).weft(["overlay", "forget", reference]).expect_ok();
        let records = cluster.etcd.records();
        assert!(!records.contains(&key), "{records}");
        assert!(records.contains(&format!("/weft/v1/left/{id}")), "{records}");
        cluster.eventually("h1 has nothing to complain of", || {
            cluster.status(1)["bad"].as_array().is_none_or(Vec::is_empty)
        });
    }
}

/// Wherever the agent is killed while this host leaves, the next command or the next agent brings it to its end.
#[test]
fn a_leave_that_was_killed_is_completed() {
    let mut cluster = Cluster::new(2);
    cluster.network(1, &["blue"]);
    let is_there = |cluster: &Cluster| {
        cluster.eventually("blue is on h2", || cluster.host(2).weft(["network", "exists", "blue"]).code == 0);
        cluster.eventually("h2 has the way", || !routes(cluster.host(2)).is_empty());
        assert!(cluster.host(2).ruleset().contains("weft_tunnels"));
    };
    let is_out = |cluster: &Cluster| {
        let host = cluster.host(2);
        cluster.eventually("h2 is of no cluster", || cluster.status(2)["state"] == "unjoined");
        cluster.eventually("its devices are gone", || routes(host).is_empty());
        cluster.eventually("the guard is gone", || !host.ruleset().contains("weft_tunnels"));
        cluster.eventually("blue is gone", || host.weft(["network", "exists", "blue"]).code == 3);
        cluster.eventually("h1 has dropped it", || {
            let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
            peers.as_array().unwrap().is_empty()
        });
        assert!(!host.path(MEMBERSHIP).exists());
        cluster.join(2).expect_ok();
    };
    let completed = |cluster: &Cluster| {
        let leave = || cluster.host(2).weft(["overlay", "leave"]).code == 0;
        cluster.eventually("h2 has left", || cluster.status(2)["state"] == "unjoined" || leave());
    };
    // The others have been told, and nothing else; then its own file is gone as well.
    for told_only in [true, false] {
        is_there(&cluster);
        cluster.kill(2);
        cluster.host(1).weft(["overlay", "forget", "-f", "h2"]).expect_ok();
        if !told_only {
            std::fs::remove_file(cluster.host(2).path(MEMBERSHIP)).unwrap();
        }
        cluster.start(2);
        if told_only {
            assert_ne!(cluster.status(2)["state"], "unjoined", "there is nothing to complete");
            completed(&cluster);
        }
        is_out(&cluster);
    }
    // And wherever it is after so long.
    for milliseconds in [0, 5, 20, 60] {
        is_there(&cluster);
        let leaving = cluster.host(2).weft_program(["overlay", "leave"]).background();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        cluster.kill(2);
        drop(leaving);
        cluster.start(2);
        completed(&cluster);
        is_out(&cluster);
    }
}
