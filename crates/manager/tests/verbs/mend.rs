//! `network reload` and `doctor`.

use std::fs;

use serde_json::{Value, json};
use weft_manager::{Connect, Error, Kind};
use weft_state::atomic::{self, Durability};

use crate::ports::publishing;
use crate::{Host, OWN, to};

#[test]
fn reload_asks_each_plugin_of_ours_once() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    publishing(&host, "n3", "foreign");
    assert!(host.manager.reload(None).unwrap().is_empty());
    let asked = host.asked("reload");
    let names = |asked: &Value| {
        let networks = asked["networks"].as_array().unwrap().iter();
        networks.map(|conf| conf["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&asked), ["n1", "n2", "n3"]);
    assert_eq!(asked["networks"][0]["cniVersion"], "1.1.0");
    assert_eq!(asked["root"], json!(host.path("root")));
    assert!(fs::read(host.path("foreign")).unwrap().is_empty(), "a stranger does not know the question");

    host.manager.reload(Some("n2")).unwrap();
    assert_eq!(names(&host.asked("reload")), ["n2"]);
    host.manager.reload(Some("bridge")).unwrap();
    assert!(names(&host.asked("reload")).is_empty(), "nobody has used it");
    assert!(matches!(host.manager.reload(Some("n9")), Err(Error::NoNetwork(_))));

    host.fail("reload");
    let errors = host.manager.reload(None).unwrap();
    let told: Vec<_> = errors.iter().map(|error| (error.to_string(), error.kind(), error.hint())).collect();
    let hint = Some("mend the cause, then weft network reload".into());
    assert_eq!(told, [("plugin fake: told to fail".into(), Kind::Failed, hint)]);
}

#[test]
fn a_network_that_its_plugin_refuses_is_named_and_the_others_are_looked_at() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    host.refuse("n2");
    let findings = r#"{"problems":[{"what":"a","why":"b","mend":"c"}]}"#;
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["a: b", "network n2: told to refuse"]);
    let errors = host.manager.reload(None).unwrap();
    let told: Vec<_> = errors.iter().map(|error| (error.to_string(), error.kind())).collect();
    assert_eq!(told, [("network n2: told to refuse".into(), Kind::Failed)]);
    let hint = errors[0].hint().unwrap();
    assert!(hint.contains("/n2.conflist, then weft network reload n2"), "{hint}");
}

#[test]
fn the_doctor_tells_the_whole_connection_that_has_to_be_made_again() {
    let host = Host::new();
    host.network("n1", 1);
    let request = Connect {
        name: Some("red".into()),
        aliases: vec!["crimson".into()],
        addresses: vec!["198.18.1.7".parse().unwrap()],
        mac: Some("02:00:00:00:00:07".parse().unwrap()),
        interface: Some("lan0".parse().unwrap()),
        priority: -2,
        sysctls: vec![("net.ipv4.conf.IFNAME.log_martians".into(), "1".into())],
        ..to("n1", "c1")
    };
    let record = host.manager.connect(&request).unwrap().record;
    let finding = weft_cni::Finding::renewed(&record.endpoint, "host interface x does not exist".into());
    let findings = json!({"problems": [finding]}).to_string();
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    assert_eq!(
        found[0].mend,
        format!(
            "weft network disconnect n1 c1, then weft network connect --ip 198.18.1.7 --interface lan0 --name red \
             --mac 02:00:00:00:00:07 --alias crimson --gw-priority -2 --sysctl net.ipv4.conf.lan0.log_martians=1 \
             --id c1 n1 {OWN}"
        )
    );
}

#[test]
fn the_doctor_passes_on_what_plugins_find_and_mends_it() {
    let host = Host::new();
    host.network("n1", 1);
    assert!(host.manager.doctor(false).unwrap().is_empty());
    let findings = r#"{"problems":[{"what":"a","why":"b","mend":"c"},{"what":"a","why":"b","mend":"c"}]}"#;
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    assert_eq!(found.len(), 1, "the same is said once: {found:?}");
    assert!(!host.path("reload").exists(), "looking changes nothing");
    assert_eq!(host.manager.doctor(true).unwrap(), found, "it is there still");
    assert!(host.path("reload").exists());

    host.fail("doctor");
    let found = host.manager.doctor(false).unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["plugin fake: told to fail"], "one that fails does not blind the others");
}
