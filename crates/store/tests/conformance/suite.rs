//! The parts of the suite.

use std::sync::Arc;
use std::time::Duration;

use weft_overlay::Snapshot;
use weft_overlay::snapshot::Alarm;
use weft_store::{
    Compare, Event, Follower, Op, Outcome, Read, Reason, SharedStore, StoreError, Update, Watch, WatchEvent,
};

use crate::server::Server;

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

fn absent(key: &str) -> Compare {
    Compare::Absent(key.into())
}

/// Writes without conditions; returns the revision.
async fn write(store: &SharedStore, ops: &[Op]) -> i64 {
    match store.txn(&[], ops).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("a conflict without a condition"),
    }
}

/// Writes until a server that comes back takes it.
async fn write_at_last(store: &SharedStore, ops: &[Op]) -> i64 {
    loop {
        match store.txn(&[], ops).await {
            Ok(Outcome::Committed(revision)) => return revision,
            Ok(Outcome::Conflict) => panic!("a conflict without a condition"),
            Err(error) => assert!(error.is_temporary(), "{error}"),
        }
    }
}

/// Asserts which changes come next, written as `+key=value` and `-key`, and that none of a revision comes apart from the others.
async fn tells(watch: &mut Watch, expected: &[&str]) {
    let (mut heard, mut last) = (Vec::new(), 0);
    while heard.len() < expected.len() {
        match watch.next().await.expect("the watch is over") {
            WatchEvent::Changes(events) => {
                assert!(events[0].revision() > last, "revision {last} comes in two pieces");
                assert!(events.is_sorted_by_key(Event::revision), "{events:?}");
                last = events[events.len() - 1].revision();
                heard.extend(events.iter().map(written));
            }
            WatchEvent::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, expected);
}

fn written(event: &Event) -> String {
    match event {
        Event::Put(entry) => format!("+{}={}", entry.key, String::from_utf8_lossy(&entry.value)),
        Event::Delete { key, .. } => format!("-{key}"),
    }
}

/// The last event of a watch.
async fn ended(watch: &mut Watch) -> WatchEvent {
    loop {
        let event = watch.next().await.expect("the watch ended without a word");
        if event.is_last() {
            assert_eq!(watch.next().await, None);
            return event;
        }
    }
}

pub(crate) async fn a_change_has_a_revision(server: &mut Server) {
    let store = server.store().await;
    assert_eq!(store.get("/t/a").await.unwrap(), None);
    let first = write(&store, &[put("/t/a", "1")]).await;
    let second = write(&store, &[put("/t/a", "2"), put("/t/b", "é")]).await;
    assert_eq!(second, first + 1);
    let found = store.get("/t/a").await.unwrap().unwrap();
    assert_eq!((found.created, found.modified, &found.value[..]), (first, second, &b"2"[..]));
    assert_eq!(store.get("/t/b").await.unwrap().unwrap().value, "é".as_bytes());
    // What changes nothing has no revision of its own.
    assert_eq!(write(&store, &[Op::Delete("/t/none".into())]).await, second);
    let third = write(&store, &[Op::Delete("/t/a".into())]).await;
    assert_eq!(third, second + 1);
    assert_eq!(store.get("/t/a").await.unwrap(), None);
    let fourth = write(&store, &[put("/t/a", "3")]).await;
    assert_eq!(store.get("/t/a").await.unwrap().unwrap().created, fourth);
    // Another client sees the same, and so does one that comes later.
    let listing = server.store().await.list("/t/").await.unwrap();
    assert_eq!(listing.revision, fourth);
    assert_eq!(listing, store.list("/t/").await.unwrap());
}

pub(crate) async fn a_transaction_is_done_or_not(server: &mut Server) {
    let store = server.store().await;
    let before = write(&store, &[put("/t/a", "1"), put("/t/b", "1")]).await;
    let unchanged = |key: &str, revision| Compare::Modified(key.into(), revision);
    for (compares, holds) in [
        (vec![absent("/t/a")], false),
        (vec![absent("/t/new"), absent("/t/b")], false),
        (vec![Compare::Present("/t/none".into())], false),
        (vec![unchanged("/t/a", before - 1)], false),
        (vec![unchanged("/t/none", before)], false),
        (vec![absent("/t/new"), Compare::Present("/t/a".into()), unchanged("/t/b", before)], true),
    ] {
        let ops = [put("/t/a", "2"), put("/t/new", "2"), Op::Delete("/t/b".into())];
        let outcome = store.txn(&compares, &ops).await.unwrap();
        assert_eq!(outcome.is_committed(), holds, "{compares:?}");
        let keys: Vec<String> = store.list("/t/").await.unwrap().entries.into_iter().map(|e| e.key).collect();
        assert_eq!(keys, if holds { ["/t/a", "/t/new"] } else { ["/t/a", "/t/b"] }, "{compares:?}");
    }
    for (ops, words) in [
        (vec![put("/t/x", "1"), Op::Delete("/t/x".into())], "/t/x twice in one transaction"),
        (vec![put("/t/x", &"v".repeat(70_000))], "a value of 70000 bytes"),
        (vec![put(&"k".repeat(600), "")], "a key of 600 bytes"),
        ((0..200).map(|number| put(&format!("/t/{number}"), "")).collect(), "more than 128 operations"),
    ] {
        let error = store.txn(&[], &ops).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }) && error.to_string().contains(words), "{error}");
    }
    assert_eq!(store.list("/t/").await.unwrap().entries.len(), 2);
}

