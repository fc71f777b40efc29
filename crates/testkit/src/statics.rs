//! Overlays of hosts that know each other from files: no store and no daemon.

use std::fmt::Write as _;

use crate::{Container, Host, Underlay};

/// A network of static peers. Host `n` has the `n`th block of each subnet, of 64 addresses.
#[derive(Clone, Debug)]
pub struct StaticNetwork {
    /// Its name.
    pub name: &'static str,
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// Its subnets: an IPv4 one of /16 and perhaps an IPv6 one of /64, as `10.1` and `fd00:1`.
    pub v4: &'static str,
    /// As above.
    pub v6: Option<&'static str>,
    /// More lines of its file.
    pub more: &'static str,
}

impl StaticNetwork {
    /// Returns a network of both families.
    pub const fn new(name: &'static str, vni: u32, v4: &'static str, v6: &'static str) -> Self {
        Self { name, vni, v4, v6: Some(v6), more: "" }
    }

    /// Returns the block of a host: 10.1.0.64/26 and fd00:1::40/122 are those of host 1.
    pub fn blocks(&self, host: u8) -> Vec<String> {
        let first = u16::from(host) * 64;
        let v4 = format!("{}.{}.{}/26", self.v4, first >> 8, first & 255);
        let v6 = self.v6.map(|v6| format!("{v6}::{first:x}/122"));
        std::iter::once(v4).chain(v6).collect()
    }

    fn subnets(&self) -> Vec<String> {
        let v6 = self.v6.map(|v6| format!("{v6}::/64"));
        std::iter::once(format!("{}.0.0/16", self.v4)).chain(v6).collect()
    }
}

impl Underlay {
    /// Writes the files of all hosts: everybody knows everybody and every network. `families` says which underlay
    /// addresses they tell each other.
    pub fn write_statics(&self, networks: &[StaticNetwork], families: &str) {
        write_statics(self.hosts(), networks, families);
    }

    /// As [`Underlay::write_statics`], and creates the networks on every host.
    pub fn statics(&self, networks: &[StaticNetwork], families: &str) {
        self.statics_of(self.hosts(), networks, families);
    }

    /// The same with some of the hosts.
    pub fn statics_of(&self, hosts: &[Host], networks: &[StaticNetwork], families: &str) {
        write_statics(hosts, networks, families);
        for host in hosts {
            for network in networks {
                host.create_static(network);
            }
        }
    }
}

fn write_statics(hosts: &[Host], networks: &[StaticNetwork], families: &str) {
    let files: Vec<(String, String)> =
        hosts.iter().map(|host| (host.name().to_string(), host_file(host, networks, families))).collect();
    for host in hosts {
        for (name, text) in &files {
            host.write(&format!("etc/weft/overlay/peers.d/{name}.toml"), text);
        }
        host.write("etc/weft/overlay/host.toml", host_file(host, networks, families));
        for network in networks {
            let StaticNetwork { name, vni, more, .. } = network;
            let subnets = quoted(&network.subnets());
            let text = format!("name = \"{name}\"\nvni = {vni}\nsubnets = [{subnets}]\n{more}\n");
            host.write(&format!("etc/weft/overlay/networks.d/{name}.toml"), text);
        }
    }
}

impl Host {
    /// Creates a network of static peers on this host.
    pub fn create_static(&self, network: &StaticNetwork) {
        let subnets = network.subnets();
        let mut words = vec!["network", "create", "-d", "overlay", network.name];
        words.extend(subnets.iter().flat_map(|subnet| ["--subnet", subnet]));
        if network.more.contains("isolated = true") {
            words.extend(["-o", "isolated"]);
        }
        self.weft(words).expect_ok();
    }

    /// Connects a new container to a network and returns it, with its addresses without prefixes.
    pub fn connected(&self, network: &str, name: &str) -> (Container, Vec<String>) {
        let container = self.container(name);
        self.weft(["network", "connect", network, container.name()]).expect_ok();
        let addresses = container.addresses("eth0");
        let bare = |text: &String| text.split('/').next().unwrap_or_default().to_string();
        let addresses = addresses.iter().map(bare).collect();
        (container, addresses)
    }
}

fn host_file(host: &Host, networks: &[StaticNetwork], families: &str) -> String {
    let (v4, v6) = (host.ipv4().to_string(), host.ipv6().to_string());
    let underlay = match families {
        "v4" => vec![v4],
        "v6" => vec![v6],
        _ => vec![v4, v6],
    };
    let mtu = host.link("u0")["mtu"].clone();
    let mut text = format!("name = \"{}\"\nunderlay = [{}]\nmtu = {mtu}\n", host.name(), quoted(&underlay));
    for network in networks {
        for block in network.blocks(host.number()) {
            let _ = writeln!(text, "[[block]]\nnetwork = \"{}\"\ncidr = \"{block}\"", network.name);
        }
    }
    text
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
