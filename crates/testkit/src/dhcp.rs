//! A DHCP server on a lab's link.

use std::path::PathBuf;

use crate::{Background, Container, Lab, peer, peer_program, until};

/// What the server is told whatever the test: ten addresses of 10.70.0.0/24, and itself as the router.
const FIXED: [&str; 12] = [
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--port=0",
    "--interface=eth0",
    "--bind-interfaces",
    "--dhcp-authoritative",
    "--log-dhcp",
    "--user=root",
    "--pid-file=",
    "--no-ping",
    "--dhcp-range=10.70.0.50,10.70.0.59,255.255.255.0,3m",
    "--dhcp-option=option:router,10.70.0.1",
];

/// A namespace with a DHCP server (dnsmasq), behind a port of the host's bridge `br0`.
#[derive(Debug)]
pub struct DhcpServer {
    // It goes before its namespace.
    running: Option<Background>,
    place: Container,
    program: PathBuf,
    leases: PathBuf,
    log: PathBuf,
}

impl DhcpServer {
    /// Makes the bridge and starts the server, with further options of dnsmasq's; says so if there is none on this
    /// machine.
    pub fn start(lab: &Lab, further: &[&str]) -> Option<Self> {
        let program = peer("/usr/sbin/dnsmasq")?;
        // A bridge without an address of its own takes one of its ports', and the reference's CHECK minds.
        lab.ip("link add br0 address 02:00:00:00:00:01 type bridge");
        // What a plugin's first container does to a bridge that was there before.
        for key in ["accept_dad", "accept_ra"] {
            lab.set_sysctl(&format!("ipv6/conf/br0/{key}"), "0");
        }
        lab.ip("link set br0 up");
        let place = lab.container("server");
        lab.ip("link add up0 type veth peer name eth0 netns server");
        lab.ip("link set up0 master br0 up");
        place.ip("address add 10.70.0.1/24 dev eth0");
        place.ip("link set eth0 up");
        place.ip("link set lo up");
        let [leases, log] = ["served", "log"].map(|name| lab.path(name));
        let mut server = Self { running: None, place, program, leases, log };
        server.serve(further);
        Some(server)
    }

    /// Starts it after [`DhcpServer::stop`].
    pub fn serve(&mut self, further: &[&str]) {
        let starts = || self.log().matches("DHCP, IP range").count();
        let before = starts();
        let files = [
            format!("--dhcp-leasefile={}", self.leases.display()),
            format!("--log-facility={}", self.log.display()),
        ];
        let program = peer_program(&self.program).inside(&self.place);
        let running = program.args(FIXED).args(files).args(further).background();
        until("dnsmasq's start", || starts() > before);
        self.running = Some(running);
    }

    /// Ends it. What it has given it still knows when it is started again.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Returns the server's namespace.
    pub fn place(&self) -> &Container {
        &self.place
    }

    /// Returns what it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns how often a message of this kind passed about this address.
    pub fn said(&self, kind: &str, address: &str) -> usize {
        self.log().matches(&format!("{kind}(eth0) {address} ")).count()
    }

    /// Returns its file of leases: one a line, with the address, the host's name and the client's name for itself.
    pub fn leases(&self) -> String {
        std::fs::read_to_string(&self.leases).unwrap_or_default()
    }

    /// Says whether somebody has an address who calls himself by these words (RFC 2132, section 9.14: type 0).
    pub fn has_given_to(&self, client: &str) -> bool {
        let hex: String = client.bytes().map(|byte| format!(":{byte:02x}")).collect();
        self.leases().lines().any(|line| line.ends_with(&format!(" 00{hex}")))
    }

    /// Returns the addresses that it has given.
    pub fn given(&self) -> Vec<String> {
        self.leases().lines().filter_map(|line| line.split(' ').nth(2)).map(String::from).collect()
    }
}
