//! What hosts claim.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_overlay::records::{
    Alive, Block, BlockState, Cluster, Egress, Encryption, Pool, Slots, Underlay, encode,
};
use weft_overlay::{ClusterId, HostId, Key, NetworkId, Snapshot, keys};
use weft_store::claims::{ClaimError, Claims, JoinRequest, NewNetwork};
use weft_store::{Op, SharedStore};

use crate::server::Server;

pub(crate) const DAY: u64 = 24 * 3600 * 1000;

pub(crate) fn id(number: u8) -> HostId {
    HostId::new([number; 16])
}

pub(crate) fn cluster() -> Cluster {
    Cluster {
        pools: vec![Pool { base: "10.64.0.0/10".parse().unwrap(), size: 16 }],
        ..Cluster::new(ClusterId::random())
    }
}

/// Host `number` has the underlay address 192.0.2.`number`.
pub(crate) fn request(number: u8) -> JoinRequest {
    JoinRequest {
        id: id(number),
        name: format!("h{number}"),
        boot: "boot".into(),
        underlay: Underlay { v4: Some(Ipv4Addr::new(192, 0, 2, number)), v6: None },
        mtu: 1500,
        version: "0".into(),
        wireguard: Slots::default(),
        takeover: false,
        cluster: cluster(),
    }
}

pub(crate) fn network(name: &str, subnets: &[&str]) -> NewNetwork {
    NewNetwork {
        id: NetworkId::random(),
        name: name.parse().unwrap(),
        vni: None,
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        encryption: Encryption::None,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: Default::default(),
        options: Default::default(),
    }
}

/// Claims by a clock that the test moves.
pub(crate) fn clocked(store: SharedStore) -> (Claims, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(100 * DAY));
    let read = Arc::clone(&clock);
    (Claims::with_clock(store, Arc::new(move || read.load(Ordering::Relaxed))), clock)
}

pub(crate) async fn announce(claims: &Claims, host: HostId) {
    let lease = claims.store().lease(Duration::from_secs(600)).await.unwrap();
    let alive = Alive { host, boot: "boot".into(), degraded: None, used: Default::default() };
    claims.announce(&alive, lease).await.unwrap();
}

pub(crate) async fn snapshot(store: &SharedStore) -> Snapshot {
    Snapshot::from_list(&store.list(keys::PREFIX).await.unwrap())
}

fn cidrs(blocks: &[Block]) -> Vec<String> {
    blocks.iter().map(|block| block.cidr.to_string()).collect()
}

/// Section A1 of the acceptance tests: an empty store, and everybody comes at once.
pub(crate) async fn hosts_that_join_together_get_all_different_things(server: &mut Server) {
    together(&server.patient_stores(8).await).await;
}

/// As above, with three hosts, again and again: each time somebody else may be first with something.
pub(crate) async fn whoever_is_first_hosts_get_all_different_things(server: &mut Server) {
    let stores = server.patient_stores(3).await;
    let admin = &stores[0];
    for _ in 0..50 {
        together(&stores).await;
        for entry in admin.list(keys::PREFIX).await.unwrap().entries.chunks(100) {
            let all: Vec<Op> = entry.iter().map(|entry| Op::Delete(entry.key.clone())).collect();
            assert!(admin.txn(&[], &all).await.unwrap().is_committed());
        }
    }
}

async fn together(stores: &[SharedStore]) {
    let blue = network("blue", &["10.1.0.0/16", "2001:db8:1::/64"]);
    let mut tasks = Vec::new();
    for (number, store) in (1..).zip(stores) {
        let (claims, blue) = (Claims::new(Arc::clone(store)), blue.clone());
        tasks.push(tokio::spawn(async move {
            let joined = claims.join(&request(number)).await.unwrap();
            let made = claims.create_network(&blue).await;
            assert!(made.is_ok() || matches!(made, Err(ClaimError::NetworkExists(_))), "{made:?}");
            let mut blocks = Vec::new();
            for v6 in [false, true] {
                blocks.push(claims.claim_block(id(number), &blue.name, v6).await.unwrap());
            }
            (joined.cluster.id, joined.host.mesh, made.is_ok(), blocks)
        }));
    }
    let (mut clusters, mut meshes, mut made, mut blocks) = (BTreeSet::new(), BTreeSet::new(), 0, Vec::new());
    for task in tasks {
        let (cluster, mesh, first, own) = task.await.unwrap();
        clusters.insert(cluster);
        assert!(meshes.insert(mesh), "two hosts have number {mesh}");
        made += usize::from(first);
        let families: Vec<bool> = own.iter().map(|block| block.cidr.is_ipv6()).collect();
        assert_eq!(families, [false, true]);
        blocks.extend(cidrs(&own));
    }
    assert_eq!((clusters.len(), made), (1, 1));
    let different: BTreeSet<&String> = blocks.iter().collect();
    let all = stores.len();
    assert_eq!((different.len(), blocks.len()), (2 * all, 2 * all), "{blocks:?}");
    let known = snapshot(&stores[0]).await;
    assert_eq!((known.hosts().count(), known.members().count(), known.bad_count()), (all, all, 0));
    let vnis: Vec<u32> = known.networks().map(|network| network.vni.get()).collect();
    assert!(vnis.len() == 1 && vnis[0] >= 4096, "{vnis:?}");
}

