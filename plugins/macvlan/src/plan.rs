//! What a container with a link of type macvlan needs, as a plan.

use weft_model::Endpoint;
use weft_plan::{Kind, Plan};

use crate::conf::Settings;

/// Returns what needs no address: the link.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    plan.container(settings.master.link(&endpoint.ifname, Kind::Macvlan(settings.link)).mac(settings.mac));
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
