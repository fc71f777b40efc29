use std::net::Ipv4Addr;

use proptest::prelude::*;

use weft_state::Root;
use weft_state::atomic::Durability;

use super::*;
use crate::ids::ClusterId;
use crate::records::{BlockState, Egress, Encryption, HostClaim, Slots, Underlay, VniClaim};

fn id(number: u8) -> HostId {
    HostId::new([number; 16])
}

fn host(number: u8) -> Record {
    Record::Host(Host {
        id: id(number),
        name: format!("h{number}"),
        incarnation: 0,
        boot: String::new(),
        underlay: Underlay { v4: Some(Ipv4Addr::new(192, 0, 2, number)), v6: None },
        mesh: u32::from(number),
        wireguard: Slots::default(),
        mtu: 1500,
        version: String::new(),
        epoch: 1,
        superseded_by: None,
    })
}

fn block(number: u8, of: u8, epoch: u64) -> Record {
    Record::Block(Block {
        network: NetworkId::new([1; 16]),
        cidr: format!("10.1.{number}.0/26").parse().unwrap(),
        host: id(of),
        epoch,
        state: BlockState::Active,
    })
}

fn left(number: u8) -> Record {
    Record::Left(Left { host: id(number), at: 1, reason: "left".into() })
}

fn entry(record: &Record, modified: i64) -> Entry {
    Entry { key: record.key().to_string(), value: record.value(), created: modified, modified }
}

fn listing(store: u64, revision: i64, records: &[Record]) -> Listing {
    Listing { store, revision, entries: records.iter().map(|record| entry(record, revision)).collect() }
}

/// A cluster of six: h1 is this host.
fn six() -> Vec<Record> {
    let mut records = vec![Record::Cluster(Cluster::new(ClusterId::new([9; 16])))];
    for number in 1..=6 {
        records.extend([host(number), block(number, number, 1)]);
    }
    records
}

fn known() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.adopt(&listing(7, 100, &six()), Some(id(1)));
    snapshot
}

fn without(numbers: &[u8]) -> Vec<Record> {
    let gone = |record: &Record| record.owner().is_some_and(|owner| numbers.iter().any(|n| owner == id(*n)));
    six().into_iter().filter(|record| !gone(record)).collect()
}

fn hosts(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.hosts().map(|host| host.name.as_str()).collect()
}

#[test]
fn a_listing_is_compared_by_attribute() {
    let mut snapshot = known();
    let mut records = six();
    let Record::Host(moved) = &mut records[3] else { panic!() };
    moved.underlay.v4 = Some(Ipv4Addr::new(198, 51, 100, 2));
    let key = Key::Host(moved.id);
    let changes = snapshot.adopt(&listing(7, 101, &records), Some(id(1)));
    assert_eq!((changes.changed, changes.added, changes.removed), (vec![key], vec![], vec![]));
    assert_eq!(snapshot.host(id(2)).unwrap().underlay.v4, Some(Ipv4Addr::new(198, 51, 100, 2)));
    assert!(snapshot.adopt(&listing(7, 102, &records), Some(id(1))).is_empty());
    assert_eq!(snapshot.revision, 102);
}

#[test]
fn a_few_hosts_may_vanish_and_more_may_not() {
    let mut snapshot = known();
    let changes = snapshot.adopt(&listing(7, 101, &without(&[5, 6])), Some(id(1)));
    assert_eq!((changes.removed.len(), changes.alarm), (4, None));
    assert_eq!(hosts(&snapshot), ["h1", "h2", "h3", "h4"]);

    let mut snapshot = known();
    let changes = snapshot.adopt(&listing(7, 101, &without(&[4, 5, 6])), Some(id(1)));
    assert_eq!(changes.alarm, Some(Alarm::Vanished { gone: 3, known: 5 }));
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!((snapshot.hosts().count(), snapshot.blocks().count(), snapshot.held().count()), (6, 6, 6));

    // What is held stays with the next listing, without another alarm, until the host comes back or has left.
    let mut records = without(&[4, 5, 6]);
    records.extend([host(4), left(5)]);
    let changes = snapshot.adopt(&listing(7, 102, &records), Some(id(1)));
    assert_eq!(changes.alarm, None);
    assert_eq!(hosts(&snapshot), ["h1", "h2", "h3", "h4", "h6"]);
    assert_eq!(snapshot.block(NetworkId::new([1; 16]), "10.1.5.0/26".parse().unwrap()), None);
    let changes = snapshot.accept();
    assert_eq!(hosts(&snapshot), ["h1", "h2", "h3", "h4"]);
    assert_eq!((changes.removed.len(), snapshot.held().count()), (3, 0));
}

