//! Addresses, routes and DNS of one attachment.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Code, Dns, Failure, IpConfig, NetworkResult, Route};
use weft_model::IfName;
use weft_plan::{Address, Link, Plan, Rivals, Sysctl};

/// What the IPAM plugin gave, completed by the driver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leases {
    /// The addresses, with the gateway of each.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// The resolver settings.
    pub dns: Dns,
}

impl From<NetworkResult> for Leases {
    /// Takes the addresses of a result from whatever interface they are on.
    fn from(result: NetworkResult) -> Self {
        let ips = result.ips.into_iter().map(|ip| IpConfig { interface: None, ..ip });
        Self { ips: ips.collect(), routes: result.routes, dns: result.dns }
    }
}

impl Leases {
    /// Takes the part of a result that concerns addresses; with `interface`, only what belongs to that entry.
    ///
    /// CNI: on CHECK and DEL the result is that of the whole chain, which may have addresses on
    /// interfaces of other plugins (SPEC 1.1.0, section 4).
    pub fn of_result(result: &NetworkResult, ifname: &IfName) -> Self {
        let index = result.interfaces.iter().position(|link| {
            link.name == ifname.as_str() && link.sandbox.as_deref().is_some_and(|s| !s.is_empty())
        });
        let ours = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == index;
        Self {
            ips: result.ips.iter().filter(ours).cloned().collect(),
            routes: result.routes.clone(),
            dns: result.dns.clone(),
        }
    }

    /// Returns leases that have these addresses and nothing else.
    pub fn of_addresses(addresses: &[IpNetwork]) -> Self {
        let ip = |&address| IpConfig { address, gateway: None, interface: None };
        Self { ips: addresses.iter().map(ip).collect(), ..Self::default() }
    }

    /// Returns the addresses.
    pub fn addresses(&self) -> Vec<IpNetwork> {
        self.ips.iter().map(|ip| ip.address).collect()
    }

    /// Returns the gateway of the first address of the family of `of` that has one.
    fn gateway(&self, of: &IpNetwork) -> Option<IpAddr> {
        self.ips.iter().filter(|ip| ip.address.is_ipv4() == of.is_ipv4()).find_map(|ip| ip.gateway)
    }

    /// Refuses leases without addresses.
    ///
    /// # Errors
    ///
    /// Code 999 with the reference plugins' words.
    pub(super) fn required(&self) -> Result<(), Failure> {
        if self.ips.is_empty() {
            return Err(Failure::text(Code::Internal, "IPAM plugin returned missing IP config"));
        }
        Ok(())
    }

    /// Adds the container's addresses and routes to a plan; `dad` has IPv6 addresses probed for duplicates.
    pub fn configure(&self, plan: &mut Plan, ifname: &IfName, dad: bool) {
        self.configure_addresses(plan, ifname, |address| address.dad(dad));
        self.configure_routes(plan, ifname);
    }

    /// Returns what an interface on a network of others needs besides itself: that it is up, its addresses and routes,
    /// and that its neighbours are told.
    pub fn announced(&self, ifname: &IfName) -> Plan {
        let mut plan = Plan::new();
        let has = |v4| self.ips.iter().any(|ip| ip.address.is_ipv4() == v4);
        if has(true) {
            plan.container(Sysctl::attempt(format!("net/ipv4/conf/{ifname}/arp_notify"), "1"));
        }
        if has(false) {
            plan.container(Sysctl::attempt(format!("net/ipv6/conf/{ifname}/ndisc_notify"), "1"));
        }
        plan.container(Link::existing(ifname).up(true));
        self.configure(&mut plan, ifname, false);
        plan
    }

    /// Adds the container's addresses to a plan, after what they need.
    pub fn configure_addresses(&self, plan: &mut Plan, ifname: &IfName, how: impl Fn(Address) -> Address) {
        if self.ips.iter().any(|ip| ip.address.is_ipv6()) {
            // A host may have IPv6 off by default and still want it where somebody asked for an address.
            for dev in ["lo", ifname.as_str()] {
                plan.container(Sysctl::attempt(format!("net/ipv6/conf/{dev}/disable_ipv6"), "0"));
            }
            // KERNEL: without it a link that goes down loses its IPv6 addresses (addrconf_ifdown, net/ipv6/addrconf.c).
            plan.container(Sysctl::attempt(format!("net/ipv6/conf/{ifname}/keep_addr_on_down"), "1"));
        }
        for ip in &self.ips {
            plan.container(how(Address::on(ifname, ip.address)));
        }
    }

    /// Adds the container's routes to a plan. Several routes to one destination stand side by side, as the reference
    /// plugins have it.
    pub fn configure_routes(&self, plan: &mut Plan, ifname: &IfName) {
        for route in &self.routes {
            let step = weft_plan::Route::to(route.dst, ifname)
                .via(route.gw.or_else(|| self.gateway(&route.dst)))
                .metric(route.priority)
                .table(route.table)
                .scope(route.scope)
                .mtu(route.mtu)
                .advmss(route.advmss)
                .rivals(Rivals::Join);
            plan.container(step);
        }
    }
}
