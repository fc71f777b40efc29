//! Networks and hosts go, and leave nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use weft_overlay::records::{BlockState, Left, encode};
use weft_overlay::{Key, keys};
use weft_store::Op;
use weft_store::claims::{ClaimError, Claims};

use crate::claims::{DAY, announce, claims_blue, clocked, id, network, request, snapshot};
use crate::server::Server;

/// Containers come without the store, so a network that is to go is closed first, everywhere.
pub(crate) async fn a_network_goes_when_all_have_let_go(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    for number in [2, 3] {
        claims.join(&request(number)).await.unwrap();
    }
    for number in [1, 2] {
        claims.claim_block(id(number), &blue, false).await.unwrap();
    }
    let store = claims.store();
    let (lease, other) = (
        store.lease(Duration::from_secs(600)).await.unwrap(),
        store.lease(Duration::from_secs(600)).await.unwrap(),
    );
    let going = claims.announce_removal(id(1), &blue, lease).await.unwrap();
    let error = claims.announce_removal(id(2), &blue, other).await.unwrap_err();
    assert!(matches!(error, ClaimError::BeingRemoved { host, .. } if host == id(1)), "{error}");
    // Nobody begins to take part.
    for error in [
        claims.claim_block(id(3), &blue, false).await.unwrap_err(),
        claims.borrow(id(3), &blue, "10.1.0.200".parse().unwrap(), "db").await.unwrap_err(),
    ] {
        assert!(matches!(error, ClaimError::BeingRemoved { .. } | ClaimError::Silent { .. }), "{error}");
    }
    claims.let_go(id(1), going.id).await.unwrap();
    let error = claims.finish_removal(&going).await.unwrap_err();
    assert!(matches!(error, ClaimError::StillMember { host, .. } if host == id(2)), "{error}");
    // It is called off, or whoever removes it is gone: all is as it was, and who let go takes part again.
    store.revoke(lease).await.unwrap();
    claims.let_go(id(2), going.id).await.unwrap();
    assert!(snapshot(store).await.is_member(going.id, id(2)), "what is not being removed is not let go of");
    claims.claim_block(id(1), &blue, false).await.unwrap();
    claims.announce_removal(id(2), &blue, other).await.unwrap();
    for number in [1, 2] {
        claims.let_go(id(number), going.id).await.unwrap();
    }
    claims.finish_removal(&going).await.unwrap();
    let known = snapshot(store).await;
    let left = (known.networks().count(), known.blocks().count(), known.members().count());
    assert_eq!((left, known.removal(going.id)), ((0, 0, 0), None));
    assert!(matches!(claims.finish_removal(&going).await, Err(ClaimError::NoNetwork(_))));
}

/// Whoever removed a network was killed when its record was gone and the rest was not.
pub(crate) async fn what_is_left_of_a_network_is_collected(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    let red = claims.create_network(&network("red", &["10.2.0.0/24"])).await.unwrap();
    for name in [&blue, &red.name] {
        claims.claim_block(id(1), name, false).await.unwrap();
    }
    let gone = snapshot(claims.store()).await.network_named(&blue).unwrap().id;
    claims.store().txn(&[], &[Op::delete(&Key::Network(blue))]).await.unwrap();
    let before = snapshot(claims.store()).await;
    assert_eq!((before.blocks().count(), before.members().count()), (2, 2));
    // One that is there is left alone, whatever is believed of it.
    claims.collect_networks([gone, red.id]).await.unwrap();
    let after = snapshot(claims.store()).await;
    assert_eq!((after.blocks().count(), after.members().count()), (1, 1));
    assert!(after.blocks().all(|block| block.network == red.id));
    assert!(!after.all().any(|record| {
        record.key()
            == Key::Vni(
                before
                    .all()
                    .find_map(|record| match record {
                        weft_overlay::snapshot::Record::Vni(vni, claim) if claim.network == gone => {
                            Some(*vni)
                        }
                        _ => None,
                    })
                    .unwrap(),
            )
    }));
}

/// Whoever forgot a host was killed after the first step; and after a month nobody need know any more.
pub(crate) async fn what_is_left_of_a_host_is_collected(server: &mut Server) {
    let (claims, clock) = clocked(server.store().await);
    let blue = claims_blue(&claims).await;
    claims.join(&request(2)).await.unwrap();
    for number in [1, 2] {
        claims.claim_block(id(number), &blue, false).await.unwrap();
    }
    announce(&claims, id(1)).await;
    let left = Left { host: id(2), at: clock.load(Ordering::Relaxed), reason: "forgotten".into() };
    let half = [Op::put(&Key::Left(id(2)), encode(&left)), Op::delete(&Key::Host(id(2)))];
    claims.store().txn(&[], &half).await.unwrap();
    assert_eq!(snapshot(claims.store()).await.members().count(), 2);
    claims.collect_hosts([id(1), id(2)]).await.unwrap();
    let known = snapshot(claims.store()).await;
    let states: Vec<(bool, bool)> =
        known.blocks().map(|block| (block.host == id(1), block.state == BlockState::Active)).collect();
    assert!(states.contains(&(true, true)) && states.contains(&(false, false)), "{states:?}");
    assert_eq!((known.members().count(), known.left().count()), (1, 1), "who is there keeps everything");
    clock.fetch_add(29 * DAY, Ordering::Relaxed);
    claims.collect_hosts([id(2)]).await.unwrap();
    assert_eq!(snapshot(claims.store()).await.left().count(), 1);
    clock.fetch_add(2 * DAY, Ordering::Relaxed);
    claims.collect_hosts([id(2)]).await.unwrap();
    assert_eq!(snapshot(claims.store()).await.left().count(), 0);
    assert!(claims.store().list(keys::PREFIX).await.unwrap().entries.len() > 5);
}
