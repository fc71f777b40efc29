//! Many hosts on one etcd: the small sibling of `cargo xtask bench overlay`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::watch;
use weft_overlay::records::{Cluster, Egress, Encryption, Slots, Underlay};
use weft_overlay::{ClusterId, HostId, NetworkId, Snapshot, keys};
use weft_store::claims::{Claims, JoinRequest, NewNetwork};
use weft_store::{Follower, SharedStore, Update};

use crate::server::Server;

const HOSTS: u16 = 60;

fn id(number: u16) -> HostId {
    let [a, b] = number.to_be_bytes();
    HostId::new([a, b, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
}

fn request(number: u16) -> JoinRequest {
    let [a, b] = number.to_be_bytes();
    JoinRequest {
        id: id(number),
        name: format!("h{number}"),
        boot: String::new(),
        underlay: Underlay { v4: Some(Ipv4Addr::new(198, 18, a, b)), v6: None },
        mtu: 1500,
        version: String::new(),
        wireguard: Slots::default(),
        takeover: false,
        cluster: Cluster::new(ClusterId::random()),
    }
}

/// Follows the store as an agent does, and shows what it knows.
async fn follow(store: SharedStore, own: HostId, known: watch::Sender<Snapshot>) {
    let mut follower = Follower::new(store, keys::PREFIX);
    loop {
        let update = follower.next().await;
        known.send_modify(|snapshot| {
            let changes = match update {
                Update::Listed(listing, _) => snapshot.adopt(&listing, Some(own)),
                Update::Changes(events) => snapshot.apply(&events, Some(own)),
                Update::Progress(_) | Update::Lost(_) | Update::Back => return,
            };
            assert_eq!(changes.alarm, None);
        });
    }
}

#[test]
fn sixty_hosts_that_come_together_know_each_other() {
    crate::run(Server::etcd(), async |server| {
        let claims = Claims::new(server.store().await);
        claims.join(&request(0)).await.unwrap();
        let blue = NewNetwork {
            id: NetworkId::random(),
            name: "blue".parse().unwrap(),
            vni: None,
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            encryption: Encryption::None,
            isolated: false,
            egress: Egress::Nat,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        };
        let blue = claims.create_network(&blue).await.unwrap().name;
        let (mut views, mut joins) = (Vec::new(), Vec::new());
        for (number, store) in (0..HOSTS).zip(server.patient_stores(HOSTS.into()).await) {
            let (sender, receiver) = watch::channel(Snapshot::default());
            tokio::spawn(follow(Arc::clone(&store), id(number), sender));
            views.push(receiver);
            let blue = blue.clone();
            joins.push(tokio::spawn(async move {
                let claims = Claims::new(store);
                claims.join(&request(number)).await.unwrap();
                claims.claim_block(id(number), &blue, false).await.unwrap();
            }));
        }
        for join in joins {
            join.await.unwrap();
        }
        let all = usize::from(HOSTS);
        for view in &mut views {
            let full = |known: &Snapshot| known.hosts().count() == all && known.blocks().count() == all;
            view.wait_for(full).await.unwrap();
        }
        // One change is seen by all, and by then all know the same.
        claims.update_host(id(7), |host| host.mtu = 1400).await.unwrap();
        let truth = Snapshot::from_list(&claims.store().list(keys::PREFIX).await.unwrap());
        for view in &mut views {
            let seen = view.wait_for(|known| known.host(id(7)).is_some_and(|host| host.mtu == 1400)).await;
            let seen = seen.unwrap();
            assert!(seen.difference(&truth).is_empty(), "{:?}", seen.difference(&truth));
            assert_eq!(seen.bad_count(), 0);
        }
    });
}

#[test]
fn whoever_is_first_hosts_get_all_different_things() {
    crate::run(Server::etcd(), crate::claims::whoever_is_first_hosts_get_all_different_things);
}
