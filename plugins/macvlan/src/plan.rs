//! What a container with a link of type macvlan needs, as a plan.

use weft_cni::Failure;
use weft_model::Endpoint;
use weft_plan::{Kind, Link, Plan};
use weft_plugin::Leases;

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let link = Link::made(&endpoint.ifname, Kind::Macvlan(settings.link), settings.master.over());
    plan.container(link.mtu(settings.master.mtu().ok().flatten()).mac(settings.mac));
    plan
}

/// Completes what the IPAM plugin returned.
pub(crate) fn resolve(settings: &Settings, leases: Leases) -> Result<Leases, Failure> {
    if settings.addressed {
        leases.required()?;
    }
    Ok(leases)
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
        let settings = settings(r#", "master": "up0", "mode": "private", "mtu": 1400, "bcqueuelen": 50"#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type macvlan mode private bcqueuelen 50 over host:up0 mtu 1400
        "#);
    }

    #[test]
    fn a_link_on_one_of_the_container() {
        let settings = settings(r#", "master": "up0", "linkInContainer": true, "mac": "c2:11:22:33:44:01""#);
        insta::assert_snapshot!(links(&settings, &endpoint()), @r#"
        container  link eth0 type macvlan mode bridge over container:up0 mac c2:11:22:33:44:01
        "#);
    }
}
