//! What is tuned, as a plan.

use weft_model::Endpoint;
use weft_plan::{Plan, Sysctl, Tuning};
use weft_state::Root;

use crate::Settings;

/// Returns the whole plan.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let sysctls = settings.sysctl.iter().map(|(key, value)| Sysctl::set_for(&endpoint.ifname, key, value));
    let mut plan = Plan::new();
    plan.container(Tuning {
        dev: endpoint.ifname.clone(),
        mac: settings.mac,
        mtu: settings.mtu,
        promisc: settings.promisc.then_some(true),
        allmulti: settings.allmulti,
        tx_queue_len: settings.tx_queue_len,
        sysctls: sysctls.collect(),
        kept: Root::tuning_backup(&settings.data_dir, endpoint),
    });
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
            ifname: "eth0.5".parse().unwrap(),
        };
        let bare = Settings { data_dir: "/run/cni/tuning".into(), ..Settings::default() };
        assert_eq!(
            links(&bare, &endpoint).to_string(),
            "container  tune eth0.5, kept in /run/cni/tuning/c_eth0.5.json\n"
        );
        let full = Settings {
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            mtu: Some(1400.try_into().unwrap()),
            promisc: true,
            allmulti: Some(false),
            tx_queue_len: Some(20),
            sysctl: [("net/ipv4/conf/IFNAME/arp_filter".into(), "1".into())].into(),
            ..bare
        };
        assert_eq!(
            links(&full, &endpoint).to_string(),
            "container  tune eth0.5 mac 02:00:00:00:00:07 mtu 1400 promisc on allmulticast off txqueuelen 20, \
             sysctl net/ipv4/conf/eth0.5/arp_filter = 1, kept in /run/cni/tuning/c_eth0.5.json\n"
        );
    }
}
