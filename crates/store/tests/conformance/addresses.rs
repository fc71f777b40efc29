//! Blocks and single addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use weft_overlay::Key;
use weft_overlay::blocks::Taken;
use weft_overlay::records::{Block, BlockState, BorrowState, encode};
use weft_store::Op;
use weft_store::claims::{ClaimError, Claims};

use crate::claims::{DAY, announce, claims_blue, clocked, id, request, snapshot};
use crate::server::Server;

/// Returns an address of a block.
fn inside(block: &Block, number: u32) -> IpAddr {
    let IpAddr::V4(first) = block.cidr.network() else { panic!() };
    Ipv4Addr::from(first.to_bits() + number).into()
}

/// Section C4: never-used blocks, then the one that was given up first, and none before its quarantine is over.
pub(crate) async fn a_block_is_used_again_after_its_quarantine(server: &mut Server) {
    let (claims, clock) = clocked(server.store().await);
    let blue = claims_blue(&claims).await;
    for number in [2, 3, 4] {
        claims.join(&request(number)).await.unwrap();
    }
    let claim = async |number: u8| claims.claim_block(id(number), &blue, false).await;
    let first = claim(1).await.unwrap();
    let second = claim(2).await.unwrap();
    claims.forget(id(2), "dead").await.unwrap();
    clock.fetch_add(1000, Ordering::Relaxed);
    claims.forget(id(1), "dead").await.unwrap();
    // Two of four were never used.
    let fresh = [claim(3).await.unwrap(), claim(3).await.unwrap()];
    assert!(!fresh.iter().any(|block| block.cidr == first.cidr || block.cidr == second.cidr));
    let error = claim(3).await.unwrap_err();
    assert!(matches!(error, ClaimError::Exhausted { .. }), "{error}");
    clock.fetch_add(DAY - 1000, Ordering::Relaxed);
    assert_eq!(claim(4).await.unwrap().cidr, second.cidr, "the one whose quarantine is over");
    assert!(claim(4).await.is_err());
    clock.fetch_add(1000, Ordering::Relaxed);
    let reused = claim(4).await.unwrap();
    assert_eq!(reused.cidr, first.cidr);
    assert!(reused.epoch > first.epoch);
    // Its own a host has back at once.
    let since = clock.load(Ordering::Relaxed);
    let given_up = Block { state: BlockState::Quarantine { since }, ..reused.clone() };
    let put = Op::put(&Key::Block(reused.network, reused.cidr), encode(&given_up));
    claims.store().txn(&[], &[put]).await.unwrap();
    assert!(matches!(claim(3).await, Err(ClaimError::Exhausted { .. })));
    assert_eq!(claim(4).await.unwrap().cidr, reused.cidr);
}

