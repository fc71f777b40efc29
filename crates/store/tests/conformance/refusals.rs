//! What etcd refuses, and what is refused on the way there.

use std::sync::Arc;

use weft_overlay::Snapshot;
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::{Follower, Listing, Op, SharedStore, Store, StoreError, Update, WatchEvent};
use weft_testkit::{Authority, Program};

use crate::server::Server;

fn put(key: &str) -> [Op; 1] {
    [Op::Put { key: key.into(), value: b"x".into(), lease: None }]
}

/// Asks for something; everything that is refused has to say so within the time limit.
async fn asked(settings: &EtcdSettings) -> Result<(), StoreError> {
    let store = EtcdStore::new(settings.clone())?;
    store.get("/weft/v1/cluster").await.map(drop)
}

#[test]
fn certificates_have_to_be_right() {
    crate::run(Server::etcd(), async |server| {
        let Server::Etcd { settings, authority: ours, lab, .. } = &*server else { panic!() };
        asked(settings).await.unwrap();
        let others = Authority::new(&lab.path("elsewhere"));
        let (expired, foreign) = (ours.expired("old"), others.certificate("host", &[]));
        for (what, wrong) in [
            ("of another authority", EtcdSettings { ca: Some(others.file()), ..settings.clone() }),
            (
                "expired",
                EtcdSettings { cert: Some(expired.file), key: Some(expired.key), ..settings.clone() },
            ),
            (
                "signed by nobody we know",
                EtcdSettings { cert: Some(foreign.file), key: Some(foreign.key), ..settings.clone() },
            ),
            ("none", EtcdSettings { cert: None, key: None, ..settings.clone() }),
        ] {
            let error = asked(&wrong).await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{what}: {error:?}");
            assert!(error.hint().unwrap().contains("openssl x509"), "{what}");
        }
        asked(settings).await.unwrap();
    });
}

#[test]
fn nobody_there_is_said() {
    crate::run(Server::etcd(), async |server| {
        let Server::Etcd { settings, .. } = &*server else { panic!() };
        for nobody in ["https://192.0.2.2:2378", "https://192.0.2.77:2379"] {
            let away = EtcdSettings { endpoints: vec![nobody.into()], ..settings.clone() };
            let error = asked(&away).await.unwrap_err();
            assert!(error.is_temporary() && error.to_string().contains(nobody), "{error}");
        }
        // One of several is enough.
        let mut several = settings.clone();
        several.endpoints.insert(0, "https://192.0.2.2:2378".into());
        let store = Arc::new(EtcdStore::new(several).unwrap());
        let mut answers = 0;
        for _ in 0..10 {
            answers += usize::from(store.get("/weft/v1/cluster").await.is_ok());
        }
        assert!(answers > 0, "no answer from the one that is there");
    });
}

#[test]
fn etcd_behind_an_overlay_is_refused() {
    crate::run(Server::etcd(), async |server| {
        let Server::Etcd { settings, lab, .. } = &*server else { panic!() };
        lab.ip("link add ov1000 type bridge");
        lab.ip("link set ov1000 up alias weft-overlay:x");
        lab.ip("address add 10.1.0.1/24 dev ov1000");
        let behind = EtcdSettings { endpoints: vec!["https://10.1.0.7:2379".into()], ..settings.clone() };
        let error = asked(&behind).await.unwrap_err();
        assert!(matches!(error, StoreError::Setting { .. }), "{error}");
        assert!(error.to_string().contains("leads through ov1000"), "{error}");
        asked(settings).await.unwrap();
    });
}

/// The roles of docs/overlay.md, as they stand there.
#[test]
fn roles_are_enough_and_no_more() {
    crate::run(Server::etcd(), async |server| {
        let Server::Etcd { settings, etcd, authority, .. } = &*server else { panic!() };
        let page = include_str!("../../../../docs/overlay.md");
        let commands: Vec<&str> =
            page.lines().filter_map(|line| line.trim().strip_prefix("$ etcdctl ")).collect();
        let of_roles = |command: &&&str| command.starts_with("role ") || command.starts_with("user ");
        let mut done = 0;
        for command in commands.iter().filter(of_roles) {
            etcd.ctl(command.split_whitespace()).expect_ok();
            done += 1;
        }
        assert!(done >= 10, "the page has no commands");
        etcd.ctl(["auth", "enable"]).expect_ok();
        let as_user = |name: &str| {
            let own = authority.certificate(name, &[]);
            let user = EtcdSettings { cert: Some(own.file), key: Some(own.key), ..settings.clone() };
            EtcdStore::new(user).unwrap()
        };
        let (agent, admin, stranger) = (as_user("h1"), as_user("operator"), as_user("stranger"));
        for key in
            ["host/1", "underlay/1", "mesh/1", "block/1/1", "member/1/1", "borrow/1/1", "left/1", "alive/1"]
        {
            agent.txn(&[], &put(&format!("/weft/v1/{key}"))).await.unwrap();
        }
        // The first host founds the cluster; after that an administrator alone changes what all share.
        for key in ["net/blue", "vni/4096"] {
            let error = agent.txn(&[], &put(&format!("/weft/v1/{key}"))).await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{key}: {error}");
            admin.txn(&[], &put(&format!("/weft/v1/{key}"))).await.unwrap();
        }
        assert_eq!(agent.list("/weft/v1/").await.unwrap().entries.len(), 10);
        let error = agent.txn(&[], &put("/elsewhere")).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        let error = stranger.get("/weft/v1/cluster").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }) && error.hint().is_some(), "{error}");
        etcd.ctl(["auth", "disable"]).expect_ok();
    });
}

