//! What a container with a link of type ipvlan needs, as a plan.

use weft_model::Endpoint;
use weft_plan::{Kind, Plan};
use weft_plugin::Leases;

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    plan.container(settings.master.link(&endpoint.ifname, Kind::Ipvlan(settings.link)));
    plan
}

/// Returns what the IPAM plugin returned or, where there is none, what the plugin before this one has.
pub(crate) fn resolve(settings: &Settings, leases: Leases) -> Leases {
    settings.inherited.clone().unwrap_or(leases)
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
    fn a_link_on_one_of_the_host() {
        let settings = settings(r#", "master": "up0", "mode": "l3s", "mtu": 1400, "flag": "vepa""#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type ipvlan mode l3s vepa over host:up0 mtu 1400
        "#);
    }

    #[test]
    fn the_addresses_of_another_plugin_are_taken_over() {
        let ips = vec![weft_cni::IpConfig {
            address: "10.1.2.3/24".parse().unwrap(),
            gateway: None,
            interface: None,
        }];
        let inherited = Leases { ips, ..Leases::default() };
        let settings = Settings { inherited: Some(inherited.clone()), ..settings("") };
        assert_eq!(resolve(&settings, Leases::default()), inherited);
    }
}