#[test]
fn hosts_that_said_so_may_all_leave() {
    let mut snapshot = known();
    let mut records = without(&[2, 3, 4, 5, 6]);
    records.extend((2..=6).map(left));
    let changes = snapshot.adopt(&listing(7, 101, &records), Some(id(1)));
    assert_eq!((changes.alarm, snapshot.hosts().count()), (None, 1));
}

#[test]
fn an_empty_store_takes_nothing() {
    for (store, revision, alarm) in [
        (8, 1, Alarm::Replaced { was: 7, is: 8 }),
        (7, 1, Alarm::SetBack { was: 100, is: 1 }),
        (7, 101, Alarm::Wiped),
    ] {
        let mut snapshot = known();
        let before: Vec<Record> = snapshot.all().cloned().collect();
        let changes = snapshot.adopt(&listing(store, revision, &[]), Some(id(1)));
        assert_eq!(changes.alarm, Some(alarm));
        assert!(changes.is_empty());
        assert_eq!(snapshot.all().cloned().collect::<Vec<_>>(), before);
        // Each host says again what it had; then nothing is held.
        let mut records = six();
        records.push(host(7));
        let changes = snapshot.adopt(&listing(store, revision + 20, &records), Some(id(1)));
        assert_eq!((changes.alarm, changes.added), (None, vec![Key::Host(id(7))]));
        assert_eq!(snapshot.held().count(), 0);
    }
}

#[test]
fn everything_deleted_at_once_is_held_and_a_tombstone_is_obeyed() {
    let mut snapshot = known();
    let all: Vec<Event> =
        six().iter().map(|record| Event::Delete { key: record.key().to_string(), revision: 101 }).collect();
    let changes = snapshot.apply(&all, Some(id(1)));
    assert_eq!(changes.alarm, Some(Alarm::Wiped));
    assert_eq!((snapshot.hosts().count(), snapshot.revision), (6, 101));
    let changes = snapshot.apply(&[Event::Put(entry(&left(3), 102))], Some(id(1)));
    assert_eq!(changes.removed.len(), 2, "{changes:?}");
    assert!(snapshot.host(id(3)).is_none() && snapshot.host(id(2)).is_some());
}

#[test]
fn a_host_that_leaves_goes() {
    let mut snapshot = known();
    let events = [
        Event::Put(entry(&left(2), 101)),
        Event::Delete { key: host(2).key().to_string(), revision: 101 },
        Event::Delete { key: block(2, 2, 1).key().to_string(), revision: 101 },
    ];
    let changes = snapshot.apply(&events, Some(id(1)));
    assert_eq!((changes.removed.len(), changes.added.len(), changes.alarm), (2, 1, None));
    assert!(snapshot.host(id(2)).is_none());
}

#[test]
fn an_older_store_does_not_set_records_back() {
    let mut snapshot = known();
    let Record::Host(mut moved) = host(2) else { panic!() };
    moved.mtu = 9000;
    snapshot.apply(&[Event::Put(entry(&Record::Host(moved.clone()), 110))], Some(id(1)));
    // The backup is of revision 105; h9 has joined the restored store meanwhile and taken what h3 had.
    let mut records = six();
    records.extend([host(9)]);
    records.retain(|record| record.key() != block(3, 3, 1).key());
    records.push(block(3, 9, 50));
    let changes = snapshot.adopt(&listing(7, 105, &records), Some(id(1)));
    assert_eq!(changes.alarm, Some(Alarm::SetBack { was: 110, is: 105 }));
    assert_eq!(snapshot.host(id(2)).unwrap().mtu, 9000);
    let taken = |snapshot: &Snapshot| {
        snapshot.block(NetworkId::new([1; 16]), "10.1.3.0/26".parse().unwrap()).unwrap().host
    };
    assert_eq!(taken(&snapshot), id(3), "the earlier claim is right");
    assert!(snapshot.host(id(9)).is_some());
    // The operator gives h3 up: what the store says counts then.
    snapshot.apply(&[Event::Put(entry(&left(3), 106))], Some(id(1)));
    assert_eq!(taken(&snapshot), id(9));
    // h2 says again what it is.
    snapshot.apply(&[Event::Put(entry(&Record::Host(moved), 107))], Some(id(1)));
    assert!(!snapshot.held().any(|key| *key == Key::Host(id(2))));
}

