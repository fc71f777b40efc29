//! The plugin as a process: what the reference implementation's tests assert, and what they leave out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Data, Output, ours};

fn output(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    Output { ok: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap() }
}

fn with(mut conf: Value, key: &str, value: Value) -> Value {
    conf[key] = value;
    conf
}

#[test]
fn addresses_of_both_families_come_and_go() {
    let data = Data::new();
    fs::File::create(data.dir().join("resolv.conf"))
        .unwrap()
        .write_all(b"nameserver 192.0.2.3\nsearch a.example\n")
        .unwrap();
    let conf = data.conf(json!({
        "ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.2.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.0.0/16", "gw": "1.1.1.1", "mtu": 1400}],
        "resolvConf": data.dir().join("resolv.conf"),
    }));
    let red = ours(&conf, "dummy");
    let wanted = json!({
        "cniVersion": "1.0.0",
        "dns": {"nameservers": ["192.0.2.3"], "search": ["a.example"]},
        "ips": [
            {"address": "10.1.2.2/24", "gateway": "10.1.2.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "192.168.0.0/16", "gw": "1.1.1.1", "mtu": 1400}],
    });
    assert_eq!(red.add().json(), wanted);
    assert_eq!(data.leases()["10.1.2.2"], "dummy\r\neth0");
    assert_eq!(data.leases()["2001:db8:1::2"], "dummy\r\neth0");
    assert_eq!(fs::read_to_string(data.path("last_reserved_ip.0")).unwrap(), "10.1.2.2");
    assert_eq!(fs::read_to_string(data.path("last_reserved_ip.1")).unwrap(), "2001:db8:1::2");
    red.run("CHECK").expect_silence();

    red.del();
    assert!(data.leases().is_empty());
    assert_eq!(fs::read_to_string(data.path("last_reserved_ip.0")).unwrap(), "10.1.2.2");
    red.del();
    let missing = "host-local: Failed to find address added by container dummy";
    assert_eq!(red.run("CHECK").error(), (999, missing.into()));
}

#[test]
fn an_interface_has_one_address_and_a_container_several() {
    let data = Data::new();
    let conf = data.subnet("10.1.2.0/24");
    assert_eq!(ours(&conf, "red").add().ips(), ["10.1.2.2/24"]);
    assert_eq!(ours(&conf, "red").with("CNI_IFNAME", "eth1").add().ips(), ["10.1.2.3/24"]);
    let twice = "failed to allocate for range 0: 10.1.2.2 has been allocated to red, duplicate allocation is not allowed";
    assert_eq!(ours(&conf, "red").add().error(), (101, twice.into()));
    // The reference plugin forgets to look when an address is asked for.
    assert_eq!(ours(&conf, "red").with("CNI_ARGS", "IP=10.1.2.77").add().error(), (101, twice.into()));
    assert_eq!(data.addresses(), ["10.1.2.2", "10.1.2.3"]);
    ours(&conf, "red").del();
    assert_eq!(data.addresses(), ["10.1.2.3"]);
}

#[test]
fn a_del_of_the_unknown_makes_nothing() {
    let data = Data::new();
    ours(&data.subnet("10.1.2.0/24"), "red").del();
    assert_eq!(fs::read_dir(data.dir()).unwrap().count(), 0);
}

#[test]
fn a_del_works_with_whatever_is_left_of_the_configuration() {
    let data = Data::new();
    let conf = data.subnet("10.1.2.0/24");
    for broken in [
        data.conf(json!({})),
        data.conf(json!({"ranges": "none"})),
        data.conf(
            json!({"ranges": [[{"subnet": "10.1.2.0/99"}]], "routes": 7, "resolvConf": "/nonexistent"}),
        ),
    ] {
        ours(&conf, "red").add().json();
        assert_eq!(data.leases().len(), 1);
        ours(&broken, "red").with("CNI_ARGS", "bogus").with("CNI_NETNS", "").del();
        assert!(data.leases().is_empty());
    }
}

#[test]
fn requests_are_met_or_explained() {
    let data = Data::new();
    let conf = data.conf(json!({"ranges": [
        [{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.3.0/24"}], [{"subnet": "2001:db8:1::/64"}],
    ]}));
    let args = |id, args| ours(&conf, id).with("CNI_ARGS", args).add();
    let both = with(conf.clone(), "args", json!({"cni": {"ips": ["10.1.3.88/24", "2001:db8:1::999"]}}));
    assert_eq!(ours(&both, "a").add().ips(), ["10.1.3.88/24", "2001:db8:1::999/64"]);
    assert_eq!(fs::read_to_string(data.path("last_reserved_ip.0")).unwrap(), "10.1.3.88");
    assert_eq!(args("b", "IgnoreUnknown=1;IP=10.1.2.9;X=y").ips(), ["10.1.2.9/24", "2001:db8:1::99a/64"]);

    let before = data.leases();
    let taken = args("c", "IP=10.1.3.88");
    let wanted = "failed to allocate for range 0: requested IP address 10.1.3.88 is not available in range set \
                  10.1.2.1-10.1.2.254,10.1.3.1-10.1.3.254";
    assert_eq!(
        (taken.error(), taken.details()),
        ((101, wanted.into()), "10.1.3.88 is leased to a (eth0)".into())
    );
    let two_of_one =
        with(conf.clone(), "runtimeConfig", json!({"ips": ["10.1.2.11", "10.1.2.12", "192.0.2.1"]}));
    let wanted = "failed to allocate all requested IPs: 10.1.2.12 192.0.2.1";
    assert_eq!(ours(&two_of_one, "c").add().error(), (7, wanted.into()));
    let wanted = "failed to allocate for range 0: requested ip 10.1.2.1 is subnet's gateway";
    assert_eq!(args("c", "IP=10.1.2.1").error(), (101, wanted.into()));
    assert_eq!(data.leases(), before, "a refused ADD leaves nothing");
}

#[test]
fn our_keys_widen_and_narrow_what_is_given() {
    let data = Data::new();
    let conf = data.conf(json!({
        "ranges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.128", "rangeEnd": "10.1.2.131"}]],
        "requestable": "subnet", "reserved": ["10.1.2.5", "10.1.2.128"], "avoid": ["10.1.2.129"],
    }));
    let ask = |id, ip: &str| ours(&conf, id).with("CNI_ARGS", &format!("IP={ip}")).add();
    assert_eq!(ask("a", "10.1.2.9").ips(), ["10.1.2.9/24"]);
    for (ip, code, why) in [
        ("10.1.2.5", 101, "requested IP address 10.1.2.5 is reserved"),
        ("10.1.2.1", 101, "requested ip 10.1.2.1 is subnet's gateway"),
        (
            "10.1.2.255",
            102,
            "requested IP address 10.1.2.255 is the network or broadcast address of 10.1.2.0/24",
        ),
    ] {
        assert_eq!(ask("b", ip).error(), (code, format!("failed to allocate for range 0: {why}")));
    }
    let next = |id| ours(&conf, id).add();
    assert_eq!(next("b").ips(), ["10.1.2.130/24"]);
    assert_eq!(next("c").ips(), ["10.1.2.131/24"]);
    assert_eq!(next("d").ips(), ["10.1.2.129/24"], "better an avoided address than none");
    let full = next("e");
    let wanted =
        "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.128-10.1.2.131";
    assert_eq!(full.error(), (100, wanted.into()));
    assert_eq!(full.details(), "3 of its addresses are leased to 3 attachments");
    let status = with(conf.clone(), "cniVersion", "1.1.0".into());
    assert_eq!(ours(&status, "-").run("STATUS").error().0, 50);
    ours(&conf, "c").del();
    ours(&status, "-").run("STATUS").expect_silence();
}

