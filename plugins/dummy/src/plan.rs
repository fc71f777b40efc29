//! What a container with an interface that leads nowhere needs, as a plan.

use weft_model::Endpoint;
use weft_plan::{Kind, Link, Plan};

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(_settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    plan.container(Link::made(&endpoint.ifname, Kind::Dummy, None));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_is_one_line() {
        let endpoint = Endpoint {
            network: "net".parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        assert_eq!(links(&Settings, &endpoint).to_string(), "container  link eth0 type dummy\n");
    }
}