/// Section C1, where the store is concerned.
pub(crate) async fn a_host_that_boots_again_is_the_same_host(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let before = claims.join(&request(1)).await.unwrap().host;
    claims.create_network(&network("blue", &["10.1.0.0/16"])).await.unwrap();
    let blue = "blue".parse().unwrap();
    let block = claims.claim_block(id(1), &blue, false).await.unwrap();
    let again = JoinRequest { boot: "another".into(), mtu: 9000, ..request(1) };
    let after = claims.join(&again).await.unwrap().host;
    assert_eq!((after.mesh, after.incarnation, after.epoch), (before.mesh, before.incarnation, before.epoch));
    assert_eq!((after.boot.as_str(), after.mtu), ("another", 9000));
    assert_eq!(snapshot(claims.store()).await.blocks().collect::<Vec<_>>(), [&block]);
    // It may have another address with another boot; the old one is anybody's then.
    let moved = Underlay { v4: Some(Ipv4Addr::new(198, 51, 100, 1)), v6: None };
    claims.join(&JoinRequest { underlay: moved, ..request(1) }).await.unwrap();
    let other = JoinRequest { underlay: request(1).underlay, ..request(2) };
    claims.join(&other).await.unwrap();
    let known = snapshot(claims.store()).await;
    assert_eq!(known.host(id(2)).unwrap().underlay, request(1).underlay);
}

/// Section C3: two hosts with one address, both alive.
pub(crate) async fn an_address_has_one_host(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    claims.join(&request(1)).await.unwrap();
    announce(&claims, id(1)).await;
    let before = claims.store().list(keys::PREFIX).await.unwrap();
    for takeover in [false, true] {
        let second = JoinRequest { id: id(2), takeover, ..request(1) };
        let error = claims.join(&second).await.unwrap_err();
        assert!(matches!(error, ClaimError::AddressInUse { .. }), "{error}");
        let text = error.to_string();
        for part in ["192.0.2.1", "h1", &id(1).to_string(), &id(2).to_string()] {
            assert!(text.contains(part), "{text}");
        }
    }
    assert_eq!(claims.store().list(keys::PREFIX).await.unwrap(), before);
    claims.join(&request(2)).await.unwrap();
}

