//! The look whether anybody but us has a say about packets within a network. What cannot be asked counts as somebody.

use std::fs;
use std::io::ErrorKind;

use weft_firewall::{Elements, ElementsOf, Ours, Stranger, Tunnels};
use weft_netlink::bpf::{Links, NetfilterLink, tcx_received};
use weft_netlink::link::LinkInfo;
use weft_netlink::{Socket, ebtables, rule, tc, xfrm};

use super::reason::Reason;
use crate::local::LocalNetwork;

/// Looks, and remembers what has not changed since.
#[derive(Debug, Default)]
pub(super) struct Looker {
    ours: Ours,
    links: Links,
    /// What is the same in all namespaces.
    everywhere: Vec<Reason>,
}

/// What was found in a namespace's ruleset, and which one that was.
#[derive(Debug)]
pub(super) struct Ruleset {
    generation: u32,
    tunnels: Option<Tunnels>,
    strangers: Vec<Stranger>,
    elements: Elements,
}

/// What a network's own links are.
pub(super) struct Devices<'a> {
    pub(super) bridge: &'a LinkInfo,
    pub(super) vxlan: &'a LinkInfo,
    pub(super) ports: &'a [LinkInfo],
}

fn unknown(error: &impl std::fmt::Display) -> Reason {
    Reason::Unknown(error.to_string())
}

impl Looker {
    /// Looks at what is no namespace's.
    pub(super) fn look_everywhere(&mut self) {
        self.everywhere.clear();
        match self.links.netfilter() {
            Ok(found) => {
                self.everywhere.extend(found.into_iter().map(|link: NetfilterLink| Reason::Program(link)))
            }
            Err(error) => self.everywhere.push(unknown(&format!("links of programs: {error}"))),
        }
        match has_shifted_clock() {
            Ok(false) => {}
            Ok(true) => self.everywhere.push(Reason::Incapable(
                "the agent is in a time namespace with another clock than the kernel's programs: /proc/self/timens_offsets"
                    .into(),
            )),
            Err(why) => self.everywhere.push(why),
        }
        match ebtables::modules() {
            Ok(found) => self.everywhere.extend(found.into_iter().map(Reason::Ebtables)),
            Err(error) => self.everywhere.push(unknown(&format!("ebtables: {error}"))),
        }
    }

    /// Looks at the calling thread's namespace, at what all of its networks have in common but for what is in its ruleset.
    pub(super) fn look_around(&self, socket: &mut Socket) -> Vec<Reason> {
        let mut found = self.everywhere.clone();
        // What is not there is no feature of the kernel's only where the others are shown.
        for shown in ["/proc/thread-self/net/dev", "/proc/sys/net/ipv4/ip_forward"] {
            if let Err(error) = fs::read_to_string(shown) {
                found.push(unknown(&format!("{shown}: {error}")));
            }
        }
        for (program, file) in
            [("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")]
        {
            match read(&format!("/proc/thread-self/net/{file}")) {
                Ok(tables) => found.extend(
                    tables.lines().map(|table| Reason::Iptables { program, table: table.to_owned() }),
                ),
                Err(reason) => found.push(reason),
            }
        }
        match read("/proc/thread-self/net/ip_vs") {
            // Three lines are its head.
            Ok(services) if services.lines().count() <= 3 => {}
            Ok(_) => found.push(Reason::Ipvs),
            Err(reason) => found.push(reason),
        }
        match read("/proc/sys/net/netfilter/nf_conntrack_tcp_loose") {
            Ok(loose) if loose.trim() == "0" => found.push(Reason::Strict),
            Ok(_) => {}
            Err(reason) => found.push(reason),
        }
        match xfrm::demands() {
            Ok(demands) => {
                found.extend((demands.policies > 0).then_some(Reason::Ipsec(demands.policies)));
                found.extend(demands.blocks.then_some(Reason::IpsecDefault));
            }
            Err(error) => found.push(unknown(&format!("IPsec: {error}"))),
        }
        match rule::all(socket) {
            Ok(rules) if rules.iter().any(|rule| rule.asks_more) => found.push(Reason::Routing),
            Ok(_) => {}
            Err(error) => found.push(unknown(&format!("rules of routing: {error}"))),
        }
        found
    }