pub(crate) async fn a_prefix_is_listed_at_one_revision(server: &mut Server) {
    let store = server.store().await;
    assert_eq!(store.list("/t/").await.unwrap().entries, []);
    // More than a page, and neighbours that only look alike.
    for hundred in 0..6 {
        let ops: Vec<Op> =
            (0..100).map(|number| put(&format!("/t/{:03}", hundred * 100 + number), "x")).collect();
        write(&store, &ops).await;
    }
    let revision =
        write(&store, &[put("/t", "x"), put("/t0", "x"), put("/s/t/1", "x"), put("/t/600/deeper", "x")])
            .await;
    let listing = store.list("/t/").await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((keys.len(), keys[0], keys[600]), (601, "/t/000", "/t/600/deeper"));
    assert!(keys.is_sorted());
    assert_eq!(listing.revision, revision);
    assert_eq!(store.list("/t/59").await.unwrap().entries.len(), 10);
    assert_eq!(store.list("/u/").await.unwrap().revision, revision);
}

pub(crate) async fn what_is_asked_in_one_question_is_answered_in_its_order(server: &mut Server) {
    let store = server.store().await;
    write(&store, &[put("/t/b", "2"), put("/u/c", "3"), put("/t/a", "1")]).await;
    let wanted = [Read::Key("/t".into()), Read::Prefix("/t/".into()), Read::Key("/u/c".into())];
    let found = store.read(&wanted).await.unwrap();
    let told: Vec<Vec<(&str, &[u8])>> = found
        .iter()
        .map(|entries| entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice())).collect())
        .collect();
    assert_eq!(told, [vec![], vec![("/t/a", &b"1"[..]), ("/t/b", b"2")], vec![("/u/c", b"3")]]);
    assert_eq!(store.read(&[]).await.unwrap(), Vec::<Vec<_>>::new());
}

pub(crate) async fn of_many_that_want_a_key_one_gets_it(server: &mut Server) {
    let mut tasks = Vec::new();
    for number in 0..20 {
        let store = server.store().await;
        tasks.push(tokio::spawn(async move {
            let ops = [put("/t/one", &number.to_string()), put(&format!("/t/by/{number}"), "")];
            store.txn(&[absent("/t/one")], &ops).await.unwrap().is_committed().then_some(number)
        }));
    }
    let mut winners = Vec::new();
    for task in tasks {
        winners.extend(task.await.unwrap());
    }
    let [winner] = winners[..] else { panic!("{winners:?}") };
    let store = server.store().await;
    assert_eq!(store.get("/t/one").await.unwrap().unwrap().value, winner.to_string().as_bytes());
    assert_eq!(store.list("/t/by/").await.unwrap().entries.len(), 1);
}

