//! Tables and a cluster of three hosts.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::ids::ClusterId;
use crate::records::{Block, BlockState, Borrow, BorrowState, Cluster, Egress, Member, Slots, Underlay};
use crate::snapshot::Record;

const BLUE: NetworkId = NetworkId::new([9; 16]);

fn id(number: u8) -> HostId {
    HostId::new([number; 16])
}

fn host(number: u8, mtu: u32) -> Host {
    Host {
        id: id(number),
        name: format!("h{number}"),
        incarnation: 0,
        boot: String::new(),
        underlay: Underlay {
            v4: Some(Ipv4Addr::new(192, 0, 2, number)),
            v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())),
        },
        mesh: number.into(),
        wireguard: Slots::default(),
        mtu,
        version: String::new(),
        epoch: 0,
        superseded_by: None,
    }
}

fn network() -> Network {
    Network {
        id: BLUE,
        name: "blue".parse().unwrap(),
        generation: 1,
        vni: 4096.try_into().unwrap(),
        subnets: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        encryption: Encryption::None,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: String::new(),
    }
}

/// Three hosts with a block of each family, the third with a small MTU.
fn cluster(network: Network, hosts: [Host; 3]) -> Snapshot {
    let mut records = vec![Record::Cluster(Cluster::new(ClusterId::new([1; 16]))), Record::Network(network)];
    for (index, host) in hosts.into_iter().enumerate() {
        let owner = host.id;
        records.push(Record::Host(host));
        records.push(Record::Member(Member { network: BLUE, host: owner, since: String::new() }));
        for cidr in [format!("10.1.0.{}/26", index * 64), format!("fd00:1::{:x}/122", index * 64)] {
            records.push(Record::Block(Block {
                network: BLUE,
                cidr: cidr.parse().unwrap(),
                host: owner,
                epoch: 0,
                state: BlockState::Active,
            }));
        }
    }
    let address = "10.1.9.9".parse().unwrap();
    records.push(Record::Borrow(Borrow {
        network: BLUE,
        address,
        host: id(2),
        holder: "web".into(),
        epoch: 0,
        state: BorrowState::Active,
    }));
    Snapshot::from_records(records)
}

fn hosts() -> [Host; 3] {
    [host(1, 1500), host(2, 1500), host(3, 1400)]
}

fn blue(snapshot: &Snapshot, of: u8) -> Result<DesiredNetwork, Refused> {
    let desired = Desired::of(snapshot, id(of));
    assert!(desired.known);
    match desired.network(&"blue".parse().unwrap()).unwrap() {
        Ok(network) => Ok(network.clone()),
        Err(refused) => Err(refused.clone()),
    }
}

#[test]
fn a_host_gets_its_own_blocks_and_a_way_to_each_peer() {
    let snapshot = cluster(network(), hosts());
    let found = blue(&snapshot, 1).unwrap();
    assert_eq!((found.local.bridge.as_str(), found.local.vxlan.as_str()), ("ovb1000", "ov1000"));
    let gateways: Vec<String> = found.local.blocks.iter().map(|block| block.gateway.to_string()).collect();
    assert_eq!(gateways, ["10.1.0.1", "fd00:1::1"]);
    assert_eq!((found.local.mtu.get(), found.local.outer.port), (1450, 4789));
    let [two, three] = &found.peers[..] else { panic!("{:?}", found.peers) };
    let routes: Vec<String> = two.routes.iter().map(ToString::to_string).collect();
    assert_eq!(routes, ["10.1.0.64/26", "fd00:1::40/122", "10.1.9.9/32"]);
    assert_eq!(two.next_hop(true), "10.1.0.64".parse().ok());
    assert_eq!(two.next_hop(false), "fd00:1::40".parse().ok());
    assert_eq!((two.outer.to_string(), two.mtu), ("192.0.2.2".into(), None));
    assert_eq!(three.mtu.map(Mtu::get), Some(1350), "the way to a host with a smaller MTU");
    assert_eq!(two.mac, vtep_mac(id(2), BLUE));
    // The host with the smaller MTU has it on its own device.
    let small = blue(&snapshot, 3).unwrap();
    assert_eq!((small.local.mtu.get(), small.peers[0].mtu), (1350, None));
}

#[test]
fn the_outer_family_is_everybodys() {
    let mut all = hosts();
    all[1].underlay.v4 = None;
    let found = blue(&cluster(network(), all.clone()), 1).unwrap();
    assert_eq!(found.local.outer.local.to_string(), "2001:db8::1");
    assert_eq!(found.peers[0].outer.to_string(), "2001:db8::2");
    // No family is everybody's: who lacks the usual one is left out, and says so.
    all[2].underlay.v6 = None;
    let snapshot = cluster(network(), all);
    assert!(blue(&snapshot, 2).unwrap_err().why.contains("speak IPv4"));
    assert_eq!(blue(&snapshot, 1).unwrap().peers.len(), 1);
}

