//! Plans as text.

use weft_cni::IpConfig;
use weft_overlay::ids::{HostId, NetworkId};
use weft_overlay::local::{LocalBlock, Outer};
use weft_overlay::records::Underlay;
use weft_state::Root;

use super::*;

fn local() -> LocalNetwork {
    let block = |cidr: &str, gateway: &str| LocalBlock {
        cidr: cidr.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    LocalNetwork {
        schema: LocalNetwork::SCHEMA,
        boot: String::new(),
        id: NetworkId::new([1; 16]),
        name: "blue".parse().unwrap(),
        generation: 1,
        vni: 5000.try_into().unwrap(),
        host: HostId::new([2; 16]),
        bridge: "ovb1388".parse().unwrap(),
        vxlan: "ov1388".parse().unwrap(),
        mtu: 1450.try_into().unwrap(),
        subnets: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        blocks: vec![block("10.1.0.64/26", "10.1.0.65"), block("fd00:1::40/122", "fd00:1::41")],
        borrowed: Vec::new(),
        lent: Vec::new(),
        outer: Outer { local: [192, 0, 2, 1].into(), port: 4789 },
        secure: false,
        isolated: false,
        egress: Egress::Nat,
        fastpath: weft_overlay::records::Fastpath::Never,
        underlay: Underlay { v4: Some([192, 0, 2, 1].into()), v6: None },
        closing: false,
    }
}

fn settings(local: Option<LocalNetwork>) -> Settings {
    let network = "blue".parse().unwrap();
    Settings { network, local, root: Root::new(None), mac: Some(weft_model::Mac([2, 0, 0, 0, 0, 1])) }
}

fn endpoint() -> Endpoint {
    Endpoint {
        network: "blue".parse().unwrap(),
        container: "red".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn leases(settings: &Settings, addresses: &[&str]) -> Result<Leases, Failure> {
    let ip = |text: &&str| IpConfig { address: text.parse().unwrap(), gateway: None, interface: None };
    let leases = Leases { ips: addresses.iter().map(ip).collect(), ..Leases::default() };
    resolve(settings, leases)
}

fn addressed(settings: &Settings, of: &[&str]) -> String {
    let leases = leases(settings, of).unwrap();
    addresses(settings, &endpoint(), &leases).to_string()
}

#[test]
fn a_container_on_a_network_of_both_families() {
    let settings = settings(Some(local()));
    insta::assert_snapshot!(links(&settings, &endpoint()), @r"
    network    link ovb1388 type bridge mtu 1450 up
    network    sysctl net/ipv6/conf/ovb1388/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/ovb1388/accept_dad = 0 if present
    network    link ov1388 type vxlan id 5000 local 192.0.2.1 dstport 4789 nolearning mtu 1450 mac 02:bb:1a:4f:95:ce addrgenmode none up
    network    sysctl net/ipv6/conf/ovb1388/disable_ipv6 = 0 if present
    network    addr 10.1.0.65/26 dev ovb1388
    network    route blackhole 10.1.0.64/26 metric 4278198272 proto 201
    network    addr fd00:1::41/122 dev ovb1388
    network    route blackhole fd00:1::40/122 metric 4278198272 proto 201
    network    sysctl net/ipv4/ip_forward = 1
    network    sysctl net/ipv6/conf/all/forwarding = 1
    network    isolate ovb1388 and ov1388 of blue from other networks
    network    guard ovb1388 of blue: nat
    network    guard ov1388 of blue: nat
    host       link veth6355b07527c peer container:eth0 mtu 1450 peer-mac 02:00:00:00:00:01 master ovb1388 up
    ");
    insta::assert_snapshot!(addressed(&settings, &["10.1.0.66/26", "fd00:1::42/122"]), @r"
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  sysctl net/ipv6/conf/eth0/accept_dad = 0 if present
    container  link eth0 up
    container  sysctl net/ipv6/conf/lo/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/keep_addr_on_down = 1 if present
    container  addr 10.1.0.66/26 dev eth0
    container  addr fd00:1::42/122 dev eth0
    container  route 10.1.0.0/16 via 10.1.0.65 dev eth0 append
    container  route default via 10.1.0.65 dev eth0 append
    container  route fd00:1::/64 via fd00:1::41 dev eth0 append
    container  route default via fd00:1::41 dev eth0 append
    host       masquerade 10.1.0.0/16 fd00:1::/64 of blue by weft
    ");
}

#[test]
fn an_address_that_was_borrowed_has_nobody_around_it() {
    let settings = settings(Some(local()));
    insta::assert_snapshot!(addressed(&settings, &["10.1.9.9/16"]), @r"
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  link eth0 addrgenmode none up
    container  addr 10.1.9.9/32 dev eth0
    host       route 10.1.9.9/32 dev ovb1388
    container  route 10.1.0.65/32 dev eth0
    container  route 10.1.0.0/16 via 10.1.0.65 dev eth0 append
    container  route default via 10.1.0.65 dev eth0 append
    host       masquerade 10.1.0.0/16 fd00:1::/64 of blue by weft
    ");
}

#[test]
fn a_network_without_egress_leads_to_its_own_subnets_alone() {
    let settings = settings(Some(LocalNetwork { egress: Egress::None, ..local() }));
    let plan = addressed(&settings, &["10.1.0.66/26"]);
    assert!(plan.contains("route 10.1.0.0/16 via 10.1.0.65"), "{plan}");
    assert!(!plan.contains("default") && !plan.contains("masquerade"), "{plan}");
    assert!(network(&settings).to_string().contains("isolate ovb1388 and ov1388 of blue from everything"));
}

#[test]
fn a_network_in_a_namespace_of_its_own_has_nobody_to_be_kept_from() {
    let settings = settings(Some(LocalNetwork { isolated: true, ..local() }));
    insta::assert_snapshot!(network(&settings), @r"
    network    link ovb1388 type bridge mtu 1450 up
    network    sysctl net/ipv6/conf/ovb1388/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/ovb1388/accept_dad = 0 if present
    network    link ov1388 type vxlan id 5000 local 192.0.2.1 dstport 4789 nolearning mtu 1450 mac 02:bb:1a:4f:95:ce addrgenmode none up
    network    sysctl net/ipv6/conf/ovb1388/disable_ipv6 = 0 if present
    network    addr 10.1.0.65/26 dev ovb1388
    network    route blackhole 10.1.0.64/26 metric 4278198272 proto 201
    network    addr fd00:1::41/122 dev ovb1388
    network    route blackhole fd00:1::40/122 metric 4278198272 proto 201
    network    sysctl net/ipv4/ip_forward = 1
    network    sysctl net/ipv6/conf/all/forwarding = 1
    network    masquerade 10.1.0.0/16 fd00:1::/64 of blue by weft
    ");
}

#[test]
fn an_encrypted_network_has_no_checksum_and_the_port_of_the_mesh() {
    let outer = Outer { local: "fdab::1".parse().unwrap(), port: 8473 };
    let settings = settings(Some(LocalNetwork { secure: true, outer, ..local() }));
    let plan = network(&settings).to_string();
    assert!(plan.contains("local fdab::1 dstport 8473 nolearning noudpcsum"), "{plan}");
}

#[test]
fn what_is_known_no_more_is_taken_apart_all_the_same() {
    let settings = settings(None);
    let pair = "host       link veth6355b07527c peer container:eth0 peer-mac 02:00:00:00:00:01\n";
    assert_eq!(links(&settings, &endpoint()).to_string(), pair);
    assert_eq!(network(&settings), Plan::new());
    assert_eq!(leases(&settings, &["10.1.0.66/26"]).unwrap_err().code, Code::TryAgainLater);
}

#[test]
fn without_a_block_there_is_no_gateway() {
    let settings = settings(Some(LocalNetwork { blocks: Vec::new(), ..local() }));
    let failure = leases(&settings, &["10.1.9.9/16"]).unwrap_err();
    assert_eq!(failure.code, Code::TryAgainLater);
    assert!(failure.msg.contains("no block of network blue"), "{failure}");
}
