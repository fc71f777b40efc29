use std::net::Ipv4Addr;

use proptest::prelude::*;

use weft_state::Root;
use weft_state::atomic::Durability;

use super::*;
use crate::ids::ClusterId;
use crate::records::{BlockState, Slots, Underlay};

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
    // A restarted agent that finds the store still empty does not drop what it held.
    let mut read = read;
    let changes = read.adopt(&listing(8, 2, &[]), Some(id(1)));
    assert!(changes.is_empty(), "{changes:?}");
    Snapshot::forget(&root).unwrap();
    assert_eq!(Snapshot::last(&root).unwrap(), None);
    Snapshot::forget(&root).unwrap();
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
