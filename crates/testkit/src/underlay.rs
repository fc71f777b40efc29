//! Several hosts on one network: the underlay of an overlay.
//!
//! The lab's own namespace is the network between them, a bridge named `ul`. Each host is a namespace with one
//! link, `u0`, and a folder that stands for its `/`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::lab::{make_root, read, write};
use crate::{Capture, Container, Lab, Output, PluginCall, Program, Snapshot, reaches, staged, staged_folder};

/// The number of the host that the network's services (a store) run on, and of the network's own router.
const CTL: u8 = 250;
const ROUTER: u8 = 254;

/// A network with hosts on it. The calling thread's namespace is the network's own.
///
/// Host `n` has 192.0.2.n/24 and 2001:db8::n/64, and routes everything else to the network's router. The router is
/// also the rest of the world, [`Underlay::WORLD`]; it has no route to what hosts keep behind them.
#[derive(Debug)]
pub struct Underlay {
    hosts: Vec<Host>,
    ctl: Container,
    lab: Lab,
}

/// A host: a namespace, and a folder that stands for its `/`.
#[derive(Debug)]
pub struct Host {
    netns: Container,
    number: u8,
    root: PathBuf,
}

impl Underlay {
    /// Addresses that stand for the rest of the world, one of each family.
    pub const WORLD: [&str; 2] = ["203.0.113.1", "2001:db8:f::1"];

    /// Makes a network with hosts 1 to `count`, named `h1` and so on, and the host `ctl`.
    ///
    /// # Panics
    ///
    /// As [`Lab::new`].
    pub fn new(count: u8) -> Self {
        let lab = Lab::new();
        // An address and an MTU of its own: a bridge without takes those of its ports.
        lab.ip("link add ul mtu 1500 address 02:00:00:00:00:fe type bridge mcast_snooping 0");
        lab.ip("link set ul mtu 1500 up");
        lab.ip(&format!("address add 192.0.2.{ROUTER}/24 dev ul"));
        lab.ip(&format!("address add {}/64 dev ul nodad", v6(ROUTER)));
        for address in Self::WORLD {
            lab.ip(&format!("address add {address} dev lo"));
        }
        let ctl = lab.container("ctl");
        plug(&lab, &ctl, CTL);
        let mut underlay = Self { hosts: Vec::new(), ctl, lab };
        for number in 1..=count {
            underlay.add_host(number);
        }
        underlay
    }

    /// Adds a host, at 192.0.2.`number`.
    ///
    /// # Panics
    ///
    /// When there is one of that number.
    pub fn add_host(&mut self, number: u8) -> &Host {
        let netns = self.lab.container(&format!("h{number}"));
        let root = self.lab.path(&format!("hosts/h{number}"));
        make_root(&root);
        plug(&self.lab, &netns, number);
        self.hosts.push(Host { netns, number, root });
        &self.hosts[self.hosts.len() - 1]
    }

    /// Returns a host by number.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn host(&self, number: u8) -> &Host {
        let found = self.hosts.iter().find(|host| host.number == number);
        found.unwrap_or_else(|| panic!("there is no host h{number}"))
    }

    /// Returns all hosts but `ctl`.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns the host for the store, 192.0.2.250 and 2001:db8::fa.
    pub fn ctl(&self) -> &Container {
        &self.ctl
    }

    /// Returns the network between the hosts, as a host of its own.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Starts to keep every frame that passes the network.
    pub fn capture(&self) -> Capture {
        Capture::start(v4(ROUTER))
    }

    /// Makes a host that is on the network and is no member of anything, for attacks: named `stranger`.
    pub fn stranger(&self, number: u8) -> Container {
        let stranger = self.lab.container("stranger");
        plug(&self.lab, &stranger, number);
        stranger
    }
}

fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into()
}

/// Connects a namespace to the network, and waits until it carries packets of both families.
fn plug(lab: &Lab, netns: &Container, number: u8) {
    let name = netns.name();
    lab.ip(&format!("link add v-{name} type veth peer name u0 netns {name}"));
    lab.ip(&format!("link set v-{name} master ul up"));
    netns.ip("link set lo up");
    netns.ip(&format!("address add {}/24 dev u0", v4(number)));
    netns.ip(&format!("address add {}/64 dev u0 nodad", v6(number)));
    netns.ip("link set u0 up");
    for router in [v4(ROUTER), v6(ROUTER)] {
        netns.ip(&format!("route add default via {router}"));
    }
    reaches(netns, [v4(ROUTER), v6(ROUTER)].map(|router| router.to_string()));
}

