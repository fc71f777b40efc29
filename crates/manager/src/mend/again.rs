//! The command that connects a container as it was connected.

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;
use weft_cni::json::get;
use weft_model::port::{HostPorts, PublishSpec};
use weft_state::attachment::Record;

use crate::Manager;
use crate::namespace::Container;

impl Manager {
    /// Returns the commands that connect a container anew, with all that it was given and all it publishes.
    pub(super) fn again(&self, record: &Record) -> String {
        let endpoint = &record.endpoint;
        let mut words: Vec<String> = ["weft", "network", "connect"].map(String::from).into();
        let mut option = |name: &str, value: &str| words.extend([name.to_owned(), quoted(value)]);
        for asked in self.asked_at(endpoint) {
            let one = asked.publication;
            let spec = PublishSpec {
                host: Some(one.host),
                host_ports: HostPorts::These(one.host_ports),
                ports: one.target_ports,
                protocol: one.protocol,
                from: one.from,
            };
            option("-p", &spec.to_string());
        }
        let of =
            |v4: bool| record.addresses.iter().map(|one| one.ip()).find(|ip: &IpAddr| ip.is_ipv4() == v4);
        for (name, address) in [("--ip", of(true)), ("--ip6", of(false))] {
            address.into_iter().for_each(|address| option(name, &address.to_string()));
        }
        // Without a name an interface gets the first free one.
        if endpoint.ifname.as_str() != "eth0" {
            option("--interface", endpoint.ifname.as_str());
        }
        given(&record.attach, &mut option);
        let path = record.netns.as_deref().unwrap_or(Path::new(""));
        let netns = argument(path);
        if Container::named(&netns, None).map(|container| container.id).ok().as_ref()
            != Some(&endpoint.container)
        {
            option("--id", endpoint.container.as_str());
        }
        words.extend([endpoint.network.to_string(), quoted(&netns)]);
        format!(
            "weft network disconnect {} {}, then {}",
            endpoint.network,
            endpoint.container,
            words.join(" ")
        )
    }
}

/// Passes on the options that the record keeps as they were given.
fn given(attach: &Value, option: &mut impl FnMut(&str, &str)) {
    for (key, name) in [("name", "--name"), ("mac", "--mac")] {
        get(attach, key).and_then(Value::as_str).into_iter().for_each(|value| option(name, value));
    }
    let aliases = get(attach, "aliases").and_then(Value::as_array).into_iter().flatten();
    aliases.filter_map(Value::as_str).for_each(|alias| option("--alias", alias));
    if let Some(priority) = get(attach, "gatewayPriority").and_then(Value::as_i64).filter(|one| *one != 0) {
        option("--gw-priority", &priority.to_string());
    }
    for (key, value) in get(attach, "sysctl").and_then(Value::as_object).into_iter().flatten() {
        option("--sysctl", &format!("{key}={}", value.as_str().unwrap_or_default()));
    }
}

/// Returns what a person calls a namespace.
fn argument(path: &Path) -> String {
    let text = path.display().to_string();
    let process = text.strip_prefix("/proc/").and_then(|rest| rest.strip_suffix("/ns/net"));
    match (text.strip_prefix("/run/netns/"), process) {
        (Some(name), _) => name.to_owned(),
        (_, Some(pid)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => format!("pid:{pid}"),
        _ => text,
    }
}

/// Returns a word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=+@%".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_and_words_are_written_as_people_type_them() {
        let table = [
            ("/run/netns/red", "red"),
            ("/proc/77/ns/net", "pid:77"),
            ("/proc/self/ns/net", "/proc/self/ns/net"),
        ];
        for (path, typed) in table {
            assert_eq!(argument(Path::new(path)), typed);
        }
        assert_eq!(
            [quoted("[::]:80:80"), quoted("a=1"), quoted("it's")],
            ["'[::]:80:80'", "a=1", r"'it'\''s'"]
        );
    }
}