#[test]
fn what_is_no_record_is_passed_over_and_counted() {
    let mut snapshot = known();
    let key = host(2).key().to_string();
    let put = |key: &str, value: &[u8]| {
        Event::Put(Entry { key: key.into(), value: value.into(), created: 101, modified: 101 })
    };
    let elsewhere = host(3).value();
    let long = "x".repeat(100_000);
    let events = [
        put(&key, b"{"),
        put("/weft/v1/what/is/this", b"{}"),
        put(&host(4).key().to_string(), &elsewhere),
        put(&format!("/weft/v1/net/{long}"), b"{}"),
    ];
    assert!(snapshot.apply(&events, None).is_empty());
    assert_eq!((snapshot.bad_count(), snapshot.hosts().count()), (4, 6));
    assert!(snapshot.bad().all(|bad| bad.key.len() <= crate::keys::MAX_BYTES && bad.why.len() < 400));
    let why = snapshot.bad().find(|bad| bad.key == host(4).key().to_string()).unwrap().why;
    assert!(why.contains("the record is about /weft/v1/host/0303"), "{why}");
    snapshot.apply(&[put(&key, &host(2).value())], None);
    snapshot.apply(&[Event::Delete { key: "/weft/v1/what/is/this".into(), revision: 102 }], None);
    assert_eq!(snapshot.bad_count(), 2);
}

#[test]
fn a_snapshot_survives_the_disk_with_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(Some(dir.path().into()));
    assert_eq!(Snapshot::last(&root).unwrap(), None);
    let mut snapshot = known();
    let alive = Record::Alive(Alive { host: id(2), boot: "b".into(), degraded: None, used: BTreeMap::new() });
    snapshot.apply(&[Event::Put(entry(&alive, 101))], None);
    snapshot.adopt(&listing(8, 1, &[]), Some(id(1)));
    snapshot.save(&root, Durability::Disk).unwrap();
    let read = Snapshot::last(&root).unwrap().unwrap();
    assert!(snapshot.difference(&read).is_empty());
    assert_eq!(read.held().count(), snapshot.held().count());
    assert_eq!((read.store, read.revision, read.alive(id(2))), (8, 1, None));
    // What was written for this boot is newer, and void in another.
    known().save(&root, Durability::Boot).unwrap();
    assert_eq!(Snapshot::last(&root).unwrap().unwrap().revision, 100);
    let path = root.overlay_agent_dir().join("state.json");
    let other = std::fs::read_to_string(&path).unwrap().replace("\"boot\":\"", "\"boot\":\"another");
    weft_state::atomic::write(&path, other.as_bytes(), Durability::Boot, 0o600).unwrap();
    assert_eq!(Snapshot::last(&root).unwrap().unwrap().revision, 1);
    // What the store says of a network that was altered is remembered, so that its removal is one after a restart as well.
    let mut altered = knowing_blue();
    let bad = Network { encryption: Encryption::None, ..network("blue", 1, 5000) };
    altered.apply(&[Event::Put(entry(&Record::Network(bad.clone()), 101))], Some(id(1)));
    altered.save(&root, Durability::Boot).unwrap();
    let mut altered = Snapshot::last(&root).unwrap().unwrap();
    assert_eq!(altered.networks().next().unwrap().encryption, Encryption::Wireguard);
    let gone = [Key::Network(bad.name.clone()), Key::Vni(bad.vni)];
    let gone = gone.map(|key| Event::Delete { key: key.to_string(), revision: 102 });
    altered.apply(&gone, Some(id(1)));
    assert_eq!((altered.networks().count(), altered.held().count()), (0, 0));
    // A restarted agent that finds the store still empty does not drop what it held.
    let mut read = read;
    let changes = read.adopt(&listing(8, 2, &[]), Some(id(1)));
    assert!(changes.is_empty(), "{changes:?}");
    Snapshot::forget(&root).unwrap();
    assert_eq!(Snapshot::last(&root).unwrap(), None);
    Snapshot::forget(&root).unwrap();
}

