//! What is listed, found and described.

use std::fs;
use std::path::PathBuf;

use weft_manager::Kind;
use weft_state::atomic::{self, Durability};

use crate::{Host, program, text};

#[test]
fn other_peoples_networks_are_left_to_them() {
    let host = Host::new();
    let file = host.path("root/etc/weft/networks.d/n1.conflist");
    let conflist = format!(
        r#"{{"cniVersion":"1.1.0","name":"n1","plugins":[{{"type":"fake","ipam":{{"type":"host-local","dataDir":{:?}}}}}]}}"#,
        host.path("leases")
    );
    atomic::write(&file, conflist.as_bytes(), Durability::Boot, 0o644).unwrap();
    let [here, there] = ["leases/n1", "root/var/lib/cni/networks/n1"].map(|dir| host.path(dir));
    let put =
        |path: PathBuf, text: &str| atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600).unwrap();
    put(here.join("10.88.0.2"), "pod1\r\neth0");
    put(there.join("10.88.0.3"), "pod2");
    put(here.join("last_reserved_ip.0"), "10.88.0.2");

    let pruned = host.manager.prune(&[]).unwrap();
    assert!(pruned.deleted.is_empty() && pruned.errors.is_empty(), "{pruned:?}");
    for force in [false, true] {
        let error = host.manager.rm("n1", force).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(
            error.to_string(),
            "network n1 has active endpoints of another container runtime (pod1, pod2)"
        );
    }
    fs::remove_file(here.join("10.88.0.2")).unwrap();
    assert!(text(host.manager.rm("n1", false)).ends_with("(pod2)"));
    fs::remove_file(there.join("10.88.0.3")).unwrap();
    assert!(host.removed("n1", false)[0].starts_with("network n1 is not weft's: "));
    assert!(!file.exists());
    assert!(here.join("last_reserved_ip.0").exists() && there.exists());
    assert_eq!(host.log(), [""; 0], "no GC");
}

#[test]
fn names_prefixes_and_strangers() {
    let host = Host::new();
    let id = host.network("n1", 1);
    assert!(host.manager.exists("n1").unwrap());
    assert!(host.manager.exists(&id).unwrap());
    assert!(host.manager.exists(&id[..3].to_uppercase()).unwrap());
    assert!(host.manager.exists("bridge").unwrap());
    for stranger in ["", "n", "zzz", "../n1", "n1.conflist"] {
        assert!(!host.manager.exists(stranger).unwrap(), "{stranger:?}");
    }
    for n in 20..60 {
        host.network(&format!("m{n}"), n);
    }
    let ambiguous = (0..16).filter(|digit| host.manager.exists(&format!("{digit:x}")).is_err()).count();
    assert!(ambiguous > 0, "forty ids share some first digit");
}

#[test]
fn plugins_describe_themselves_or_say_their_versions() {
    let host = Host::new();
    program(
        &host.path("bin/third-party"),
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"supportedVersions\":[\"0.4.0\"]}'\n",
    );
    program(&host.path("bin/stranger"), "#!/bin/sh\necho hello\n");
    let plugins = host.manager.plugins();
    let find = |kind: &str| {
        plugins.iter().find(|plugin| plugin.kind == kind && plugin.path.starts_with(host.path("bin")))
    };
    assert!(find("fake").unwrap().about.as_ref().unwrap().driver.is_some());
    assert_eq!(find("third-party").unwrap().versions, ["0.4.0"]);
    assert!(find("stranger").is_none());
    assert_eq!(host.manager.describe("fake").unwrap().summary, "a fake");
    assert_eq!(host.manager.describe("third-party").unwrap_err().kind(), Kind::Failed);
    assert_eq!(host.manager.describe("nope").unwrap_err().kind(), Kind::NotFound);
}
