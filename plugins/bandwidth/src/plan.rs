//! Buckets and where they are, as a plan.

use weft_model::{Endpoint, IfName};
use weft_plan::{End, Plan, Shape, Traffic};

use crate::Settings;

/// Returns the name of the link that what the container sends passes: the reference plugin's if the previous result tells
/// that it made one.
pub(crate) fn ifb(settings: &Settings, endpoint: &Endpoint) -> IfName {
    let upstreams = upstream_ifb(endpoint);
    match &settings.candidates {
        Some(told) if told.iter().any(|name| name == upstreams.as_str()) => upstreams,
        _ => own_ifb(endpoint),
    }
}

fn own_ifb(endpoint: &Endpoint) -> IfName {
    let Endpoint { network, container, ifname } = endpoint;
    IfName::ifb(&format!("{network}\0{container}\0{ifname}"))
}

/// The reference plugin's name for it, which two interfaces of a container in one network share.
fn upstream_ifb(endpoint: &Endpoint) -> IfName {
    IfName::ifb(&format!("{}{}", endpoint.network, endpoint.container))
}

/// Returns the whole plan.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let (ifb, host_end) = (ifb(settings, endpoint), settings.host_end.as_ref());
    if settings.dismantles {
        plan.host(Traffic::Ifb { name: upstream_ifb(endpoint), of: None });
    }
    let shape = |dev: &IfName, rate, end| {
        Traffic::Shape(Shape { dev: dev.clone(), rate, traffic: settings.traffic.clone(), end })
    };
    if let (Some(rate), Some(dev)) = (settings.ingress, host_end) {
        // What comes to the container is told by where it is from.
        plan.host(shape(dev, rate, End::Source));
    }
    if let Some(rate) = settings.egress {
        plan.host(Traffic::Ifb { name: ifb.clone(), of: host_end.cloned() });
        if let Some(dev) = host_end {
            plan.host(shape(&ifb, rate, End::Destination));
            plan.host(Traffic::Redirect { dev: dev.clone(), to: ifb });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use weft_plan::{Rate, Share};

    use super::*;

    fn endpoint(network: &str, container: &str) -> Endpoint {
        let ifname = "eth0".parse().unwrap();
        Endpoint { network: network.parse().unwrap(), container: container.parse().unwrap(), ifname }
    }

    #[test]
    fn the_reference_plugins_name_is_known() {
        let name = upstream_ifb(&endpoint("cni-plugin-bandwidth-test", "dummy"));
        assert_eq!(name.as_str(), "bwpa8eda89404b7");
        let ours = own_ifb(&endpoint("cni-plugin-bandwidth-test", "dummy"));
        assert!(ours != name && ours.as_str().starts_with("bwp") && ours.as_str().len() == 15);
    }

    #[test]
    fn the_plan_says_it_all() {
        let rate = |rate| Some(Rate { rate, burst: 500, limit: 600 });
        let settings = Settings {
            ingress: rate(1000),
            egress: rate(2000),
            host_end: Some("veth7".parse().unwrap()),
            ..Settings::default()
        };
        let ifb = own_ifb(&endpoint("n", "c"));
        assert_eq!(
            links(&settings, &endpoint("n", "c")).to_string(),
            format!(
                "host       shape veth7 rate 1000 burst 500 limit 600 bytes\n\
                 host       link {ifb} type ifb for veth7\n\
                 host       shape {ifb} rate 2000 burst 500 limit 600 bytes\n\
                 host       redirect what veth7 receives to {ifb}\n"
            )
        );
        let subnets = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let some = Settings { egress: None, traffic: Share::Except(subnets), ..settings.clone() };
        assert_eq!(
            links(&some, &endpoint("n", "c")).to_string(),
            "host       shape veth7 rate 1000 burst 500 limit 600 bytes, except from 10.0.0.0/8 fd00::/8\n"
        );
        // DEL without the container: what is told by name alone.
        let gone = Settings { dismantles: true, host_end: None, ..settings };
        let upstream = upstream_ifb(&endpoint("n", "c"));
        assert_eq!(
            links(&gone, &endpoint("n", "c")).to_string(),
            format!("host       link {upstream} type ifb\nhost       link {ifb} type ifb\n")
        );
    }

    #[test]
    fn a_link_that_the_reference_made_is_the_one() {
        let endpoint = endpoint("n", "c");
        let told = |names: &[&IfName]| Settings {
            candidates: Some(names.iter().map(ToString::to_string).collect()),
            ..Settings::default()
        };
        let (own, upstreams) = (own_ifb(&endpoint), upstream_ifb(&endpoint));
        assert_eq!(ifb(&told(&[]), &endpoint), own);
        assert_eq!(ifb(&told(&[&own]), &endpoint), own);
        assert_eq!(ifb(&told(&[&upstreams]), &endpoint), upstreams);
    }
}