#[test]
fn an_encrypted_network_rides_the_mesh() {
    let encrypted = Network { encryption: Encryption::Wireguard, ..network() };
    let snapshot = cluster(encrypted, hosts());
    let found = blue(&snapshot, 1).unwrap();
    let mesh = snapshot.cluster().unwrap().mesh_address(2);
    assert_eq!(found.peers[0].outer, IpAddr::V6(mesh));
    assert_eq!((found.local.outer.port, found.local.mtu.get()), (8473, 1370));
    assert!(
        Desired::of(&snapshot, id(1)).tunnels.unwrap().vnis.is_empty(),
        "its port is guarded, whatever the VNI"
    );
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let with_mtu = |mtu: i64| Network { mtu: Some(mtu.try_into().unwrap()), ..network() };
    let on = |subnet: &str| Network { subnets: vec![subnet.parse().unwrap()], ..network() };
    let mut tiny = hosts();
    tiny[0].mtu = 1300;
    for (network, hosts, words) in [
        (with_mtu(1451), hosts(), "an MTU of 1451 does not fit"),
        (with_mtu(1200), hosts(), "less than the 1280"),
        (network(), tiny, "an MTU of 1250 is less than the 1280"),
        (on("192.0.0.0/16"), hosts(), "overlaps the underlay: host h1 is 192.0.2.1"),
    ] {
        let refused = blue(&cluster(network, hosts), 1).unwrap_err();
        assert!(refused.why.contains(words), "{refused:?}");
        assert!(!refused.hint.is_empty());
    }
    let apart = Network { isolated: true, ..on("192.0.0.0/16") };
    assert!(blue(&cluster(apart, hosts()), 1).is_ok(), "a namespace of its own has no underlay in it");
}

#[test]
fn a_host_nobody_knows_gets_nothing_and_loses_nothing() {
    let desired = Desired::of(&cluster(network(), hosts()), id(8));
    assert!(!desired.known && desired.networks.is_empty());
    assert_eq!(Desired::of(&Snapshot::default(), id(1)), Desired::default());
}

#[test]
fn known_hosts_are_those_that_nobody_has_replaced() {
    let mut all = hosts();
    all[2].superseded_by = Some(id(1));
    let tunnels = Desired::of(&cluster(network(), all), id(1)).tunnels.unwrap();
    let known: Vec<String> = tunnels.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(known, ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]);
    assert_eq!(tunnels.mesh_ports.into_iter().collect::<Vec<_>>(), [51820, 51821]);
}

#[test]
fn overhead_is_that_of_the_headers() {
    assert_eq!(
        [(false, true), (false, false), (true, true), (true, false)].map(|(s, v)| overhead(s, v)),
        [50, 70, 130, 150]
    );
}

#[test]
fn what_a_host_lends_is_behind_another_once_it_has_agreed() {
    let lent: IpAddr = "10.1.0.9".parse().unwrap();
    let with = |state: BorrowState| {
        let records = cluster(network(), hosts()).all().cloned().collect::<Vec<_>>();
        let borrow =
            Borrow { network: BLUE, address: lent, host: id(2), holder: "db".into(), epoch: 1, state };
        Snapshot::from_records(records.into_iter().chain([Record::Borrow(borrow)]))
    };
    for (state, kept, behind) in [
        (BorrowState::Asked, true, false),
        (BorrowState::Active, true, true),
        (BorrowState::Refused { why: "no".into() }, false, false),
    ] {
        let snapshot = with(state);
        let owner = blue(&snapshot, 1).unwrap();
        assert_eq!((owner.local.lent.contains(&lent), owner.behind.contains(&lent)), (kept, behind));
        let routes = &owner.peers.iter().find(|peer| peer.host == id(2)).unwrap().routes;
        assert_eq!(routes.contains(&lent.into()), behind, "{routes:?}");
        assert_eq!(blue(&snapshot, 2).unwrap().local.borrowed.contains(&lent), behind);
        assert!(blue(&snapshot, 3).unwrap().local.lent.is_empty());
    }
}

/// Adds a record to three hosts' cluster, and returns what h1 makes of it: peers' routes, and what it passes over.
fn with_record(record: Record) -> (Vec<String>, Vec<String>) {
    let snapshot = cluster(network(), hosts());
    let all = snapshot.all().cloned().chain([record]);
    let desired = Desired::of(&Snapshot::from_records(all), id(1));
    let peers = desired.networks.iter().flat_map(|network| &network.peers);
    let routes = peers.flat_map(|peer| &peer.routes).map(ToString::to_string).collect();
    let told = desired.passed_over.into_iter().map(|one| format!("{} {}", one.key, one.why));
    (routes, told.collect())
}

