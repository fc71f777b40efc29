//! Routing by source, as a plan.

use std::net::IpAddr;

use weft_model::Endpoint;
use weft_plan::{Plan, Routing, SourceRouting};
use weft_plugin::Leases;

use crate::Settings;

/// Returns the whole plan.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let gateway = |of: IpAddr| settings.gateways.iter().copied().find(|one| one.is_ipv4() == of.is_ipv4());
    let with_gateway = leases.ips.iter().map(|ip| (ip.address, gateway(ip.address.ip()).or(ip.gateway)));
    let mut plan = Plan::new();
    plan.container(Routing::Source(SourceRouting {
        dev: endpoint.ifname.clone(),
        addresses: with_gateway.collect(),
        table: settings.table,
        hints: settings.hints,
    }));
    plan
}

#[cfg(test)]
mod tests {
    use weft_cni::{Interface, IpConfig, NetworkResult};

    use super::*;

    fn endpoint() -> Endpoint {
        let ifname = "net1".parse().unwrap();
        Endpoint { network: "n".parse().unwrap(), container: "c".parse().unwrap(), ifname }
    }

    fn result() -> NetworkResult {
        let ip = |address: &str, gateway: Option<&str>, interface| IpConfig {
            address: address.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            interface: Some(interface),
        };
        let inside = |name: &str| Interface {
            name: name.into(),
            sandbox: Some("/run/netns/c".into()),
            ..Interface::default()
        };
        NetworkResult {
            interfaces: vec![inside("eth0"), inside("net1")],
            ips: vec![
                ip("10.0.0.2/24", Some("10.0.0.1"), 0),
                ip("10.1.0.2/24", Some("10.1.0.1"), 1),
                ip("fd01::2/64", None, 1),
            ],
            ..NetworkResult::default()
        }
    }

    #[test]
    fn the_plan_is_one_line() {
        let leases = Leases::of_result(&result(), &endpoint().ifname);
        let own = Settings::default();
        assert_eq!(
            addresses(&own, &endpoint(), &leases).to_string(),
            "container  route net1 by source 10.1.0.2 via 10.1.0.1 fd01::2\n"
        );
        let gateways = vec!["10.1.0.254".parse().unwrap(), "fd01::1".parse().unwrap()];
        let other = Settings { gateways, hints: true, ..own.clone() };
        assert_eq!(
            addresses(&other, &endpoint(), &leases).to_string(),
            "container  route net1 by source 10.1.0.2 via 10.1.0.254 fd01::2 via fd01::1 with hints\n"
        );
        let table = Settings { table: Some(5000), ..own };
        assert_eq!(
            addresses(&table, &endpoint(), &leases).to_string(),
            "container  route net1 by source 10.1.0.2 via 10.1.0.1 fd01::2 table 5000\n"
        );
        let recorded = Leases::of_addresses(&["10.9.0.2/24".parse().unwrap()]);
        assert_eq!(
            addresses(&Settings::default(), &endpoint(), &recorded).to_string(),
            "container  route net1 by source 10.9.0.2\n"
        );
    }
}
