//! What a container needs of the host's firewall, as a plan.

use std::net::IpAddr;

use weft_firewall::{Admission, Fragment};
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::Leases;

use crate::Settings;

/// Returns the whole plan.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut addresses = settings.addresses.clone();
    if addresses.is_empty() {
        // On DEL without a previous result, another plugin's record may know them.
        addresses.extend(leases.ips.iter().map(|ip| ip.address.ip()).collect::<Vec<IpAddr>>());
    }
    let mut plan = Plan::new();
    plan.host(Fragment::Admission(Admission {
        endpoint: endpoint.clone(),
        addresses,
        carrier: settings.carrier,
        admin_chain: settings.admin_chain.clone(),
        zone: settings.zone.clone(),
        ingress: settings.ingress.clone(),
        claims: settings.claims.clone(),
    }));
    plan
}

#[cfg(test)]
mod tests {
    use weft_firewall::{Carrier, Ingress};

    use super::*;

    fn settings(carrier: Carrier, ingress: Option<bool>) -> Settings {
        Settings {
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            carrier,
            admin_chain: "CNI-ADMIN".into(),
            zone: "trusted".into(),
            ingress: ingress.map(|closed| Ingress { bridge: "cni0".parse().unwrap(), closed }),
            claims: "/run/weft/masquerade".into(),
        }
    }

    fn printed(settings: &Settings, leases: &Leases) -> String {
        let endpoint = Endpoint {
            network: "n".parse().unwrap(),
            container: "c".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        addresses(settings, &endpoint, leases).to_string()
    }

    #[test]
    fn the_plan_is_one_line() {
        let none = Leases::default();
        assert_eq!(
            printed(&settings(Carrier::Iptables, None), &none),
            "host       admit 10.0.0.2 fd00::2 by iptables\n"
        );
        assert_eq!(
            printed(&settings(Carrier::Auto, Some(false)), &none),
            "host       admit 10.0.0.2 fd00::2 by auto, to bridge cni0 alone\n"
        );
        assert_eq!(
            printed(&settings(Carrier::Weft, Some(true)), &none),
            "host       admit 10.0.0.2 fd00::2 by weft, to nobody but cni0's host\n"
        );
    }

    #[test]
    fn a_record_of_the_addresses_stands_in_for_the_result() {
        let settings = Settings { addresses: Vec::new(), ..settings(Carrier::Iptables, None) };
        let recorded = Leases::of_addresses(&["10.0.0.7/24".parse().unwrap()]);
        assert_eq!(printed(&settings, &recorded), "host       admit 10.0.0.7 by iptables\n");
    }
}