impl Deref for Host {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.netns
    }
}

impl Host {
    /// Returns the number, the last part of its addresses.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Returns the host's address on the underlay.
    pub fn ipv4(&self) -> IpAddr {
        v4(self.number)
    }

    /// Returns the host's IPv6 address on the underlay.
    pub fn ipv6(&self) -> IpAddr {
        v6(self.number)
    }

    /// Returns the folder that stands for the host's `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a path under [`Host::root`].
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below.trim_start_matches('/'))
    }

    /// Writes a file under [`Host::root`], making its folders.
    pub fn write(&self, below: &str, bytes: impl AsRef<[u8]>) {
        write(&self.path(below), bytes);
    }

    /// Reads a file under [`Host::root`].
    pub fn read(&self, below: &str) -> String {
        read(&self.path(below))
    }

    /// Makes a container on this host: a namespace pinned at `/run/netns/h1-NAME`.
    pub fn container(&self, name: &str) -> Container {
        Container::create(&format!("{}-{name}", self.netns.name()))
    }

    /// Prepares a run of a program on this host: a path, or a name to search for in `PATH`.
    pub fn program(&self, program: impl AsRef<Path>) -> Program {
        let program = Program::new(program).inside(&self.netns);
        program.env("WEFT_ROOT", &self.root).env("CNI_PATH", staged_folder())
    }

    /// Runs the staged `weft` on this host.
    pub fn weft<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Output {
        self.weft_program(words).run()
    }

    /// Prepares a run of the staged `weft` on this host.
    pub fn weft_program<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Program {
        self.program(staged("weft")).args(words)
    }

    /// Prepares a run of the staged `weftd` on this host.
    pub fn weftd<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Program {
        self.program(staged("weftd")).args(words)
    }

    /// Prepares a call of a staged plugin on this host.
    pub fn plugin(&self, kind: &str) -> PluginCall<'_> {
        PluginCall::new(&self.root, kind, staged_folder()).on(&self.netns)
    }

    /// Runs a command line of `sh` on this host.
    pub fn sh(&self, line: &str) -> Output {
        self.program("sh").args(["-c", line]).run()
    }

    /// Returns the host's ruleset as `nft` lists it.
    pub fn ruleset(&self) -> String {
        self.program("nft").args(["-s", "list", "ruleset"]).run().expect_ok().to_string()
    }

    /// Collects the host's state and our files.
    pub fn snapshot(&self) -> Snapshot {
        self.inside(|| Snapshot::take(&self.root))
    }

    /// Gives the host's link another MTU, at both of its ends.
    pub fn set_mtu(&self, lab: &Lab, mtu: u32) {
        lab.ip(&format!("link set v-{} mtu {mtu}", self.name()));
        self.ip(&format!("link set u0 mtu {mtu}"));
    }

    /// Drops that many of 1000 packets; at least one that leave by `u0` or arrive there, chosen at random.
    pub fn lose(&self, per_mille: u16) {
        self.interfere(&format!("numgen random mod 1000 <= {}", per_mille.saturating_sub(1)));
    }

    /// Drops all packets from and to an address. Others pass.
    pub fn cut_off(&self, from: IpAddr) {
        let family = if from.is_ipv4() { "ip" } else { "ip6" };
        self.interfere(&format!("{family} saddr {from}"));
        self.interfere(&format!("{family} daddr {from}"));
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        let script = "table inet interference\ndelete table inet interference";
        self.program("nft").args(["-f", "-"]).stdin(script).run().expect_ok();
    }

    /// Returns how many packets were dropped by what was asked for here.
    ///
    /// # Panics
    ///
    /// When nothing was.
    pub fn dropped(&self) -> u64 {
        let listed = self.sh("nft list table inet interference");
        let counts = listed.expect_ok().split("counter packets ").skip(1);
        counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Before and after everything else, for whatever is routed or local. ARP passes.
    fn interfere(&self, which: &str) {
        let chain = |hook: &str, link: &str, priority: i32| {
            format!(
                "chain {hook} {{ type filter hook {hook} priority {priority}; {link} \"u0\" {which} counter drop; }}"
            )
        };
        let (arriving, leaving) =
            (chain("prerouting", "iifname", -1000), chain("postrouting", "oifname", 1000));
        let script = format!("table inet interference {{\n{arriving}\n{leaving}\n}}");
        self.program("nft").args(["-f", "-"]).stdin(script).run().expect_ok();
    }
}
