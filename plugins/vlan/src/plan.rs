//! What a container on a VLAN needs, as a plan.

use weft_model::Endpoint;
use weft_plan::{Kind, Plan};

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    plan.container(settings.master.link(&endpoint.ifname, Kind::Vlan(settings.link)));
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
    fn a_link_for_one_tag() {
        let settings = settings(r#", "master": "up0", "vlanId": 50, "mtu": 1400, "ipam": {"type": "x"}"#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type vlan id 50 over host:up0 mtu 1400
        "#);
    }

    #[test]
    fn a_link_for_one_tag_of_a_link_in_the_container() {
        let settings =
            settings(r#", "master": "up0", "vlanId": 50, "linkInContainer": true, "ipam": {"type": "x"}"#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type vlan id 50 over container:up0
        "#);
    }
}