fn network(name: &str, number: u8, vni: u32) -> Network {
    Network {
        id: NetworkId::new([number; 16]),
        name: name.parse().unwrap(),
        generation: 1,
        vni: vni.try_into().unwrap(),
        subnets: vec!["10.1.0.0/16".parse().unwrap()],
        encryption: Encryption::Wireguard,
        isolated: false,
        egress: Egress::Nat,
        mtu: None,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: String::new(),
    }
}

fn claim(of: &Network) -> Record {
    Record::Vni(of.vni, VniClaim { network: of.id })
}

/// A cluster of six with a network that all of them are in.
fn with_blue() -> Vec<Record> {
    let blue = network("blue", 1, 5000);
    let member = |number| Member { network: blue.id, host: id(number), since: String::new() };
    let members: Vec<Record> = (1..=6).map(|number| Record::Member(member(number))).collect();
    six().into_iter().chain(members).chain([claim(&blue), Record::Network(blue)]).collect()
}

fn knowing_blue() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.adopt(&listing(7, 100, &with_blue()), Some(id(1)));
    snapshot
}

#[test]
fn what_never_changes_of_a_network_does_not_change() {
    let good = network("blue", 1, 5000);
    let key = Key::Network(good.name.clone());
    for bad in [
        Network { encryption: Encryption::None, ..good.clone() },
        Network { isolated: true, ..good.clone() },
        Network { vni: 5001.try_into().unwrap(), ..good.clone() },
    ] {
        // By a change, beside a loss, and by a listing.
        let put = Event::Put(entry(&Record::Network(bad.clone()), 101));
        let loss = Event::Delete { key: block(6, 6, 1).key().to_string(), revision: 101 };
        let mut records = with_blue();
        records.retain(|record| record.key() != key);
        records.push(Record::Network(bad));
        let ways: [&dyn Fn(&mut Snapshot) -> Changes; 3] = [
            &|snapshot| snapshot.apply(std::slice::from_ref(&put), Some(id(1))),
            &|snapshot| snapshot.apply(&[loss.clone(), put.clone()], Some(id(1))),
            &|snapshot| snapshot.adopt(&listing(7, 101, &records), Some(id(1))),
        ];
        for way in ways {
            let mut snapshot = knowing_blue();
            let changes = way(&mut snapshot);
            assert_eq!(changes.alarm, Some(Alarm::Altered { network: good.id }));
            assert!(!changes.keys().any(|changed| *changed == key), "{changes:?}");
            assert_eq!(snapshot.network(good.id), Some(&good));
            assert_eq!(snapshot.held().collect::<Vec<_>>(), [&key]);
            // It stays with every listing that says so still, and without another alarm.
            let again = snapshot.adopt(&listing(7, 102, &records), Some(id(1)));
            assert_eq!((again.alarm, snapshot.network(good.id)), (None, Some(&good)));
            // The right record ends it, and so does the network's removal.
            let mut removed = snapshot.clone();
            removed
                .apply(&[Event::Delete { key: claim(&good).key().to_string(), revision: 103 }], Some(id(1)));
            removed.apply(&[Event::Delete { key: key.to_string(), revision: 103 }], Some(id(1)));
            assert_eq!(removed.network(good.id), None);
            let changed = Network { generation: 2, ..good.clone() };
            snapshot.apply(&[Event::Put(entry(&Record::Network(changed.clone()), 103))], Some(id(1)));
            assert_eq!((snapshot.network(good.id), snapshot.held().count()), (Some(&changed), 0));
        }
    }
}

