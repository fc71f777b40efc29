//! What a container with a link of type tap needs, as a plan.

use weft_model::Endpoint;
use weft_plan::{Kind, Link, Plan, Port};

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let link = Link::made(&endpoint.ifname, Kind::Tap(settings.link.clone()), None);
    let link = link.mtu(settings.mtu).mac(settings.mac);
    plan.container(match &settings.bridge {
        Some(bridge) => link.port(Port::of(bridge)),
        None => link,
    });
    plan
}

#[cfg(test)]
mod tests {
    use weft_plugin::{Call, Verb};

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            network: "net".parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn settings(keys: &str) -> Settings {
        let stdin = format!(r#"{{"name": "net"{keys}}}"#);
        Settings::of(&Call::read(Verb::Check, stdin.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_link_for_one_user() {
        let settings = settings(r#", "owner": 1000, "group": 100, "multiQueue": true, "mtu": 1454"#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type tap multi_queue user 1000 group 100 mtu 1454
        "#);
    }

    #[test]
    fn a_port_of_a_bridge_of_the_container() {
        let settings = settings(r#", "bridge": "br1", "mac": "c2:11:22:33:44:01""#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type tap mac c2:11:22:33:44:01 master br1
        "#);
    }
}