pub(crate) async fn a_network_that_is_used_up_says_so(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let (claims, blue) = (Claims::new(server.store().await), blue.clone());
        tasks.push(tokio::spawn(async move { claims.claim_block(id(1), &blue, false).await }));
    }
    let (mut got, mut refused) = (BTreeSet::new(), 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(block) => assert!(got.insert(block.cidr), "{} twice", block.cidr),
            Err(error) => {
                assert!(matches!(error, ClaimError::Exhausted { family: "IPv4", .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((got.len(), refused), (4, 2));
    let error = claims.claim_block(id(1), &blue, true).await.unwrap_err();
    assert!(matches!(error, ClaimError::Exhausted { family: "IPv6", .. }), "{error}");
    assert!(matches!(
        claims.claim_block(id(1), &"red".parse().unwrap(), false).await,
        Err(ClaimError::NoNetwork(_))
    ));
}

pub(crate) async fn a_single_address_is_borrowed_once(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    claims.join(&request(2)).await.unwrap();
    let own = claims.claim_block(id(1), &blue, false).await.unwrap();
    let borrow = async |number: u8, address: IpAddr| claims.borrow(id(number), &blue, address, "db").await;
    assert_eq!(borrow(1, inside(&own, 9)).await.unwrap(), None);
    // An address out of nobody's block, which two want at the same moment.
    let far: IpAddr =
        if own.cidr.contains("10.1.0.200".parse().unwrap()) { "10.1.0.100" } else { "10.1.0.200" }
            .parse()
            .unwrap();
    let mut tasks = Vec::new();
    for number in [1, 2] {
        let (claims, blue) = (Claims::new(server.store().await), blue.clone());
        tasks.push(tokio::spawn(async move { claims.borrow(id(number), &blue, far, "db").await.is_ok() }));
    }
    let mut got = Vec::new();
    for task in tasks {
        got.push(task.await.unwrap());
    }
    assert_eq!(got.iter().filter(|got| **got).count(), 1, "{got:?}");
    let holder = if got[0] { 1 } else { 2 };
    borrow(holder, far).await.unwrap();
    // The block around it is nobody's from then on: two of four are left.
    for _ in 0..2 {
        assert!(!claims.claim_block(id(1), &blue, false).await.unwrap().cidr.contains(far));
    }
    assert!(matches!(claims.claim_block(id(1), &blue, false).await, Err(ClaimError::Exhausted { .. })));
    claims.give_back(id(3 - holder), own.network, far).await.unwrap();
    assert!(borrow(3 - holder, far).await.is_err(), "only who has it gives it back");
    claims.give_back(id(holder), own.network, far).await.unwrap();
    borrow(3 - holder, far).await.unwrap();
}

/// An address of another host's block is that host's to lend: it is asked, and it answers.
pub(crate) async fn an_address_is_lent_by_the_host_whose_it_is(server: &mut Server) {
    let claims = Claims::new(server.store().await);
    let blue = claims_blue(&claims).await;
    claims.join(&request(2)).await.unwrap();
    let own = claims.claim_block(id(1), &blue, false).await.unwrap();
    let wanted = inside(&own, 9);
    let ask = async |address: IpAddr| claims.borrow(id(2), &blue, address, "db").await;
    // Nobody there to ask.
    let error = ask(wanted).await.unwrap_err();
    assert!(matches!(error, ClaimError::Silent { .. }) && error.to_string().contains("h1"), "{error}");
    assert!(error.hint().is_some());
    announce(&claims, id(1)).await;
    for never in [0, 1, 63] {
        let error = ask(inside(&own, never)).await.unwrap_err();
        assert!(matches!(error, ClaimError::Taken(Taken::OfHost { .. } | Taken::Edge { .. })), "{error}");
    }
    let asked = ask(wanted).await.unwrap().unwrap();
    assert_eq!(asked.state, BorrowState::Asked);
    let state = async || snapshot(claims.store()).await.borrow(own.network, wanted).unwrap().state.clone();
    // Only whose block it is answers, and only the question that was put.
    claims.lend(id(2), &asked, own.cidr, None).await.unwrap();
    let other = weft_overlay::records::Borrow { epoch: asked.epoch + 1, ..asked.clone() };
    claims.lend(id(1), &other, own.cidr, None).await.unwrap();
    assert_eq!(state().await, BorrowState::Asked);
    claims.lend(id(1), &asked, own.cidr, Some("it is in use".into())).await.unwrap();
    assert_eq!(state().await, BorrowState::Refused { why: "it is in use".into() });
    // It may be asked for again, by anybody.
    let again = ask(wanted).await.unwrap().unwrap();
    assert!(again.epoch > asked.epoch, "{again:?}");
    claims.lend(id(1), &again, own.cidr, None).await.unwrap();
    assert_eq!(state().await, BorrowState::Active);
    assert_eq!(ask(wanted).await.unwrap(), None, "it has it");
    let error = claims.borrow(id(1), &blue, wanted, "db").await.unwrap_err();
    assert!(matches!(error, ClaimError::Taken(Taken::Borrowed { .. })), "{error}");
    // A question that was taken back is not answered.
    let late = ask(inside(&own, 10)).await.unwrap().unwrap();
    claims.give_back(id(2), own.network, late.address).await.unwrap();
    claims.lend(id(1), &late, own.cidr, None).await.unwrap();
    assert_eq!(snapshot(claims.store()).await.borrow(own.network, late.address), None);
    // Whose it was is gone: who has the address keeps it, and nobody gets the block around it.
    claims.leave(id(1), "left").await.unwrap();
    assert_eq!(state().await, BorrowState::Active);
    let error = ask(inside(&own, 11)).await.unwrap_err();
    assert!(matches!(error, ClaimError::Taken(Taken::Quarantined { .. })), "{error}");
    let (later, clock) = clocked(server.store().await);
    clock.fetch_add(u64::MAX / 2, Ordering::Relaxed);
    for _ in 0..3 {
        assert_ne!(later.claim_block(id(2), &blue, false).await.unwrap().cidr, own.cidr);
    }
    assert!(matches!(later.claim_block(id(2), &blue, false).await, Err(ClaimError::Exhausted { .. })));
    claims.give_back(id(2), own.network, wanted).await.unwrap();
    assert_eq!(later.claim_block(id(2), &blue, false).await.unwrap().cidr, own.cidr);
}