#[test]
fn no_network_takes_the_id_or_the_vni_of_another() {
    let good = network("blue", 1, 5000);
    for (bad, words) in [
        (
            Network { encryption: Encryption::None, ..network("aaa", 1, 5000) },
            "its id is that of network blue",
        ),
        (network("aaa", 2, 5000), "its VNI 5000 is that of network blue"),
    ] {
        let bad = Record::Network(bad);
        let mut records = with_blue();
        records.push(bad.clone());
        let mut told = knowing_blue();
        told.apply(&[Event::Put(entry(&bad, 101))], Some(id(1)));
        let mut listed = knowing_blue();
        listed.adopt(&listing(7, 101, &records), Some(id(1)));
        for snapshot in [told, listed] {
            assert_eq!(snapshot.networks().collect::<Vec<_>>(), [&good]);
            let found: Vec<&str> = snapshot.bad().map(|bad| bad.why).collect();
            assert_eq!(found, [words]);
        }
    }
    // To a host that knows neither, the one that has claimed the VNI is right.
    let both = with_blue().into_iter().chain([Record::Network(network("aaa", 2, 5000))]).collect::<Vec<_>>();
    let mut fresh = Snapshot::default();
    fresh.adopt(&listing(7, 101, &both), None);
    assert_eq!(fresh.networks().collect::<Vec<_>>(), [&good]);
    // The positive twin: one of its own.
    let mut snapshot = knowing_blue();
    snapshot.apply(&[Event::Put(entry(&Record::Network(network("aaa", 2, 5001)), 101))], Some(id(1)));
    assert_eq!((snapshot.networks().count(), snapshot.bad_count()), (2, 0));
}

#[test]
fn a_listing_with_records_that_make_no_sense_takes_nothing() {
    let mut snapshot = knowing_blue();
    let mut garbled = listing(7, 101, &with_blue());
    for entry in &mut garbled.entries {
        entry.value = b"{".to_vec();
    }
    let changes = snapshot.adopt(&garbled, Some(id(1)));
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!((changes.alarm, snapshot.held().count()), (None, 0));
    assert_eq!((snapshot.bad_count(), snapshot.networks().count()), (garbled.entries.len(), 1));
    // What is taken away goes, whatever its value was last.
    let key = network("blue", 1, 5000);
    let gone = [claim(&key).key(), Record::Network(key).key()];
    let events: Vec<Event> =
        gone.iter().map(|key| Event::Delete { key: key.to_string(), revision: 102 }).collect();
    let changes = snapshot.apply(&events, Some(id(1)));
    assert_eq!((changes.removed.len(), snapshot.networks().count()), (2, 0));
    assert_eq!(snapshot.bad_count(), garbled.entries.len() - 2);
}

