//! The membership, as a plan.

use weft_model::Endpoint;
use weft_plan::{Plan, Routing, Vrf};

use crate::Settings;

/// Returns the whole plan.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    if let Some(name) = &settings.name {
        let vrf = Vrf { dev: endpoint.ifname.clone(), name: name.clone(), table: settings.table };
        plan.container(Routing::Vrf(vrf));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_one_line() {
        let endpoint = Endpoint {
            network: "n".parse().unwrap(),
            container: "c".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let of = |name: Option<&str>, table| {
            let name = name.map(|name| name.parse().unwrap());
            links(&Settings { name, table }, &endpoint).to_string()
        };
        assert_eq!(of(Some("blue"), None), "container  join eth0 to vrf blue\n");
        assert_eq!(of(Some("blue"), Some(10)), "container  join eth0 to vrf blue table 10\n");
        assert_eq!(of(None, None), "");
    }
}