#[test]
fn gc_keeps_the_valid_and_whatever_is_no_attachment() {
    let data = Data::new();
    let conf = with(data.subnet("10.1.2.0/24"), "cniVersion", "1.1.0".into());
    for id in ["a", "b", "c"] {
        ours(&conf, id).add().json();
    }
    ours(&conf, "b").with("CNI_IFNAME", "eth1").add().json();
    for (name, content) in
        [("10.1.2.50", "b"), ("10.1.2.51", "gone"), ("10.1.2.52", "kept for the printer"), ("10.1.2.53", "")]
    {
        fs::File::create(data.path(name)).unwrap().write_all(content.as_bytes()).unwrap();
    }
    let unsaid = ours(&conf, "-").run("GC");
    assert_eq!(unsaid.error().0, 7);
    assert_eq!(data.leases().len(), 8, "nobody said what is valid, so nothing goes");

    let valid =
        json!([{"containerID": "b", "ifname": "eth0"}, {"containerID": "never-seen", "ifname": "eth0"}]);
    ours(&with(conf.clone(), "cni.dev/valid-attachments", valid), "-").run("GC").expect_silence();
    let kept: Vec<(String, String)> = data.leases().into_iter().collect();
    let wanted = [("10.1.2.3", "b\r\neth0"), ("10.1.2.50", "b"), ("10.1.2.52", "kept for the printer")];
    assert_eq!(kept, wanted.map(|(name, content)| (name.to_string(), content.to_string())));
    assert!(data.path("lock").exists() && data.path("last_reserved_ip.0").exists());

    ours(&with(conf, "cni.dev/valid-attachments", json!([])), "-").run("GC").expect_silence();
    assert_eq!(data.addresses(), ["10.1.2.52"]);
}