#[test]
fn texts_that_a_terminal_should_not_see_and_ports_that_are_none_are_refused() {
    let Record::Host(host) = host(9) else { panic!() };
    let slot = crate::records::Slot {
        public_key: crate::ids::PublicKey([7; 32]),
        port: 0,
        epoch: 0,
        state: crate::records::SlotState::Active,
    };
    let cluster = Cluster::new(ClusterId::new([9; 16]));
    let ports = Slots { a: cluster.plain_port, b: 51821 };
    for (record, words) in [
        (
            Record::Host(Host { name: "\u{1b}]0;owned".into(), ..host.clone() }),
            "\"name\" has control characters",
        ),
        (
            Record::Host(Host { name: "x".repeat(2000), ..host.clone() }),
            "\"name\" has control characters, or more",
        ),
        (Record::Left(Left { host: id(9), at: 1, reason: "a\nb".into() }), "\"reason\" has control"),
        (
            Record::Host(Host { wireguard: Slots { a: Some(slot), b: None }, ..host }),
            "its wireguard port is zero",
        ),
        (Record::Cluster(Cluster { plain_port: 0, ..cluster.clone() }), "its plain_port is zero"),
        (
            Record::Cluster(Cluster { secure_port: 4789, ..cluster.clone() }),
            "its secure_port is zero, or another",
        ),
        (
            Record::Cluster(Cluster { wireguard_ports: ports, ..cluster.clone() }),
            "its wireguard_ports is zero",
        ),
    ] {
        let why = Record::parse(&record.key().to_string(), &record.value()).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    let cluster = Record::Cluster(cluster);
    assert!(Record::parse(&cluster.key().to_string(), &cluster.value()).is_ok());
}

#[test]
fn what_vanishes_although_nobody_took_it_away_is_held() {
    let blue = network("blue", 1, 5000);
    let member = Key::Member(blue.id, id(1));
    let own = block(1, 1, 1).key();
    let delete = |key: &Key| Event::Delete { key: key.to_string(), revision: 101 };
    // This host's own, by one, and what belongs to nobody but goes together with something.
    for key in [own, member, Key::Host(id(1)), Key::Network(blue.name.clone()), Key::Vni(blue.vni)] {
        let mut snapshot = knowing_blue();
        let changes = snapshot.apply(&[delete(&key)], Some(id(1)));
        assert_eq!(changes.alarm, Some(Alarm::Lost { records: 1 }), "{key}");
        assert!(changes.is_empty(), "{changes:?}");
        assert_eq!(snapshot.held().collect::<Vec<_>>(), [&key]);
    }
    // Others', when it is all of them: etcdctl del --prefix /weft/v1/block/.
    let mut snapshot = knowing_blue();
    let all: Vec<Event> = (1..=6).map(|number| delete(&block(number, number, 1).key())).collect();
    let changes = snapshot.apply(&all, Some(id(1)));
    assert_eq!(changes.alarm, Some(Alarm::Vanished { gone: 5, known: 5 }));
    assert_eq!((snapshot.blocks().count(), snapshot.held().count()), (6, 6));
    // A few of others' may go, and all of them with the network, or with this host.
    let mut snapshot = knowing_blue();
    let changes = snapshot.apply(&all[4..], Some(id(1)));
    assert_eq!((changes.alarm, changes.removed.len()), (None, 2));
    let mut snapshot = knowing_blue();
    let network = [delete(&Key::Network(blue.name.clone())), delete(&Key::Vni(blue.vni))];
    assert_eq!(snapshot.apply(&network, Some(id(1))).alarm, None);
    assert_eq!(snapshot.apply(&all, Some(id(1))).alarm, None);
    assert_eq!((snapshot.blocks().count(), snapshot.held().count()), (0, 0));
    let mut snapshot = knowing_blue();
    let events = [Event::Put(entry(&left(1), 101)), delete(&Key::Host(id(1))), all[0].clone()];
    assert_eq!(snapshot.apply(&events, Some(id(1))).alarm, None);
    assert_eq!(snapshot.blocks().count(), 5);
    let mut snapshot = knowing_blue();
    let Record::Host(host) = host(1) else { panic!() };
    let replaced = Record::Host(Host { superseded_by: Some(id(2)), ..host });
    let events = [Event::Put(entry(&replaced, 101)), delete(&Key::Member(blue.id, id(1)))];
    assert_eq!(snapshot.apply(&events, Some(id(1))).alarm, None);
}

/// A store that was set back, and has come further than it was until this host hears of it again.
#[test]
fn what_the_store_gave_to_another_host_is_kept_by_the_one_that_had_it_first() {
    let taken = |snapshot: &Snapshot, number: u8| {
        let cidr = format!("10.1.{number}.0/26").parse().unwrap();
        snapshot.block(NetworkId::new([1; 16]), cidr).unwrap().host
    };
    let given = |number: u8, epoch: u64| {
        let mut records = with_blue();
        records.retain(|record| record.key() != block(number, number, 1).key());
        records.extend([host(9), block(number, 9, epoch)]);
        records
    };
    let mut snapshot = knowing_blue();
    let changes = snapshot.adopt(&listing(7, 200, &given(1, 50)), Some(id(1)));
    assert_eq!(changes.alarm, Some(Alarm::Lost { records: 1 }));
    assert_eq!(taken(&snapshot, 1), id(1));
    // Once more, and by the other host's own word: nothing changes until this host has said it again.
    assert_eq!(snapshot.adopt(&listing(7, 201, &given(1, 50)), Some(id(1))).alarm, None);
    snapshot.apply(&[Event::Put(entry(&block(1, 9, 60), 202))], Some(id(1)));
    assert_eq!((taken(&snapshot, 1), snapshot.held().count()), (id(1), 1));
    snapshot.apply(&[Event::Put(entry(&block(1, 1, 1), 203))], Some(id(1)));
    assert_eq!((taken(&snapshot, 1), snapshot.held().count()), (id(1), 0));
    // The twins: an earlier claim is right, of another host's block the store decides, and who has left has nothing.
    let mut snapshot = knowing_blue();
    assert_eq!(snapshot.adopt(&listing(7, 200, &given(1, 0)), Some(id(1))).alarm, None);
    assert_eq!(taken(&snapshot, 1), id(9));
    let mut snapshot = knowing_blue();
    assert_eq!(snapshot.adopt(&listing(7, 200, &given(2, 50)), Some(id(1))).alarm, None);
    assert_eq!(taken(&snapshot, 2), id(9));
    let mut snapshot = knowing_blue();
    let records = [given(1, 50), vec![left(1)]].concat();
    assert_eq!(snapshot.adopt(&listing(7, 200, &records), Some(id(1))).alarm, None);
    assert_eq!(taken(&snapshot, 1), id(9));
}

/// A store that was set back has given out again what a dead host had. Whoever takes the dead host's place ends what is held for it.
#[test]
fn what_is_held_for_a_host_goes_when_another_one_has_its_place() {
    let replaced = |number: u8| {
        let Record::Host(host) = host(number) else { panic!() };
        Record::Host(Host { superseded_by: Some(id(9)), ..host })
    };
    let claimed = || Event::Put(entry(&block(2, 9, 60), 62));
    let of_two = |snapshot: &Snapshot| {
        let known = snapshot.block(NetworkId::new([1; 16]), "10.1.2.0/26".parse().unwrap());
        (known.map(|block| block.host), snapshot.held().any(|key| *key == block(2, 2, 1).key()))
    };
    // The store has the dead host h2, but not its block any more.
    let mut early: Vec<Record> = six();
    early.retain(|record| record.key() != block(2, 2, 1).key());
    let set_back = || {
        let mut snapshot = known();
        let changes = snapshot.adopt(&listing(7, 60, &early), Some(id(1)));
        assert_eq!(changes.alarm, Some(Alarm::SetBack { was: 100, is: 60 }));
        assert_eq!(of_two(&snapshot), (Some(id(2)), true));
        snapshot
    };
    let put = |record: &Record, revision| Event::Put(entry(record, revision));
    // Nobody has its place: it keeps what it had, whether one hears of the claim or reads all.
    let mut snapshot = set_back();
    snapshot.apply(&[claimed()], Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(2)), true));
    let with_claim = [early.clone(), vec![block(2, 9, 60)]].concat();
    snapshot.adopt(&listing(7, 63, &with_claim), Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(2)), true));
    // The place is taken after the claim, before it, and both are read at once.
    let changes = snapshot.apply(&[put(&replaced(2), 64)], Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(9)), false));
    assert_eq!(changes.changed, [host(2).key(), block(2, 2, 1).key()]);
    let mut snapshot = set_back();
    let changes = snapshot.apply(&[put(&replaced(2), 61)], Some(id(1)));
    assert_eq!((of_two(&snapshot), changes.removed), ((None, false), vec![block(2, 2, 1).key()]));
    snapshot.apply(&[claimed()], Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(9)), false));
    let mut all = with_claim;
    all.retain(|record| record.key() != host(2).key());
    all.push(replaced(2));
    let mut snapshot = set_back();
    snapshot.adopt(&listing(7, 63, &all), Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(9)), false));
    let mut snapshot = known();
    snapshot.adopt(&listing(7, 63, &all), Some(id(1)));
    assert_eq!(of_two(&snapshot), (Some(id(9)), false));
}