pub(crate) async fn a_watch_tells_what_was_and_what_comes(server: &mut Server) {
    let (store, other) = (server.store().await, server.store().await);
    write(&store, &[put("/t/old", "1")]).await;
    let from = write(&store, &[put("/t/a", "1"), put("/elsewhere", "1")]).await;
    write(&store, &[Op::Delete("/t/a".into()), put("/t/b", "1")]).await;
    let mut watch = store.watch("/t/", from).await.unwrap();
    tells(&mut watch, &["+/t/a=1", "-/t/a", "+/t/b=1"]).await;
    write(&other, &[put("/elsewhere", "2")]).await;
    let last = write(&other, &[put("/t/c", "1"), put("/t/d", "1")]).await;
    tells(&mut watch, &["+/t/c=1", "+/t/d=1"]).await;
    // One that begins with what is to come tells that alone.
    let mut later = store.watch("/t/", last + 1).await.unwrap();
    write(&other, &[put("/t/e", "1")]).await;
    tells(&mut later, &["+/t/e=1"]).await;
    tells(&mut watch, &["+/t/e=1"]).await;
    // Many at once come all and in their order.
    for number in 0..200 {
        write(&other, &[put("/t/many", &number.to_string())]).await;
    }
    let many: Vec<String> = (0..200).map(|number| format!("+/t/many={number}")).collect();
    tells(&mut watch, &many.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

pub(crate) async fn a_watch_cannot_begin_in_what_is_forgotten(server: &mut Server) {
    let store = server.store().await;
    let from = write(&store, &[put("/t/a", "1")]).await;
    write(&store, &[put("/t/a", "2")]).await;
    let last = write(&store, &[put("/t/a", "3")]).await;
    assert!(store.compact(last + 1).await.is_err());
    store.compact(last).await.unwrap();
    assert!(store.compact(last).await.is_err());
    let mut watch = store.watch("/t/", from).await.unwrap();
    assert_eq!(ended(&mut watch).await, WatchEvent::Compacted(last));
    let mut watch = store.watch("/t/", last).await.unwrap();
    tells(&mut watch, &["+/t/a=3"]).await;
    assert_eq!(store.get("/t/a").await.unwrap().unwrap().value, b"3");
}

/// Section B6 of the acceptance tests, where the store is concerned: a peer's address changes while nobody looks.
pub(crate) async fn a_follower_that_slept_through_a_compaction_knows_every_attribute(server: &mut Server) {
    let (store, other) = (server.store().await, server.store().await);
    let host = |mtu: u32| {
        format!(
            r#"{{"schema":1,"id":"{}","name":"h2","incarnation":1,"boot":"","underlay":{{"v4":"192.0.2.2"}},"mesh":1,"mtu":{mtu},"epoch":1}}"#,
            "02".repeat(16)
        )
    };
    let key = format!("/weft/v1/host/{}", "02".repeat(16));
    write(&other, &[put(&key, &host(1500))]).await;
    let mut follower = Follower::new(Arc::clone(&store), "/weft/v1/");
    let Update::Listed(listing, why) = follower.next().await else { panic!("no listing") };
    assert_eq!(why, Reason::Start);
    let mut snapshot = Snapshot::from_list(&listing);
    // The watch that stands for the one that slept begins where this one stopped.
    let stopped = snapshot.revision + 1;
    drop(follower);
    for number in 0..50 {
        write(&other, &[put("/weft/v1/net/noise", &number.to_string())]).await;
    }
    let last = write(&other, &[put(&key, &host(1400))]).await;
    other.compact(last).await.unwrap();
    let mut watch = store.watch("/weft/v1/", stopped).await.unwrap();
    assert!(matches!(ended(&mut watch).await, WatchEvent::Compacted(_)));
    let mut follower = Follower::new(Arc::clone(&store), "/weft/v1/");
    let Update::Listed(listing, _) = follower.next().await else { panic!("no listing") };
    let changes = snapshot.adopt(&listing, None);
    assert_eq!(changes.changed.len(), 1, "{changes:?}");
    assert_eq!(snapshot.hosts().next().unwrap().mtu, 1400);
    // And it goes on from there.
    write(&other, &[put(&key, &host(1300))]).await;
    loop {
        match follower.next().await {
            Update::Changes(events) => break assert_eq!(snapshot.apply(&events, None).changed.len(), 1),
            Update::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn keys_go_with_their_lease(server: &mut Server) {
    let (store, other) = (server.store().await, server.store().await);
    let start = store.list("/t/").await.unwrap().revision;
    let mut watch = other.watch("/t/", start + 1).await.unwrap();
    let (short, long) = (
        store.lease(Duration::from_secs(2)).await.unwrap(),
        store.lease(Duration::from_secs(600)).await.unwrap(),
    );
    for (key, lease) in [("/t/short", short), ("/t/long", long)] {
        write(&store, &[Op::Put { key: key.into(), value: b"x".into(), lease: Some(lease) }]).await;
    }
    tells(&mut watch, &["+/t/short=x", "+/t/long=x"]).await;
    // Keeping it alive is no change.
    let revision = store.list("/t/").await.unwrap().revision;
    store.keep_alive(short).await.unwrap();
    store.keep_alive(long).await.unwrap();
    assert_eq!(store.list("/t/").await.unwrap().revision, revision);
    // Nobody touches the store: the watch itself notices.
    tells(&mut watch, &["-/t/short"]).await;
    assert_eq!(store.get("/t/short").await.unwrap(), None);
    assert!(store.get("/t/long").await.unwrap().is_some());
    let error = store.keep_alive(short).await.unwrap_err();
    assert!(matches!(error, StoreError::NoLease(_)), "{error}");
    store.revoke(long).await.unwrap();
    tells(&mut watch, &["-/t/long"]).await;
    store.revoke(long).await.unwrap();
    let late = [Op::Put { key: "/t/late".into(), value: b"x".into(), lease: Some(long) }];
    assert!(store.txn(&[], &late).await.is_err());
    assert_eq!(store.get("/t/late").await.unwrap(), None);
}

/// Returns what is heard once no other reason is given for hearing nothing.
pub(crate) async fn answers_again(watch: &mut Watch) -> Option<WatchEvent> {
    loop {
        match watch.next().await {
            Some(WatchEvent::Lost(_)) => {}
            other => return other,
        }
    }
}

pub(crate) async fn a_watch_goes_on_after_the_server_was_away(server: &mut Server) {
    let (store, other) = (server.store().await, server.store().await);
    let from = write(&store, &[put("/t/a", "1")]).await;
    let mut watch = store.watch("/t/", from).await.unwrap();
    tells(&mut watch, &["+/t/a=1"]).await;
    let has_server = server.stop();
    if has_server {
        let lost = watch.next().await;
        assert!(matches!(lost, Some(WatchEvent::Lost(_))), "{lost:?}");
        let error = store.get("/t/a").await.unwrap_err();
        assert!(error.is_temporary() && error.to_string().contains("does not answer"), "{error}");
    }
    server.go_on();
    write_at_last(&other, &[put("/t/b", "1")]).await;
    if has_server {
        let back = answers_again(&mut watch).await;
        assert!(matches!(back, Some(WatchEvent::Back)), "{back:?}");
    }
    tells(&mut watch, &["+/t/b=1"]).await;
    write(&other, &[put("/t/c", "1")]).await;
    tells(&mut watch, &["+/t/c=1"]).await;
}

pub(crate) async fn a_store_that_went_back_is_noticed(server: &mut Server) {
    goes_back(server, 0).await;
}

pub(crate) async fn a_store_that_went_back_and_on_is_noticed(server: &mut Server) {
    // So many changes that its revision is beyond what the watch has seen: only its history tells.
    goes_back(server, 20).await;
}

async fn goes_back(server: &mut Server, on: usize) {
    let (store, other) = (server.store().await, server.store().await);
    write(&other, &[put("/t/a", "1")]).await;
    server.back_up();
    for number in 0..10 {
        write(&other, &[put("/t/b", &number.to_string())]).await;
    }
    let mut follower = Follower::new(Arc::clone(&store), "/t/");
    let Update::Listed(before, _) = follower.next().await else { panic!("no listing") };
    assert_eq!(before.entries.len(), 2);
    // The listing is the last that was heard: nobody asks the watch anything while the store is changed.
    let mut watch = store.watch("/t/", before.revision + 1).await.unwrap();
    if on > 0 && !server.stop() {
        // Without a server a watch sees every step: the way back itself.
        drop(watch);
        server.restore();
        let mut watch = store.watch("/t/", before.revision + 1).await.unwrap();
        return assert!(matches!(ended(&mut watch).await, WatchEvent::Reset(_)));
    }
    server.stop();
    server.restore();
    if on > 0 {
        // The watch must not see the server before it has gone on: it waits for it in another place.
        drop(watch);
        server.go_on();
        for number in 0..on {
            write_at_last(&other, &[put("/t/c", &number.to_string())]).await;
        }
        watch = store.watch("/t/", before.revision + 1).await.unwrap();
    } else {
        server.go_on();
    }
    let WatchEvent::Reset(why) = ended(&mut watch).await else { panic!("no reset") };
    assert!(why.contains("went back") || why.contains("another one"), "{why}");
    let after = loop {
        match follower.next().await {
            Update::Listed(listing, why) => {
                let said = why.to_string();
                assert!(said.contains("went back") || said.contains("another one"), "{said}");
                assert_eq!(why.word(), "reset");
                break listing;
            }
            Update::Lost(_) | Update::Back | Update::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(after.entries.len(), if on > 0 { 2 } else { 1 });
}

pub(crate) async fn a_store_made_anew_is_noticed(server: &mut Server) {
    let (store, other) = (server.store().await, server.store().await);
    let cluster = weft_overlay::records::Cluster::new(weft_overlay::ClusterId::random());
    let cluster = String::from_utf8(weft_overlay::records::encode(&cluster)).unwrap();
    write(&other, &[put("/weft/v1/cluster", &cluster)]).await;
    let mut follower = Follower::new(Arc::clone(&store), "/weft/v1/");
    let Update::Listed(listing, _) = follower.next().await else { panic!("no listing") };
    let mut snapshot = Snapshot::default();
    assert_eq!(snapshot.adopt(&listing, None).added.len(), 1);
    server.stop();
    server.wipe();
    server.go_on();
    let anew = server.store().await;
    write_at_last(&anew, &[put("/other", "1")]).await;
    let listing = loop {
        match follower.next().await {
            Update::Listed(listing, _) => break listing,
            Update::Lost(_) | Update::Back | Update::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(listing.entries, []);
    let changes = snapshot.adopt(&listing, None);
    assert!(
        matches!(changes.alarm, Some(Alarm::Replaced { .. } | Alarm::SetBack { .. } | Alarm::Wiped)),
        "{changes:?}"
    );
    assert!(snapshot.cluster().is_some());
}