    /// Looks at the calling thread's ruleset, unless it is the one that was looked at last.
    pub(super) fn look_at_rules(
        &self,
        socket: &mut weft_nft::Socket,
        tunnels: Option<&Tunnels>,
        last: &mut Option<Ruleset>,
    ) -> Result<(), Reason> {
        let generation = socket.generation().map_err(|error| unknown(&error))?;
        let same = |last: &Ruleset| {
            // What goes by itself is no change that is counted.
            last.generation == generation && last.tunnels.as_ref() == tunnels && !last.elements.is_passing()
        };
        if last.as_ref().is_some_and(same) {
            return Ok(());
        }
        *last = None;
        let strangers = self.ours.strangers(socket, tunnels);
        let found = strangers.and_then(|strangers| Ok((strangers, Elements::read(socket)?)));
        let (strangers, elements) = match found {
            Ok(found) => found,
            Err(error) => {
                // A list that was broken off may go on for whoever asks next.
                if let Ok(another) = weft_nft::Socket::open() {
                    *socket = another;
                }
                return Err(unknown(&error));
            }
        };
        *last = Some(Ruleset { generation, tunnels: tunnels.cloned(), strangers, elements });
        Ok(())
    }
}

impl Ruleset {
    /// Returns who in it has a say about a network's packets.
    pub(super) fn about(&self, local: &LocalNetwork, devices: &Devices<'_>) -> Vec<Reason> {
        let concerned = |stranger: &&Stranger| {
            let ports = devices.ports.iter().map(|port| port.name.as_str());
            stranger.concerns(
                [&devices.bridge.name, &devices.vxlan.name].map(String::as_str).into_iter().chain(ports),
            )
        };
        let ports: Vec<String> = devices.ports.iter().map(|port| port.name.clone()).collect();
        let elements = self.elements.about(&ElementsOf {
            subnets: &local.subnets,
            links: [&local.bridge, &local.vxlan],
            ports: &ports,
            is_fenced: !local.isolated,
        });
        self.strangers.iter().filter(concerned).cloned().chain(elements).map(Reason::Rules).collect()
    }
}

/// Looks at what is attached to a network's bridge, which packets are led past; what is attached to the other links sees them
/// first.
///
/// KERNEL: of what a link receives XDP and TCX decide before filters of `tc` (__netif_receive_skb_core, sch_handle_ingress), and
/// of those ours is the last.
pub(super) fn look_at_bridge(socket: &mut Socket, devices: &Devices<'_>) -> Vec<Reason> {
    let Devices { bridge, ports, .. } = *devices;
    let link = || bridge.name.clone();
    let mut found = settings(bridge, ports);
    found.extend(bridge.xdp.then(|| Reason::Xdp(link())));
    match tcx_received(bridge.index) {
        Ok(0) => {}
        Ok(_) => found.push(Reason::Tcx(link())),
        Err(error) => found.push(unknown(&format!("programs on {}: {error}", bridge.name))),
    }
    match tc::filters_received(socket, bridge.index) {
        Ok(filters) => {
            found.extend(filters.into_iter().take(1).map(|filter| Reason::Filter { link: link(), filter }));
        }
        Err(error) => found.push(unknown(&format!("filters on {}: {error}", bridge.name))),
    }
    found
}

/// What a bridge is told that keeps packets from it which have reached its port.
///
/// A port without carrier is disabled, and receives nothing.
fn settings(bridge: &LinkInfo, ports: &[LinkInfo]) -> Vec<Reason> {
    const BR_STATE_FORWARDING: u8 = 3;
    let setting = |link: &LinkInfo, setting| Reason::Setting { link: link.name.clone(), setting };
    let mut found = Vec::new();
    if bridge.bridge.is_some_and(|bridge| bridge.vlan_filtering) {
        found.push(setting(bridge, "tells VLANs apart (vlan_filtering)"));
    }
    for port in ports {
        let Some(state) = port.port_state else { continue };
        if port.operational && state.state != BR_STATE_FORWARDING {
            found.push(setting(port, "is a port that is not forwarding"));
        }
        if state.locked {
            found.push(setting(port, "is a port that is locked"));
        }
    }
    found
}

/// Reads what the kernel has only where it has the feature.
fn read(path: &str) -> Result<String, Reason> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Reason::Unknown(format!("{path}: {error}"))),
    }
}

/// Returns whether this process is told another time than programs of the kernel, which ask the gate (time_namespaces(7)).
fn has_shifted_clock() -> Result<bool, Reason> {
    Ok(is_shifted(&read("/proc/self/timens_offsets")?))
}

/// A line has a clock's name, or its number before Linux 5.7, with seconds and nanoseconds.
fn is_shifted(offsets: &str) -> bool {
    offsets.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("monotonic" | "1")) && words.any(|word| word != "0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `unshare --time --monotonic=77` has the kernel show it (proc_timens_show_offsets, kernel/time/namespace.c).
    #[test]
    fn a_time_namespace_with_a_clock_of_its_own_is_told() {
        assert!(!has_shifted_clock().unwrap());
        for (monotonic, boottime, is_told) in [
            ("77         0", "0         0", true),
            ("0         5", "0         0", true),
            ("0         0", "77         0", false),
        ] {
            let shown = format!("monotonic  {monotonic:>20}\nboottime   {boottime:>20}\n");
            assert_eq!(is_shifted(&shown), is_told, "{shown}");
        }
    }
}