/// That a host's place was taken is no reason to forget its quarantine when the store has forgotten both.
#[test]
fn a_quarantine_outlives_a_store_that_was_set_back() {
    let Record::Host(host) = host(2) else { panic!() };
    let replaced = Record::Host(Host { superseded_by: Some(id(9)), ..host });
    let Record::Block(active) = block(2, 2, 1) else { panic!() };
    let quarantined = Record::Block(Block { state: BlockState::Quarantine { since: 90 }, ..active });
    let mut snapshot = known();
    let events = [Event::Put(entry(&replaced, 101)), Event::Put(entry(&quarantined, 102))];
    snapshot.apply(&events, Some(id(1)));
    for revision in [60, 61] {
        snapshot.adopt(&listing(7, revision, &six()), Some(id(1)));
        for record in [&replaced, &quarantined] {
            assert_eq!(snapshot.get(&record.key()), Some(record), "{revision}");
        }
    }
}

#[test]
fn what_goes_with_something_else_is_not_lost() {
    let blue = network("blue", 1, 5000);
    let old = Record::Underlay([192, 0, 2, 1].into(), HostClaim { host: id(1) });
    let mut records = with_blue();
    records.push(old.clone());
    let mut snapshot = Snapshot::default();
    snapshot.adopt(&listing(7, 100, &records), Some(id(1)));
    let delete = |key: &Key| Event::Delete { key: key.to_string(), revision: 101 };
    assert_eq!(
        snapshot.clone().apply(&[delete(&old.key())], Some(id(1))).alarm,
        Some(Alarm::Lost { records: 1 })
    );
    // It moves to another address.
    let Record::Host(mut moved) = host(1) else { panic!() };
    moved.underlay.v4 = Some([192, 0, 2, 99].into());
    let events = [Event::Put(entry(&Record::Host(moved), 101)), delete(&old.key())];
    assert_eq!(snapshot.apply(&events, Some(id(1))).alarm, None);
    // It lets go of a network that is about to be removed.
    let removal = Record::Removal(Removal { network: blue.id, host: id(2) });
    let events = [Event::Put(entry(&removal, 102)), delete(&Key::Member(blue.id, id(1)))];
    assert_eq!(snapshot.apply(&events, Some(id(1))).alarm, None);
    assert!(!snapshot.is_member(blue.id, id(1)));
    assert_eq!(snapshot.held().count(), 0);
}