#[test]
fn what_a_host_claims_that_cannot_be_its_own_leads_nowhere() {
    let block = |cidr: &str, of: u8, epoch: u64| {
        let cidr = cidr.parse().unwrap();
        Record::Block(Block { network: BLUE, cidr, host: id(of), epoch, state: BlockState::Active })
    };
    let borrow = |address: &str, of: u8| {
        let (address, holder) = (address.parse().unwrap(), String::new());
        Record::Borrow(Borrow {
            network: BLUE,
            address,
            host: id(of),
            holder,
            epoch: 5,
            state: BorrowState::Active,
        })
    };
    let good = ["10.1.0.64/26", "fd00:1::40/122", "10.1.9.9/32", "10.1.0.128/26", "fd00:1::80/122"];
    for (record, words) in [
        (block("198.51.100.0/24", 3, 5), "198.51.100.0-24 it is in no subnet of its network"),
        (block("10.0.0.0/8", 3, 0), "10.0.0.0-8 it is in no subnet of its network"),
        (borrow("198.51.100.7", 3), "198.51.100.7 it is in no subnet of its network"),
        // Inside of what this host gives out itself, whoever claimed first.
        (block("10.1.0.32/28", 3, 0), "10.1.0.32-28 it overlaps 10.1.0.0/26 of host 0101"),
        // Of two others the earlier has it.
        (block("10.1.0.96/28", 3, 5), "10.1.0.96-28 it overlaps 10.1.0.64/26 of host 0202"),
        (block("10.1.0.0/24", 3, 5), "10.1.0.0-24 it overlaps 10.1.0.0/26 of host 0101"),
    ] {
        let (routes, told) = with_record(record);
        assert_eq!(routes, good, "{words}");
        let [told] = &told[..] else { panic!("{told:?}") };
        assert!(told.contains(words), "{told}");
    }
    // The positive twin: a block and an address that may be.
    let (routes, told) = with_record(block("10.1.7.0/26", 3, 5));
    assert!(routes.iter().any(|route| route == "10.1.7.0/26") && told.is_empty(), "{routes:?} {told:?}");
    let (routes, told) = with_record(borrow("10.1.8.8", 3));
    assert!(routes.iter().any(|route| route == "10.1.8.8/32") && told.is_empty(), "{routes:?} {told:?}");
}

#[test]
fn a_network_that_is_refused_is_guarded_all_the_same() {
    let on = |subnet: &str| Network { subnets: vec![subnet.parse().unwrap()], ..network() };
    let desired = Desired::of(&cluster(on("192.0.0.0/16"), hosts()), id(1));
    assert!(desired.networks.is_empty() && desired.refused.len() == 1);
    // Its device may be there from before: plain packets of its VNI come from hosts of the cluster alone.
    assert_eq!(desired.tunnels.unwrap().vnis.into_iter().collect::<Vec<_>>(), [4096]);
    assert_eq!(Desired::of(&Snapshot::default(), id(1)).tunnels, None);
}

#[test]
fn another_hosts_bad_underlay_is_its_own_trouble() {
    let mut all = hosts();
    all[1].underlay.v4 = Some([10, 1, 200, 2].into());
    let snapshot = cluster(network(), all);
    let desired = Desired::of(&snapshot, id(1));
    assert!(desired.refused.is_empty(), "{:?}", desired.refused);
    let peers: Vec<&str> = desired.networks[0].peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(peers, ["h3"]);
    let [told] = &desired.passed_over[..] else { panic!("{:?}", desired.passed_over) };
    assert_eq!(told.key, Key::Member(BLUE, id(2)));
    assert!(told.why.contains("overlaps the underlay: host h2 is 10.1.200.2"), "{}", told.why);
    assert!(blue(&snapshot, 2).is_err(), "on that host it cannot be");
}

#[test]
fn the_mtu_follows_the_outer_family() {
    // A host without IPv4 makes everybody's outer packets of a plain network IPv6, which takes 20 bytes more.
    let mut all = hosts();
    all[1].underlay.v4 = None;
    let found = blue(&cluster(network(), all.clone()), 1).unwrap();
    assert_eq!((found.local.outer.local.is_ipv6(), found.local.mtu.get()), (true, 1430));
    let three = found.peers.iter().find(|peer| peer.name == "h3").unwrap();
    assert_eq!(three.mtu.map(Mtu::get), Some(1330));
    // The mesh has one device for all hosts: it leaves room for the way to that one too.
    let encrypted = Network { encryption: Encryption::Wireguard, ..network() };
    assert_eq!(blue(&cluster(encrypted.clone(), all.clone()), 1).unwrap().local.mtu.get(), 1350);
    // Whoever has no IPv6 does not meet it, and needs no room for that.
    all[0].underlay.v6 = None;
    assert_eq!(blue(&cluster(encrypted.clone(), all), 1).unwrap().local.mtu.get(), 1370);
    assert_eq!(blue(&cluster(encrypted, hosts()), 1).unwrap().local.mtu.get(), 1370);
}
