//! A watch on an etcd that says nothing: it asks, and when there is no answer it begins again.

use std::sync::Arc;

use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::{Op, SharedStore, Store, Watch, WatchEvent};

use crate::server::Server;
use crate::suite::answers_again;

/// A store whose watches ask and despair sooner than usual, seconds each.
fn watched(server: &Server, progress: u64, watchdog: u64) -> SharedStore {
    let Server::Etcd { settings, .. } = server else { panic!() };
    let sooner = EtcdSettings { progress: Some(progress), watchdog: Some(watchdog), ..settings.clone() };
    Arc::new(EtcdStore::new(sooner).unwrap())
}

async fn put(store: &dyn Store, value: &str) {
    let put = Op::Put { key: "/t/a".into(), value: value.into(), lease: None };
    assert!(store.txn(&[], &[put]).await.unwrap().is_committed());
}

/// Returns the value of the next change.
async fn change(watch: &mut Watch) -> String {
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Changes(events) => match &events[..] {
                [weft_overlay::Event::Put(entry)] => {
                    break String::from_utf8_lossy(&entry.value).into_owned();
                }
                other => panic!("{other:?}"),
            },
            WatchEvent::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What resumes later resumes from where nothing was, not from the last change: that may be compacted away by then.
#[test]
fn a_quiet_watch_asks_how_far_it_is_and_is_not_given_up() {
    crate::run(Server::etcd(), async |server| {
        let (store, other) = (watched(server, 1, 3), server.store().await);
        put(&*other, "1").await;
        let from = other.list("/t/").await.unwrap().revision;
        let mut watch = store.watch("/t/", from).await.unwrap();
        assert_eq!(change(&mut watch).await, "1");
        let elsewhere = Op::Put { key: "/elsewhere".into(), value: b"x".into(), lease: None };
        other.txn(&[], &[elsewhere]).await.unwrap();
        let last = other.list("/t/").await.unwrap().revision;
        // Longer than the watchdog waits.
        let mut told = 0;
        while told < 5 {
            match watch.next().await.unwrap() {
                WatchEvent::Progress(revision) => {
                    told += 1;
                    assert_eq!(revision, last);
                }
                other => panic!("{other:?}"),
            }
        }
        put(&*other, "2").await;
        assert_eq!(change(&mut watch).await, "2");
    });
}

/// A server that holds the connection and does not answer on it, as one whose watch got stuck: nobody asks it here.
#[test]
fn a_watch_that_hears_nothing_is_begun_again() {
    crate::run(Server::etcd(), async |server| {
        let (store, other) = (watched(server, 600, 1), server.store().await);
        put(&*other, "1").await;
        let from = other.list("/t/").await.unwrap().revision;
        let mut watch = store.watch("/t/", from).await.unwrap();
        assert_eq!(change(&mut watch).await, "1");
        let lost = watch.next().await.unwrap();
        assert!(matches!(&lost, WatchEvent::Lost(why) if why == "nothing heard for 1 s"), "{lost:?}");
        put(&*other, "2").await;
        assert_eq!(watch.next().await.unwrap(), WatchEvent::Back);
        assert_eq!(change(&mut watch).await, "2");
    });
}

/// So many changes come that the watch is ended and begun again: nothing is lost by that, told twice or out of order.
#[test]
fn a_watch_that_hears_much_hears_everything_once() {
    crate::run(Server::etcd(), async |server| {
        let (store, other) = (watched(server, 1, 3), server.store().await);
        put(&*other, "0").await;
        let from = other.list("/t/").await.unwrap().revision;
        let mut told = Vec::new();
        // The first are told in one answer, which is a crowd already.
        for number in 1..100 {
            put(&*other, &number.to_string()).await;
        }
        let mut watch = store.watch("/t/", from).await.unwrap();
        for number in 100..200 {
            put(&*other, &number.to_string()).await;
        }
        let mut heard = async |count: usize, progress: usize| {
            let mut asked = 0;
            while told.len() < count || asked < progress {
                match watch.next().await.unwrap() {
                    WatchEvent::Changes(events) => told.extend(events.into_iter().map(|event| match event {
                        weft_overlay::Event::Put(entry) => String::from_utf8(entry.value).unwrap(),
                        other => panic!("{other:?}"),
                    })),
                    WatchEvent::Progress(_) => asked += 1,
                    other => panic!("{other:?}"),
                }
            }
        };
        heard(200, 0).await;
        // It asks how far the server is as ever, and hears single changes.
        heard(200, 3).await;
        put(&*other, "200").await;
        heard(201, 0).await;
        assert_eq!(told, (0..=200).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    });
}

/// Packets to etcd vanish, and no connection is refused or closed.
#[test]
fn a_watch_goes_on_behind_a_black_hole() {
    crate::run(Server::etcd(), async |server| {
        let (store, other) = (watched(server, 1, 3), server.store().await);
        let Server::Etcd { lab, etcd, .. } = &*server else { panic!() };
        put(&*other, "1").await;
        let from = other.list("/t/").await.unwrap().revision;
        let mut watch = store.watch("/t/", from).await.unwrap();
        assert_eq!(change(&mut watch).await, "1");
        lab.sh("nft 'add table inet hole'").expect_ok();
        lab.sh("nft 'add chain inet hole out { type filter hook output priority 0; }'").expect_ok();
        lab.sh("nft 'add rule inet hole out tcp dport 2379 drop'").expect_ok();
        lab.sh("nft 'add chain inet hole in { type filter hook input priority 0; }'").expect_ok();
        lab.sh("nft 'add rule inet hole in tcp sport 2379 drop'").expect_ok();
        // Somebody who is not behind it changes something meanwhile.
        etcd.ctl(["put", "/t/a", "2"]).expect_ok();
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Progress(_) => {}
                WatchEvent::Lost(_) => break,
                other => panic!("{other:?}"),
            }
        }
        lab.sh("nft 'delete table inet hole'").expect_ok();
        assert_eq!(answers_again(&mut watch).await.unwrap(), WatchEvent::Back);
        assert_eq!(change(&mut watch).await, "2");
        put(&*store, "3").await;
        assert_eq!(change(&mut watch).await, "3");
    });
}