proptest! {
    /// Applying changes one by one comes to the same as listing the result.
    #[test]
    fn changes_and_listings_agree(steps in proptest::collection::vec((1u8..=6, 0u8..4, 1u64..4), 0..60)) {
        let mut snapshot = known();
        let mut truth: BTreeMap<String, Entry> =
            six().iter().map(|record| (record.key().to_string(), entry(record, 100))).collect();
        for (step, (number, what, epoch)) in (101i64..).zip(steps) {
            let event = match what {
                0 => Event::Put(entry(&host(number), step)),
                1 | 2 => Event::Put(entry(&block(number, number, epoch), step)),
                _ => Event::Delete { key: block(number, number, 1).key().to_string(), revision: step },
            };
            match &event {
                Event::Put(entry) => drop(truth.insert(entry.key.clone(), entry.clone())),
                Event::Delete { key, .. } => drop(truth.remove(key)),
            }
            snapshot.apply(std::slice::from_ref(&event), Some(id(1)));
            prop_assert_eq!(snapshot.revision, step);
        }
        let listing = Listing { store: 7, revision: snapshot.revision, entries: truth.into_values().collect() };
        prop_assert!(snapshot.difference(&Snapshot::from_list(&listing)).is_empty());
    }

    /// Whatever stands in a store, reading it does not end the program.
    #[test]
    fn no_entry_is_fatal(key in "(/weft/v1/)?(cluster|host/|net/|block/|vni/)?[0-9a-f./:-]{0,70}", value in any::<Vec<u8>>()) {
        let entries = vec![Entry { key, value, created: 1, modified: 1 }];
        let listing = Listing { store: 1, revision: 1, entries };
        let snapshot = Snapshot::from_list(&listing);
        prop_assert_eq!(snapshot.all().count() + snapshot.bad_count(), 1);
    }
}