/// Section C2: a host is replaced under the same address, and the old one comes back.
pub(crate) async fn a_host_is_replaced_under_its_address(server: &mut Server) {
    let (claims, _) = clocked(server.store().await);
    let blue = claims_blue(&claims).await;
    let block = claims.claim_block(id(1), &blue, false).await.unwrap();
    let second = JoinRequest { id: id(2), name: "new".into(), ..request(1) };
    let error = claims.join(&second).await.unwrap_err();
    assert!(matches!(error, ClaimError::AddressOfSilent { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--takeover"));
    let joined = claims.join(&JoinRequest { takeover: true, ..second }).await.unwrap();
    assert_eq!((joined.replaced, joined.host.incarnation), (vec![id(1)], 2));
    let known = snapshot(claims.store()).await;
    assert_eq!(known.host(id(1)).unwrap().superseded_by, Some(id(2)));
    let state = known.block(block.network, block.cidr).unwrap().state;
    assert!(matches!(state, BlockState::Quarantine { .. }), "{state:?}");
    assert!(!known.is_member(block.network, id(1)));
    // The old host is refused whatever it tries.
    let lease = claims.store().lease(Duration::from_secs(600)).await.unwrap();
    let alive = Alive { host: id(1), boot: "boot".into(), degraded: None, used: Default::default() };
    for error in [
        claims.join(&request(1)).await.unwrap_err(),
        claims.announce(&alive, lease).await.unwrap_err(),
        claims.claim_block(id(1), &blue, false).await.unwrap_err(),
        claims.update_host(id(1), |host| host.mtu = 1).await.unwrap_err(),
    ] {
        assert!(matches!(error, ClaimError::Superseded { by, .. } if by == id(2)), "{error}");
    }
}

/// Joins host 1 and makes the network blue of four blocks.
pub(crate) async fn claims_blue(claims: &Claims) -> weft_model::NetworkName {
    claims.join(&request(1)).await.unwrap();
    claims.create_network(&network("blue", &["10.1.0.0/24"])).await.unwrap().name
}

pub(crate) async fn a_host_that_leaves_or_is_forgotten_is_out(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    claims.join(&request(2)).await.unwrap();
    for number in [1, 2] {
        claims.claim_block(id(number), &blue, false).await.unwrap();
        announce(&claims, id(number)).await;
    }
    assert!(matches!(claims.forget(id(2), "gone").await, Err(ClaimError::Alive(_))));
    claims.leave(id(1), "left").await.unwrap();
    claims.store().txn(&[], &[Op::delete(&Key::Alive(id(2)))]).await.unwrap();
    claims.forget(id(2), "its disk burnt").await.unwrap();
    let known = snapshot(claims.store()).await;
    assert_eq!((known.hosts().count(), known.left().count(), known.members().count()), (0, 2, 0));
    assert_eq!(known.blocks().filter(|block| block.state == BlockState::Active).count(), 0);
    assert_eq!(known.blocks().count(), 2);
    assert!(
        !known.all().any(|record| matches!(record.key(), Key::Underlay(_) | Key::Mesh(_) | Key::Alive(_)))
    );
    for (number, words) in [(1, "left"), (2, "its disk burnt")] {
        let error = claims.join(&request(number)).await.unwrap_err();
        assert!(matches!(error, ClaimError::Left { .. }) && error.to_string().ends_with(words), "{error}");
        assert!(matches!(claims.claim_block(id(number), &blue, false).await, Err(ClaimError::Left { .. })));
    }
    claims.leave(id(1), "left").await.unwrap();
    assert!(matches!(claims.forget(id(9), "never was").await, Err(ClaimError::NotJoined(_))));
    // Under a new id the machine is welcome.
    claims.join(&JoinRequest { id: id(3), ..request(1) }).await.unwrap();

    // One whose record makes no sense is put out as any other, with all it had.
    claims.join(&request(4)).await.unwrap();
    claims.claim_block(id(4), &blue, false).await.unwrap();
    announce(&claims, id(4)).await;
    claims.store().txn(&[], &[Op::put(&Key::Host(id(4)), b"{".to_vec())]).await.unwrap();
    assert!(matches!(claims.forget(id(4), "gone").await, Err(ClaimError::Alive(_))));
    claims.store().txn(&[], &[Op::delete(&Key::Alive(id(4)))]).await.unwrap();
    claims.forget(id(4), "gone").await.unwrap();
    let known = snapshot(claims.store()).await;
    assert_eq!((known.bad_count(), known.hosts().count()), (0, 1));
    assert!(
        known
            .all()
            .all(|record| record.owner() != Some(id(4))
                || matches!(record.key(), Key::Block(..) | Key::Left(_)))
    );
    assert!(known.left().any(|left| left.host == id(4)));
}

/// Section F4, where the store is concerned.
pub(crate) async fn networks_are_apart(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let error = claims.create_network(&network("blue", &["10.1.0.0/16"])).await.unwrap_err();
    assert!(matches!(error, ClaimError::NoCluster(_)), "{error}");
    claims.join(&request(1)).await.unwrap();
    let blue = claims.create_network(&network("blue", &["10.1.0.0/16"])).await.unwrap();
    let taken = NewNetwork { vni: Some(blue.vni), ..network("vni", &["10.9.0.0/16"]) };
    for (new, words) in [
        (network("blue", &["10.2.0.0/16"]), "network blue exists already"),
        (network("red", &["10.1.2.0/24"]), "subnet 10.1.2.0/24 overlaps 10.1.0.0/16 of network blue"),
        (network("red", &["192.0.0.0/8"]), "overlaps 192.0.2.1/32 of a host's underlay"),
        (taken, "belongs to another network"),
    ] {
        let error = claims.create_network(&new).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(snapshot(claims.store()).await.networks().count(), 1);
    // A host whose own address lies in a network is refused.
    let inside = Underlay { v4: Some(Ipv4Addr::new(10, 1, 9, 9)), v6: None };
    let error = claims.join(&JoinRequest { underlay: inside, ..request(2) }).await.unwrap_err().to_string();
    assert!(error.contains("subnet 10.1.9.9/32 overlaps 10.1.0.0/16 of network blue"), "{error}");
    // What is removed is free again, with all that was claimed in it.
    claims.claim_block(id(1), &blue.name, false).await.unwrap();
    claims.remove_network(&blue.name).await.unwrap();
    let known = snapshot(claims.store()).await;
    assert_eq!((known.networks().count(), known.blocks().count(), known.members().count()), (0, 0, 0));
    assert!(matches!(claims.remove_network(&blue.name).await, Err(ClaimError::NoNetwork(_))));
    claims.create_network(&network("red", &["10.1.2.0/24"])).await.unwrap();
}

pub(crate) async fn networks_made_together_are_apart(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    claims.join(&request(1)).await.unwrap();
    let mut tasks = Vec::new();
    for number in 0..6 {
        let claims = Claims::new(server.store().await);
        // Three of them want the same addresses, three take what the pool gives.
        let subnets: &[&str] = if number % 2 == 0 { &["10.1.0.0/16"] } else { &[] };
        let new = network(&format!("n{number}"), subnets);
        tasks.push(tokio::spawn(async move { claims.create_network(&new).await }));
    }
    let (mut subnets, mut vnis, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(made) => {
                assert!(subnets.insert(made.subnets[0]) && vnis.insert(made.vni), "{made:?}");
            }
            Err(error) => {
                assert!(matches!(error, ClaimError::Taken(_)), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((subnets.len(), refused), (4, 2), "{subnets:?}");
}

/// Section B7, where the store is concerned: what each host has heard is enough to make the store what it was.
pub(crate) async fn a_wiped_store_has_everything_again(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    for number in [2, 3] {
        claims.join(&request(number)).await.unwrap();
        claims.claim_block(id(number), &blue, false).await.unwrap();
    }
    claims.claim_block(id(1), &blue, false).await.unwrap();
    let before = snapshot(claims.store()).await;
    server.stop();
    server.wipe();
    server.go_on();
    let claims = Claims::new(server.store().await);
    let mut restored = 0;
    for number in [1, 2, 3] {
        let done = claims.reassert(id(number), &before).await.unwrap();
        assert_eq!(done.lost, []);
        restored += done.restored.len();
    }
    let after = snapshot(claims.store()).await;
    assert!(before.difference(&after).is_empty(), "{:?}", before.difference(&after));
    assert_eq!(restored, before.all().count(), "nothing is put twice");
    assert_eq!(claims.reassert(id(1), &before).await.unwrap().restored, []);
    let error = claims.leave(id(1), "left").await;
    assert!(error.is_ok(), "{error:?}");
    assert!(matches!(claims.reassert(id(1), &before).await, Err(ClaimError::Left { .. })));
}

/// A newer weft on another host writes more than this one knows: what this one changes there, it leaves that in.
pub(crate) async fn what_a_newer_host_has_written_stays(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    claims.join(&request(1)).await.unwrap();
    let blue = claims.create_network(&network("blue", &["10.1.0.0/16"])).await.unwrap().name;
    claims.join(&request(2)).await.unwrap();
    let block = claims.claim_block(id(2), &blue, false).await.unwrap();
    let keys = [Key::Cluster, Key::Host(id(1)), Key::Block(block.network, block.cidr)];
    let read = async |key: &Key| -> serde_json::Value {
        let entry = claims.store().get(&key.to_string()).await.unwrap().unwrap();
        serde_json::from_slice(&entry.value).unwrap()
    };
    for key in &keys {
        let mut record = read(key).await;
        record["colour"] = "blue".into();
        claims.store().txn(&[], &[Op::put(key, record.to_string().into())]).await.unwrap();
    }
    claims.create_network(&network("red", &["10.2.0.0/16"])).await.unwrap();
    claims.update_host(id(1), |host| host.mtu = 1400).await.unwrap();
    claims.leave(id(2), "left").await.unwrap();
    for key in &keys {
        assert_eq!(read(key).await["colour"], "blue", "{key}");
    }
    assert_eq!(
        (read(&keys[1]).await["mtu"].clone(), read(&keys[2]).await["state"]["is"].clone()),
        (1400.into(), "quarantine".into())
    );
    // One of a schema that is not known here is not written over, even by whoever had another.
    let before = snapshot(claims.store()).await;
    let put = Op::put(&Key::Host(id(1)), br#"{"schema":2}"#.to_vec());
    claims.store().txn(&[], &[put]).await.unwrap();
    let done = claims.reassert(id(1), &before).await.unwrap();
    assert_eq!((done.newer, done.restored), (vec![Key::Host(id(1))], vec![]));
    assert_eq!(read(&Key::Host(id(1))).await, serde_json::json!({"schema": 2}));
    let put = Op::put(&Key::Host(id(1)), b"{".to_vec());
    claims.store().txn(&[], &[put]).await.unwrap();
    assert_eq!(claims.reassert(id(1), &before).await.unwrap().restored, [Key::Host(id(1))]);
}

/// A host is of one cluster: to another one's store it says nothing.
pub(crate) async fn another_clusters_store_hears_nothing(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    claims.join(&request(1)).await.unwrap();
    let before = snapshot(claims.store()).await;
    let (ours, theirs) = (before.cluster().unwrap().id, ClusterId::random());
    server.stop();
    server.wipe();
    server.go_on();
    let claims = Claims::new(server.store().await);
    let other = Cluster { id: theirs, ..before.cluster().unwrap().clone() };
    claims.store().txn(&[], &[Op::put(&Key::Cluster, encode(&other))]).await.unwrap();
    let error = claims.reassert(id(1), &before).await.unwrap_err();
    assert!(
        matches!(error, ClaimError::OtherCluster { there, ours: of } if (there, of) == (theirs, ours)),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("weft overlay leave -f"));
    assert_eq!(snapshot(claims.store()).await.all().count(), 1);
    claims.store().txn(&[], &[Op::delete(&Key::Cluster)]).await.unwrap();
    claims.reassert(id(1), &before).await.unwrap();
    let after = snapshot(claims.store()).await;
    assert!(before.difference(&after).is_empty(), "{:?}", before.difference(&after));
}

pub(crate) async fn an_earlier_claim_is_right(server: &mut Server) {
    let (claims, clock) = clocked(server.store().await);
    let blue = claims_blue(&claims).await;
    let early = claims.claim_block(id(1), &blue, false).await.unwrap();
    let before = snapshot(claims.store()).await;
    // The store has lost host 1 and its block, and host 2 takes what looks free.
    for key in [Key::Host(id(1)), Key::Block(early.network, early.cidr), Key::Member(early.network, id(1))] {
        claims.store().txn(&[], &[Op::delete(&key)]).await.unwrap();
    }
    clock.fetch_add(5000, Ordering::Relaxed);
    claims.join(&request(2)).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(claims.claim_block(id(2), &blue, false).await.unwrap());
    }
    assert!(taken.iter().any(|block| block.cidr == early.cidr));
    let other = snapshot(claims.store()).await;
    let done = claims.reassert(id(1), &before).await.unwrap();
    assert_eq!((done.restored.len(), done.lost.len()), (3, 0), "{done:?}");
    let known = snapshot(claims.store()).await;
    assert_eq!(known.block(early.network, early.cidr).unwrap().host, id(1));
    // The later one has to see that it lost it.
    let done = claims.reassert(id(2), &other).await.unwrap();
    assert_eq!(done.lost, [(Key::Block(early.network, early.cidr), id(1))]);
}

pub(crate) async fn a_record_that_makes_no_sense_is_nobodys_to_take(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    let network = snapshot(claims.store()).await.network_named(&blue).unwrap().id;
    let odd = "10.1.0.64/26".parse().unwrap();
    for (key, value) in [
        (Key::Block(network, odd).to_string(), "{"),
        (format!("{}what", keys::PREFIX), "\u{0}"),
        (Key::Host(id(7)).to_string(), r#"{"schema":9}"#),
    ] {
        let put = Op::Put { key, value: value.into(), lease: None };
        claims.store().txn(&[], &[put]).await.unwrap();
    }
    for _ in 0..3 {
        assert_ne!(claims.claim_block(id(1), &blue, false).await.unwrap().cidr, odd);
    }
    assert!(matches!(claims.claim_block(id(1), &blue, false).await, Err(ClaimError::Exhausted { .. })));
    let known = snapshot(claims.store()).await;
    assert_eq!((known.bad_count(), known.hosts().count()), (3, 1));
    // One that would have to be read is named.
    let error = claims.join(&request(7)).await.unwrap_err();
    assert!(matches!(&error, ClaimError::Bad { key, .. } if *key == Key::Host(id(7)).to_string()), "{error}");
}
