//! Published ports, told to whoever takes them.

use std::fs;

use serde_json::{Value, json};
use weft_manager::{Connect, Kind};
use weft_state::atomic::{self, Durability};

use crate::{Host, OWN, from, program, text, to};

/// A plugin of somebody else's: it writes down what it is told and knows no question but CNI's.
const FOREIGN: &str = r#"#!/bin/sh
cat > @DIR@/foreign
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"198.18.1.5/24"}]}'
"#;

/// A network whose second plugin publishes ports, and is or is not one of weft's.
pub(crate) fn publishing(host: &Host, name: &str, kind: &str) {
    let script = FOREIGN.replace("@DIR@", &host.dir.path().display().to_string());
    program(&host.path("bin/foreign"), &script);
    let plugins = json!([
        {"type": "fake", "ipam": {"type": "host-local", "subnet": "198.18.1.0/24"}},
        {"type": kind, "capabilities": {"portMappings": true}},
    ]);
    let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins});
    let path = host.root().networks_dir().join(format!("{name}.conflist"));
    atomic::write(&path, list.to_string().as_bytes(), Durability::Boot, 0o644).unwrap();
}

fn ports(ports: &[&str]) -> Vec<weft_model::port::PublishSpec> {
    ports.iter().map(|port| port.parse().unwrap()).collect()
}

fn publish(id: &str, given: &[&str]) -> weft_manager::Publish {
    weft_manager::Publish { netns: OWN.into(), id: Some(id.into()), ports: ports(given) }
}

#[test]
fn ports_are_told_to_the_plugin_that_takes_them() {
    let host = Host::new();
    publishing(&host, "n1", "foreign");
    let request = Connect { publish: ports(&["8080:80", "[::1]:53:53/udp"]), ..to("n1", "c1") };
    assert!(text(host.manager.connect(&request)).contains("no address of that family"), "n1 has IPv4 alone");
    assert!(host.log().is_empty(), "nothing was begun");

    let request = Connect { publish: ports(&["127.0.0.1:8080:80"]), ..to("n1", "c1") };
    host.manager.connect(&request).unwrap();
    let told: Value = serde_json::from_slice(&fs::read(host.path("foreign")).unwrap()).unwrap();
    let entry = json!({"protocol": "tcp", "hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1"});
    assert_eq!(told["runtimeConfig"], json!({"portMappings": [entry]}));
    host.manager.disconnect(&from("n1", "c1")).unwrap();
    let told: Value = serde_json::from_slice(&fs::read(host.path("foreign")).unwrap()).unwrap();
    assert_eq!(told["runtimeConfig"], json!({"portMappings": [entry]}), "DEL is told what to take away");
}

#[test]
fn what_only_our_port_plugin_understands_goes_to_no_other() {
    let host = Host::new();
    publishing(&host, "n1", "foreign");
    for ports_of in ["8080:80,from=192.0.2.0/24", "8080-8081:80-81", "8080-8081:80", "80"] {
        let request = Connect { publish: ports(&[ports_of]), ..to("n1", "c1") };
        let error = host.manager.connect(&request).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network n1 publishes no ports: its plugin foreign is not weft's and knows neither sources nor ranges nor free ports"
        );
        assert_eq!(error.kind(), Kind::Usage);
    }
    host.connect("n1", "c1").unwrap();
    let error = host.manager.publish(&publish("c1", &["8080:80"])).unwrap_err();
    assert!(error.to_string().ends_with("changes no ports while a container is connected"), "{error}");

    host.network("n2", 2);
    host.connect("n2", "c2").unwrap();
    let error = host.manager.publish(&publish("c2", &["8080:80"])).unwrap_err();
    assert_eq!(error.to_string(), "network n2 publishes no ports: none of its plugins publishes ports");
    assert!(error.hint().unwrap().contains("n2.conflist"));
    let error = host.manager.publish(&publish("c3", &["8080:80"])).unwrap_err();
    assert_eq!(
        (error.to_string(), error.kind()),
        (format!("container {OWN} is not connected to any network"), Kind::NotFound)
    );
    let twice = host.manager.publish(&publish("c2", &["8080:80", "0.0.0.0:8080:81"])).unwrap_err();
    assert_eq!(
        twice.to_string(),
        "cannot publish 0.0.0.0:8080:81/tcp: the same port of the host is asked for twice"
    );
}