#[test]
fn fifty_at_once_get_fifty_addresses() {
    let data = Data::new();
    let conf = data.subnet("10.1.2.0/24");
    let running: Vec<Child> = (0..50).map(|number| ours(&conf, &format!("c{number}")).start("ADD")).collect();
    let seen: BTreeSet<String> = running.into_iter().flat_map(|child| output(child).ips()).collect();
    assert_eq!(seen.len(), 50);
    let running: Vec<Child> = (0..50).map(|number| ours(&conf, &format!("c{number}")).start("DEL")).collect();
    running.into_iter().for_each(|child| output(child).expect_silence());
    assert!(data.leases().is_empty());
}

#[test]
fn a_kill_at_any_moment_leaves_a_usable_store() {
    let data = Data::new();
    let conf = data.conf(json!({"ranges": [[{"subnet": "10.1.0.0/20"}], [{"subnet": "fd00::/64"}]]}));
    for round in 0..150_u64 {
        let verb = if round % 3 == 2 { "DEL" } else { "ADD" };
        let mut child = ours(&conf, &format!("c{}", round / 3)).start(verb);
        // Spread over the life of the process, which is about a millisecond.
        thread::sleep(Duration::from_micros(round * 97 % 1500));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for content in data.leases().into_values() {
        assert!(content.starts_with('c') && content.ends_with("\r\neth0"), "half a lease: {content:?}");
    }
    for number in 0..50 {
        ours(&conf, &format!("c{number}")).del();
    }
    assert!(data.leases().is_empty());
    ours(&conf, "last").add().json();
    assert_eq!(data.leases().len(), 2);
    let index = data.dir().join(".index/n1");
    let beside = fs::read_dir(index).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known = |name: &String| ["leases", "new"].contains(&name.as_str()) || name.starts_with("spare.");
    let strangers: Vec<String> = beside.filter(|name| !known(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

/// Runs a test on a file system of 16 pages that only its thread and its processes can see.
fn on_tiny_disk(options: &str, work: impl FnOnce(&Data) + Send) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let data = Data::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "a mount namespace for a thread that ends with the test"
            )]
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&Path>;
            mount(none, Path::new("/"), none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), data.dir(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
            work(&data);
        });
    });
}

fn refuses_and_recovers(data: &Data, fill: &dyn Fn(&Path), empty: &dyn Fn(&Path)) {
    let conf = data.conf(json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]}));
    ours(&conf, "a").add().json();
    fill(data.dir());
    let (code, msg) = ours(&conf, "b").add().error();
    assert_eq!(code, 5);
    assert!(
        msg.contains("No space left on device") && msg.contains(&data.path("").display().to_string()),
        "{msg}"
    );
    assert_eq!(data.addresses(), ["10.1.2.2", "fd00::2"]);
    ours(&conf, "a").run("CHECK").expect_silence();
    ours(&conf, "a").del();
    assert!(data.leases().is_empty(), "a DEL needs no space");
    empty(data.dir());
    ours(&conf, "b").add().json();
    assert_eq!(data.leases().len(), 2);
}

#[test]
fn a_full_disk_is_an_error_that_passes() {
    on_tiny_disk("size=64k", |data| {
        let fill = |dir: &Path| {
            let mut file = fs::File::create(dir.join("filler")).unwrap();
            while file.write_all(&[0; 512]).is_ok() {}
        };
        refuses_and_recovers(data, &fill, &|dir| fs::remove_file(dir.join("filler")).unwrap());
    });
}

#[test]
fn a_disk_without_inodes_is_an_error_that_passes() {
    on_tiny_disk("nr_inodes=24", |data| {
        let fill = |dir: &Path| {
            fs::create_dir(dir.join("filler")).unwrap();
            let mut number = 0;
            while fs::File::create(dir.join("filler").join(number.to_string())).is_ok() {
                number += 1;
            }
        };
        refuses_and_recovers(data, &fill, &|dir| fs::remove_dir_all(dir.join("filler")).unwrap());
    });
}

#[test]
fn the_root_moves_the_default_data_directory() {
    let data = Data::new();
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}});
    ours(&conf, "a").with("WEFT_ROOT", data.dir().to_str().unwrap()).add().json();
    assert!(data.dir().join("var/lib/cni/networks/n1/10.1.2.2").exists());
}

#[test]
fn a_synced_lease_is_a_lease() {
    let data = Data::new();
    let conf = data.conf(json!({"subnet": "10.1.2.0/24", "sync": true}));
    assert_eq!(ours(&conf, "a").add().ips(), ["10.1.2.2/24"]);
    ours(&conf, "a").del();
    assert!(data.leases().is_empty());
}

#[test]
fn the_readmes_configuration_works() {
    let readme = include_str!("../README.md");
    let block = readme.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let mut conf: Value = serde_json::from_str(block).unwrap();
    let data = Data::new();
    fs::File::create(data.dir().join("resolv.conf")).unwrap();
    conf["ipam"]["resolvConf"] = data.dir().join("resolv.conf").to_str().into();
    let call = ours(&conf, "red").with("WEFT_ROOT", data.dir().to_str().unwrap());
    assert_eq!(call.add().ips(), ["10.10.1.20/16", "fd00:10::2/64"]);
    call.del();
}