#[test]
fn keys_that_are_no_texts_and_values_that_are_long_hide_nothing() {
    crate::run(Server::etcd(), async |server| {
        let Server::Etcd { settings, .. } = &*server else { panic!() };
        let patient = EtcdSettings { timeout: Some(60), ..settings.clone() };
        let store: SharedStore = Arc::new(EtcdStore::new(patient).unwrap());
        let client = crate::server::raw(settings).await;
        let mut follower = Follower::new(Arc::clone(&store), "/weft/v1/");
        let Update::Listed(start, _) = follower.next().await else { panic!() };
        // More than a page of keys that nobody can read lie between two that one can.
        for batch in 0..6u32 {
            let key =
                |number: u32| [b"/weft/v1/m\xff".as_slice(), &(batch * 100 + number).to_be_bytes()].concat();
            let ops: Vec<_> =
                (0..100).map(|number| etcd_client::TxnOp::put(key(number), "x", None)).collect();
            client.kv_client().txn(etcd_client::Txn::new().and_then(ops)).await.unwrap();
        }
        for key in ["/weft/v1/a", "/weft/v1/z"] {
            store.txn(&[], &put(key)).await.unwrap();
        }
        let listing = store.list("/weft/v1/").await.unwrap();
        assert_eq!(readable(&listing), ["/weft/v1/a", "/weft/v1/z"]);
        // They are passed over, counted and shown, whether they were listed or heard of.
        let shown = Snapshot::from_list(&listing);
        assert_eq!((listing.entries.len(), shown.bad_count()), (602, 602));
        assert!(shown.bad().any(|bad| bad.key.starts_with("/weft/v1/m\\xff")), "{:?}", shown.bad().nth(1));
        let mut heard = Snapshot::from_list(&start);
        while heard.bad_count() < 602 {
            if let Update::Changes(events) = follower.next().await {
                heard.apply(&events, None);
            }
        }
        // 66 values of a mebibyte are more than one answer may have.
        for number in 0..66 {
            let key = format!("/weft/v1/n{number:02}");
            client.kv_client().put(key, vec![b'x'; 1 << 20], None).await.unwrap();
        }
        let listing = store.list("/weft/v1/").await.unwrap();
        let found = readable(&listing);
        assert_eq!((found.len(), found.last().copied()), (68, Some("/weft/v1/z")));
        // A watch that begins before them has to be told them all at once, and ends: then they are listed, in pieces.
        let mut watch = store.watch("/weft/v1/", start.revision + 1).await.unwrap();
        let last = loop {
            let event = watch.next().await.unwrap();
            if event.is_last() {
                break event;
            }
        };
        assert!(matches!(&last, WatchEvent::Reset(why) if why.contains("too large")), "{last:?}");
    });
}

/// Returns the keys of a listing that are texts.
fn readable(listing: &Listing) -> Vec<&str> {
    let keys = listing.entries.iter().map(|entry| entry.key.as_str());
    keys.filter(|key| !key.contains('\\')).collect()
}

/// Opening a pipe waits for whoever is at its other end: nobody.
#[test]
fn a_pipe_among_a_stores_files_is_named_and_not_waited_for() {
    crate::run(Server::files(), async |server| {
        let store = server.store().await;
        store.txn(&[], &put("/weft/v1/a")).await.unwrap();
        let Server::Files { dir } = &*server else { panic!() };
        for name in ["data/,weft,v1,b.json", "leases/1.json", "lock", "store.json"] {
            let path = dir.path().join("live").join(name);
            let kept = dir.path().join("kept");
            if path.exists() {
                std::fs::rename(&path, &kept).unwrap();
            }
            Program::new("mkfifo").args([path.as_os_str()]).run().expect_ok();
            let error = store.list("/weft/v1/").await.unwrap_err().to_string();
            assert!(error.contains(name) && error.ends_with("it is no file"), "{error}");
            std::fs::remove_file(&path).unwrap();
            if kept.exists() {
                std::fs::rename(&kept, &path).unwrap();
            }
        }
        assert_eq!(store.list("/weft/v1/").await.unwrap().entries.len(), 1);
    });
}
