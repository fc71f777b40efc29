//! What the stories about published ports share: a network of bare plugins, and questions to it.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall};

/// The host, as the outside knows it.
pub(crate) const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
/// The outside, as the host knows it.
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An entry of `portMappings` with further keys.
pub(crate) fn entry(host: u16, container: u16, more: Value) -> Value {
    let mut entry = json!({"hostPort": host, "containerPort": container});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

pub(crate) fn tcp(host: u16, container: u16) -> Value {
    entry(host, container, json!({"protocol": "tcp"}))
}

pub(crate) fn udp(host: u16, container: u16) -> Value {
    entry(host, container, json!({"protocol": "udp"}))
}

/// A network of a bridge and a `portmap` behind it.
pub(crate) struct Net<'lab> {
    pub(crate) lab: &'lab Lab,
    name: String,
    bridge: Value,
    /// The keys of `portmap` that are not the usual ones.
    pub(crate) portmap: Value,
}

impl<'lab> Net<'lab> {
    /// A network of both families, `10.<number>.0.0/24` and `fd00:<number>::/64`.
    pub(crate) fn new(lab: &'lab Lab, name: &str, number: u8) -> Self {
        let subnets = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        Self::of(lab, name, number, &subnets.each_ref().map(String::as_str))
    }

    pub(crate) fn of(lab: &'lab Lab, name: &str, number: u8, subnets: &[&str]) -> Self {
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        let bridge = json!({
            "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br{number}"),
            "isDefaultGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": ranges},
        });
        Self { lab, name: name.into(), bridge, portmap: json!({}) }
    }

    /// Sets a key of the bridge's configuration.
    pub(crate) fn bridge_key(mut self, key: &str, value: Value) -> Self {
        self.bridge[key] = value;
        self
    }

    /// Connects a container to the bridge and returns the result.
    pub(crate) fn connect(&self, container: &Container) -> Value {
        self.bridge().add(container).expect_json()
    }

    pub(crate) fn bridge(&self) -> PluginCall<'lab> {
        self.lab.plugin("bridge").json(&self.bridge)
    }

    /// Returns what `portmap` reads to publish these entries.
    pub(crate) fn conf(&self, previous: &Value, mappings: Value) -> Value {
        let mut conf = self.portmap.clone();
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = json!(self.name);
        conf["type"] = json!("portmap");
        conf["runtimeConfig"] = json!({"portMappings": mappings});
        conf["prevResult"] = previous.clone();
        conf
    }

    pub(crate) fn call(&self, previous: &Value, mappings: Value) -> PluginCall<'lab> {
        self.lab.plugin("portmap").json(&self.conf(previous, mappings))
    }

    /// Connects a container, publishes these entries, and returns what the bridge said.
    pub(crate) fn publish(&self, container: &Container, mappings: Value) -> Value {
        let previous = self.connect(container);
        self.call(&previous, mappings).add(container).expect_ok();
        previous
    }

    /// Takes a container's ports away.
    pub(crate) fn withdraw(&self, container: &Container) {
        self.call(&Value::Null, json!([])).del(container).expect_ok();
    }

    /// Disconnects a container: its ports first, as a runtime does.
    pub(crate) fn disconnect(&self, container: &Container) {
        self.withdraw(container);
        self.bridge().del(container).expect_ok();
    }

    /// Has both plugins collect what is not valid.
    pub(crate) fn gc(&self, valid: &[(&str, &str)]) {
        self.bridge().gc(valid).expect_ok();
        self.call(&Value::Null, json!([])).gc(valid).expect_ok();
    }
}

/// Tells who answers at a TCP port of the host.
pub(crate) fn by(from: &Container, port: u16) -> Option<String> {
    from.ask_tcp(ip(HOST[0]), port).map(|answer| answer.by).ok()
}

/// Returns what a container publishes, a line each, as the books have it.
pub(crate) fn books(lab: &Lab, container: &str) -> Vec<String> {
    let path = format!("run/weft/ports/owners/{container},eth0.json");
    if !Path::new(&lab.path(&path)).exists() {
        return Vec::new();
    }
    let owner: Value = serde_json::from_str(&lab.read(&path)).unwrap();
    let line = |one: &Value| {
        let text = |key: &str| one[key].as_str().unwrap().to_string();
        format!(
            "{} {} {} -> {} {}",
            text("protocol"),
            text("host"),
            text("hostPorts"),
            text("target"),
            text("targetPorts")
        )
    };
    owner["publications"].as_array().unwrap().iter().map(line).collect()
}

/// Returns the host ports that a container publishes for IPv4.
pub(crate) fn host_ports(lab: &Lab, container: &str) -> Vec<u16> {
    let v4 = books(lab, container).into_iter().filter(|line| line.contains(" 0.0.0.0 "));
    v4.map(|line| line.split(' ').nth(2).unwrap().parse().unwrap()).collect()
}
