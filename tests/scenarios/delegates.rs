//! The plugin for addresses: called when it is the same binary, run when it is another.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use weft_testkit::{Container, Lab, staged};

const CONF: &str = r#"{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/30"}]]}}"#;

/// Makes a folder with a copy of the staged `bridge` and an empty place for `host-local`.
fn folder(lab: &Lab) -> PathBuf {
    let folder = lab.path("bin");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(staged("bridge"), folder.join("bridge")).unwrap();
    folder
}

#[test]
fn a_copy_of_this_binary_is_called_and_not_started() {
    let lab = Lab::new();
    let (red, blue) = (lab.container("red"), lab.container("blue"));
    let folder = folder(&lab);
    let ipam = folder.join("host-local");
    fs::copy(staged("host-local"), &ipam).unwrap();
    // What cannot be started can still be called.
    fs::set_permissions(&ipam, Permissions::from_mode(0o644)).unwrap();
    let before = lab.snapshot();
    let call = || lab.plugin_in(&folder, "bridge").conf(CONF);

    call().add(&red).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/30"]);
    call().check(&red).expect_error(7);
    // Its refusals are what its process would have said.
    let refusal = call().add(&blue).expect_error(100);
    assert!(
        refusal["msg"]
            .as_str()
            .unwrap()
            .contains("no IP addresses available in range set: 10.90.0.1-10.90.0.2"),
        "{refusal}"
    );
    assert!(!blue.has_link("eth0"), "the links are taken back");
    call().del(&red).expect_ok();
    call().add(&blue).expect_ok();
    call().del(&blue).expect_ok();
    call().gc(&[]).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn any_other_file_of_that_name_is_run() {
    let lab = Lab::new();
    let (red, mark) = (lab.container("red"), lab.path("mark"));
    let folder = folder(&lab);
    let real = staged("host-local");
    let wrapper = format!("#!/bin/sh\necho \"$CNI_COMMAND\" >>{}\nexec {}\n", mark.display(), real.display());
    lab.write("bin/host-local", wrapper);
    fs::set_permissions(folder.join("host-local"), Permissions::from_mode(0o755)).unwrap();
    let call = || lab.plugin_in(&folder, "bridge").conf(CONF);
    call().add(&red).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/30"]);
    call().del(&red).expect_ok();
    assert_eq!(fs::read_to_string(&mark).unwrap(), "ADD\nDEL\n");

    // One bit apart is another binary, which this one knows nothing of.
    let mut other = fs::read(&real).unwrap();
    let note = other.windows(4).position(|four| four == b"GNU\0").unwrap();
    let second = other[note + 4..].windows(4).position(|four| four == b"GNU\0").unwrap() + note + 4;
    other[second + 4] ^= 1;
    lab.write("bin/host-local", other);
    fs::set_permissions(folder.join("host-local"), Permissions::from_mode(0o644)).unwrap();
    let refusal = call().add(&red).expect_error(999);
    assert!(refusal["msg"].as_str().unwrap().contains("bin/host-local: Permission denied"), "{refusal}");
}

#[expect(clippy::disallowed_methods, reason = "a file of somebody else's, which nobody reads meanwhile")]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Somebody else's IPAM plugin: it writes down what it is asked, and whether the container has its interface then.
fn witness(lab: &Lab, folder: &Path, kind: &str, red: &Container) {
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\nnsenter --net={} ip link show eth0 >/dev/null 2>&1 && is=there || is=gone\n\
         echo \"$CNI_COMMAND $is\" >>{}\n[ $CNI_COMMAND != ADD ] || \
         echo '{{\"cniVersion\":\"1.1.0\",\"ips\":[{{\"address\":\"10.90.0.2/30\"}}]}}'\n",
        red.netns().display(),
        lab.path(kind).display(),
    );
    write(&folder.join(kind), &script);
    fs::set_permissions(folder.join(kind), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_address_is_asked_for_with_the_link_there_and_given_back_in_the_order_of_its_kind() {
    for (kind, after) in [("books", "gone"), ("dhcp", "there")] {
        let lab = Lab::new();
        let red = lab.container("red");
        let folder = folder(&lab);
        witness(&lab, &folder, kind, &red);
        let conf = CONF.replace(r#""type": "host-local""#, &format!(r#""type": "{kind}""#));
        let call = || lab.plugin_in(&folder, "bridge").conf(conf.as_str());
        call().add(&red).expect_ok();
        assert!(red.has_link("eth0"));
        call().del(&red).expect_ok();
        call().add(&red).expect_ok();
        call().gc(&[]).expect_ok();
        let asked = lab.read(kind);
        let expected = format!("ADD there\nDEL {after}\nADD there\nGC {after}\n");
        assert_eq!(asked, expected, "{kind}");
        assert!(!red.has_link("eth0"));
        // A failed ADD: the route leads over nothing.
        write(&lab.path(kind), "");
        let bad = call().conf(conf.replace(
            r#""bridge": "br0""#,
            r#""bridge": "br0", "args": {"weft": {"sysctl": {"net.none.such": "1"}}}"#,
        ));
        assert_ne!(bad.add(&red).code, 0);
        assert_eq!(lab.read(kind), format!("ADD there\nDEL {after}\n"), "{kind}");
    }
}

#[test]
fn a_delegate_that_prints_garbage_is_named_and_nothing_stays() {
    let lab = Lab::new();
    let red = lab.container("red");
    let folder = folder(&lab);
    let script = "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND != ADD ] || echo this is no json\n";
    write(&folder.join("books"), script);
    fs::set_permissions(folder.join("books"), Permissions::from_mode(0o755)).unwrap();
    let conf = CONF.replace(r#""type": "host-local""#, r#""type": "books""#);
    let call = || lab.plugin_in(&folder, "bridge").conf(conf.as_str());
    let before = lab.snapshot();
    let told = call().add(&red).expect_error(6);
    let msg = told["msg"].as_str().unwrap();
    assert!(msg.starts_with(r#"cannot read the result of IPAM plugin "books": expected "#), "{told}");
    // Neither a link nor a lease nor a record.
    lab.assert_restored(&before);
    assert!(!red.has_link("eth0"));

    fs::remove_file(folder.join("books")).unwrap();
    witness(&lab, &folder, "books", &red);
    call().add(&red).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/30"]);
}
