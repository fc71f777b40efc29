//! Where a container's packets go out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use weft_cni::{NetworkResult, Version};
use weft_model::port::{Publication, PublishSpec, allowed_of, is_same_family};
use weft_state::attachment::Record;

use super::mapping;
use crate::connect::metric_of;
use crate::network::Network;

const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The attachment that leads out, by its place in a list: one for each family the container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    v4: Option<usize>,
    v6: Option<usize>,
}

impl Ways {
    /// Returns the attachments with the default routes. A family without one has the first attachment with an
    /// address.
    pub(super) fn of(live: &[Record]) -> Self {
        let way = |any: IpAddr| {
            let has_address =
                |record: &Record| record.addresses.iter().any(|own| is_same_family(own.ip(), any));
            let with_address = live.iter().enumerate().filter(|(_, record)| has_address(record));
            let order = |(index, record): &(usize, &Record)| {
                (!has_default_route(record, any), metric_of(&record.attach), *index)
            };
            with_address.min_by_key(order).map(|(index, _)| index)
        };
        Self { v4: way(ANY_V4), v6: way(ANY_V6) }
    }

    /// Returns the ways of a container whose only attachment is one to this network.
    pub(super) fn of_network(network: &Network) -> Self {
        // Subnets that we do not know may be of either family: the plugin will tell.
        let known = network.subnets().next().is_some();
        let way = |v4: bool| network.subnets().any(|subnet| subnet.is_ipv4() == v4) || !known;
        Self { v4: way(true).then_some(0), v6: way(false).then_some(0) }
    }

    /// Returns the attachments, each once.
    pub(super) fn each(self) -> impl Iterator<Item = usize> {
        self.v4.into_iter().chain(self.v6.filter(|v6| Some(*v6) != self.v4))
    }

    /// Returns the attachment for a published port.
    pub(super) fn of_publication(self, one: &Publication) -> Option<usize> {
        if one.host.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Tells whether ports as typed lead anywhere.
    pub(super) fn lead(self, spec: &PublishSpec) -> bool {
        self.families(spec).next().is_some()
    }

    /// Returns the families that ports as typed are for, each with its attachment.
    pub(super) fn families(self, spec: &PublishSpec) -> impl Iterator<Item = (IpAddr, usize)> {
        let ways = [(ANY_V4, self.v4), (ANY_V6, self.v6)].into_iter();
        let meant = |any: IpAddr| {
            spec.host.is_none_or(|host| is_same_family(host, any)) && allowed_of(&spec.from, any).is_some()
        };
        ways.filter_map(move |(any, way)| Some((any, way?)).filter(|_| meant(any)))
    }

    /// Returns what the plugin of one attachment is told of ports as typed. A port that was chosen for the other
    /// family already is in `chosen`.
    pub(super) fn entries(self, index: usize, spec: &PublishSpec, chosen: &[Publication]) -> Vec<Value> {
        let here: Vec<IpAddr> =
            self.families(spec).filter(|(_, way)| *way == index).map(|(any, _)| any).collect();
        let Some(first) = here.first() else { return Vec::new() };
        // Without an address the plugin takes the network's usual one, for each family the attachment has.
        let apart = self.v4.is_some() && self.v6.is_some() && self.v4 != self.v6;
        let host = spec.host.or(apart.then_some(*first));
        mapping::of_spec(spec, host, chosen)
    }
}

/// Returns whether an attachment brought a default route of the family.
pub(super) fn has_default_route(record: &Record, any: IpAddr) -> bool {
    let result =
        record.result.as_ref().and_then(|result| NetworkResult::from_value(result, Version::LATEST).ok());
    let leads_out = |route: &weft_cni::Route| route.dst.prefix() == 0 && is_same_family(route.dst.ip(), any);
    result.is_some_and(|result| result.routes.iter().any(leads_out))
}

/// Returns whether an attachment brought a default route.
pub(crate) fn leads_out(record: &Record) -> bool {
    has_default_route(record, ANY_V4) || has_default_route(record, ANY_V6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_model::Endpoint;

    use super::*;

    fn record(network: &str, metric: u32, addresses: &[&str], routes: &[&str]) -> Record {
        let endpoint = Endpoint {
            network: network.parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut record = Record::intent(endpoint, None, "bridge").unwrap();
        record.attach = json!({"gatewayMetric": metric});
        record.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let routes: Vec<Value> = routes.iter().map(|dst| json!({"dst": dst})).collect();
        record.result = Some(json!({"cniVersion": "1.1.0", "routes": routes}));
        record
    }

    const BOTH: [&str; 2] = ["10.1.0.2/24", "fd00::2/64"];
    const OUT: [&str; 2] = ["0.0.0.0/0", "::/0"];

    fn spec(text: &str) -> PublishSpec {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_metric_leads_out() {
        let live = [
            record("a", 100, &BOTH, &[]),
            record("b", 300, &BOTH, &OUT),
            record("c", 200, &BOTH[..1], &OUT[..1]),
        ];
        assert_eq!(Ways::of(&live), Ways { v4: Some(2), v6: Some(1) });
        assert_eq!(Ways::of(&live[..2]), Ways { v4: Some(1), v6: Some(1) });
        assert_eq!(Ways::of(&live[..1]), Ways { v4: Some(0), v6: Some(0) }, "better than nothing");
        assert_eq!(Ways::of(&live[2..]), Ways { v4: Some(0), v6: None });
        assert!(leads_out(&live[1]) && leads_out(&live[2]) && !leads_out(&live[0]));
        assert_eq!(Ways { v4: Some(2), v6: Some(1) }.each().collect::<Vec<_>>(), [2, 1]);
        assert_eq!(Ways { v4: Some(1), v6: Some(1) }.each().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn ports_lead_somewhere_or_are_refused() {
        let v4 = Ways { v4: Some(0), v6: None };
        for (text, leads) in [
            ("8080:80", true),
            ("127.0.0.1:8080:80", true),
            ("[::1]:8080:80", false),
            ("8080:80,from=192.0.2.0/24", true),
            ("8080:80,from=fd00::/8", false),
        ] {
            assert_eq!(v4.lead(&spec(text)), leads, "{text}");
        }
    }

    #[test]
    fn families_that_go_out_apart_are_told_apart() {
        let together = Ways { v4: Some(0), v6: Some(0) };
        assert_eq!(together.entries(0, &spec("8080:80"), &[])[0].get("hostIP"), None);
        let apart = Ways { v4: Some(1), v6: Some(0) };
        assert_eq!(apart.entries(1, &spec("8080:80"), &[])[0]["hostIP"], "0.0.0.0");
        assert_eq!(apart.entries(0, &spec("8080:80"), &[])[0]["hostIP"], "::");
        assert_eq!(apart.entries(0, &spec("127.0.0.1:8080:80"), &[]), Vec::<Value>::new());
        assert_eq!(apart.entries(0, &spec("8080:80,from=10.0.0.0/8"), &[]), Vec::<Value>::new());
    }
}
