//! What a container needs that is lent a device, as plans.

use weft_model::Endpoint;
use weft_plan::{Link, Plan};
use weft_plugin::Leases;

use crate::conf::{Device, Settings};

/// Returns what needs no address: the device.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let name = &endpoint.ifname;
    plan.container(match &settings.device {
        Device::Link(lent) => Link::lent(name, Some(lent.clone())),
        Device::Unknown => Link::lent(name, None),
        Device::Unseen => Link::unseen(name),
    });
    plan
}

/// Returns what is built on the device once addresses are known. Those of a device that a program drives are the
/// program's business.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    if settings.device != Device::Unseen {
        plan.container(Link::existing(&endpoint.ifname).up(true));
        leases.configure(&mut plan, &endpoint.ifname, false);
    }
    plan
}

#[cfg(test)]
mod tests {
    use weft_cni::IpConfig;
    use weft_plan::Lent;

    use super::*;
    use crate::conf::Wanted;

    fn whole(device: Device) -> String {
        let endpoint = Endpoint {
            network: "net".parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let settings = Settings { wanted: Wanted::Nothing, device };
        let ips = vec![IpConfig { address: "10.1.2.3/24".parse().unwrap(), gateway: None, interface: None }];
        let leases = Leases { ips, ..Leases::default() };
        format!("{}--\n{}", links(&settings, &endpoint), addresses(&settings, &endpoint, &leases))
    }

    #[test]
    fn a_link_of_the_host() {
        let lent = Lent {
            name: "dev0".parse().unwrap(),
            alias: None,
            mac: None,
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
        };
        insta::assert_snapshot!(whole(Device::Link(lent)), @r#"
        container  link eth0 from host:dev0
        --
        container  link eth0 up
        container  addr 10.1.2.3/24 dev eth0
        "#);
    }

    #[test]
    fn a_device_that_a_program_drives() {
        insta::assert_snapshot!(whole(Device::Unseen), @r#"
        container  link eth0 unseen
        --
        "#);
    }

    #[test]
    fn a_device_nobody_knows_any_more() {
        insta::assert_snapshot!(whole(Device::Unknown), @r#"
        container  link eth0 from host
        --
        container  link eth0 up
        container  addr 10.1.2.3/24 dev eth0
        "#);
    }
}
