use super::*;

const POLICY: Policy = Policy { linger: Duration::from_secs(180), max_overlap: Duration::from_secs(3600) };

fn key(host: u8, slot: Slot, epoch: u64) -> PublicKey {
    let mut bytes = [host; 32];
    bytes[1] = u8::from(slot == Slot::B);
    bytes[2] = u8::try_from(epoch % 250).unwrap();
    PublicKey(bytes)
}

fn published(host: u8, slot: Slot, epoch: u64) -> Option<records::Slot> {
    Some(records::Slot { public_key: key(host, slot, epoch), port: 51820, epoch, state: SlotState::Active })
}

/// A host of a simulated mesh.
#[derive(Clone, Debug)]
struct Host {
    number: u8,
    own: Own,
    routes: BTreeMap<Ipv6Addr, Slot>,
    alive: bool,
}

fn address(number: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(number))
}

/// Hosts that see each other's records late and work in any order; time passes in seconds.
struct Mesh {
    hosts: Vec<Host>,
    now: u64,
    /// When each pair last shook hands in a slot, by the time that has passed.
    sessions: BTreeMap<(u8, u8, Slot), Duration>,
    clock: Duration,
}

impl Mesh {
    fn new(count: u8) -> Self {
        let host = |number| Host { number, own: Own::default(), routes: BTreeMap::new(), alive: true };
        Self {
            hosts: (1..=count).map(host).collect(),
            now: 1_000,
            sessions: BTreeMap::new(),
            clock: Duration::ZERO,
        }
    }

    fn remotes(&self, of: u8) -> Vec<Remote> {
        let others = self.hosts.iter().filter(|host| host.number != of);
        others
            .map(|host| Remote {
                host: HostId::new([host.number; 16]),
                address: address(host.number),
                underlay: [192, 0, 2, host.number].into(),
                alive: host.alive,
                wireguard: host.own.wireguard,
            })
            .collect()
    }

    fn host(&self, number: u8) -> &Host {
        self.hosts.iter().find(|host| host.number == number).unwrap()
    }

    fn by_address(&self, wanted: Ipv6Addr) -> u8 {
        self.hosts.iter().find(|host| address(host.number) == wanted).unwrap().number
    }

    /// Has two hosts shake hands, if both are there and have a key in the slot.
    fn shake(&mut self, one: u8, other: u8, slot: Slot) {
        let able = |host: &Host| host.alive && slot.of(&host.own.wireguard).is_some();
        if able(self.host(one)) && able(self.host(other)) {
            self.sessions.insert((one.min(other), one.max(other), slot), self.clock);
        }
    }

    fn handshakes(&self, of: &Host) -> Slots<BTreeMap<PublicKey, Duration>> {
        let mut ages = Slots::<BTreeMap<PublicKey, Duration>>::default();
        for ((one, other, slot), when) in &self.sessions {
            let peer = if *one == of.number { *other } else { *one };
            if (*one == of.number || *other == of.number)
                && slot.of(&of.own.wireguard).is_some()
                && let Some(theirs) = slot.of(&self.host(peer).own.wireguard)
            {
                slot.of_mut(&mut ages).insert(theirs.public_key, self.clock - *when);
            }
        }
        ages
    }

    /// Lets one host work once; returns what it did.
    fn work(&mut self, index: usize) -> Vec<Step> {
        let host = self.hosts[index].clone();
        let observed = Observed { handshakes: self.handshakes(&host), routes: host.routes.clone() };
        let steps = plan(&host.own, &self.remotes(host.number), &observed, self.now, POLICY);
        self.now += 1;
        let now = self.now;
        for step in &steps {
            match *step {
                Step::Handshake(slot, key) => {
                    let of = |host: &Host| slot.of(&host.own.wireguard).map(|slot| slot.public_key);
                    let peer = self.hosts.iter().find(|host| of(host) == Some(key)).unwrap().number;
                    self.shake(host.number, peer, slot);
                }
                Step::Route(to, slot) => self.shake(host.number, self.by_address(to), slot),
                Step::Create(slot) | Step::Remove(slot) => self.sessions.retain(|(one, other, of), _| {
                    *of != slot || (*one != host.number && *other != host.number)
                }),
                Step::Unroute(..) | Step::Retire(_) => {}
            }
        }
        let host = &mut self.hosts[index];
        for step in &steps {
            match *step {
                Step::Create(slot) => {
                    *slot.of_mut(&mut host.own.wireguard) = published(host.number, slot, now)
                }
                Step::Handshake(..) => {}
                Step::Route(address, slot) => drop(host.routes.insert(address, slot)),
                Step::Unroute(address, _) => drop(host.routes.remove(&address)),
                Step::Retire(slot) => {
                    slot.of_mut(&mut host.own.wireguard).as_mut().unwrap().state = SlotState::Retiring;
                    host.own.retiring_for = Some(Duration::ZERO);
                }
                Step::Remove(slot) => {
                    *slot.of_mut(&mut host.own.wireguard) = None;
                    host.own.retiring_for = None;
                }
            }
        }
        steps
    }

    /// Asserts that whatever a host sends now, its peer can read: both have a key in the slot it goes by.
    fn assert_nothing_is_lost(&self) {
        for host in self.hosts.iter().filter(|host| host.alive) {
            for (to, slot) in &host.routes {
                let peer = self.hosts.iter().find(|peer| address(peer.number) == *to).unwrap();
                if peer.alive {
                    assert!(slot.of(&host.own.wireguard).is_some(), "{host:?} sends by a slot it has not");
                    assert!(
                        slot.of(&peer.own.wireguard).is_some(),
                        "{host:?} sends what {peer:?} cannot read"
                    );
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.clock += time;
        for host in &mut self.hosts {
            host.own.retiring_for = host.own.retiring_for.map(|age| age + time);
        }
        // There is traffic wherever there is a route.
        let routes: Vec<_> = self
            .hosts
            .iter()
            .flat_map(|host| {
                host.routes.iter().map(|(to, slot)| (host.number, *to, *slot)).collect::<Vec<_>>()
            })
            .collect();
        for (from, to, slot) in routes {
            self.shake(from, self.by_address(to), slot);
        }
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            for index in 0..self.hosts.len() {
                if self.hosts[index].alive {
                    self.work(index);
                    self.assert_nothing_is_lost();
                }
            }
        }
    }

    fn rotate(&mut self, index: usize) -> Slot {
        self.now += 1;
        let host = &mut self.hosts[index];
        let slot = newest(&host.own.wireguard).unwrap().other();
        assert!(slot.of(&host.own.wireguard).is_none());
        let number = host.number;
        *slot.of_mut(&mut host.own.wireguard) = published(number, slot, self.now);
        self.sessions.retain(|(one, other, of), _| *of != slot || (*one != number && *other != number));
        slot
    }
}

#[test]
fn the_first_host_makes_a_key_and_a_second_is_found() {
    let mut mesh = Mesh::new(2);
    mesh.hosts[1].alive = false;
    assert_eq!(mesh.work(0), [Step::Create(Slot::A)]);
    assert_eq!(mesh.work(0), []);
    mesh.hosts[1].alive = true;
    mesh.settle();
    assert_eq!(mesh.hosts[0].routes, BTreeMap::from([(address(2), Slot::A)]));
    assert_eq!(mesh.hosts[1].routes, BTreeMap::from([(address(1), Slot::A)]));
    assert_eq!((mesh.work(0), mesh.work(1)), (vec![], vec![]));
}

#[test]
fn a_key_is_replaced_and_the_old_one_goes_after_a_while() {
    let mut mesh = Mesh::new(3);
    mesh.settle();
    assert_eq!(mesh.rotate(0), Slot::B);
    mesh.settle();
    for host in &mesh.hosts {
        assert!(host.routes.values().all(|slot| *slot == Slot::B), "{host:?}");
        assert_eq!(host.own.wireguard.a.unwrap().state, SlotState::Retiring);
    }
    mesh.pass(POLICY.linger);
    mesh.settle();
    assert!(mesh.hosts.iter().all(|host| host.own.wireguard.a.is_none() && host.own.wireguard.b.is_some()));
    // And back: the slots take turns.
    assert_eq!(mesh.rotate(2), Slot::A);
    mesh.settle();
    mesh.pass(POLICY.linger);
    mesh.settle();
    assert!(mesh.hosts.iter().all(|host| host.own.wireguard.b.is_none() && host.own.wireguard.a.is_some()));
}

#[test]
fn traffic_moves_only_once_a_handshake_has_succeeded() {
    let mut mesh = Mesh::new(2);
    mesh.settle();
    mesh.rotate(0);
    mesh.work(1);
    let host = mesh.hosts[0].clone();
    let mut observed = Observed { handshakes: mesh.handshakes(&host), routes: host.routes.clone() };
    let peer = mesh.hosts[1].own.wireguard.b.unwrap().public_key;
    let steps = plan(&host.own, &mesh.remotes(1), &observed, mesh.now, POLICY);
    assert_eq!(steps, [Step::Handshake(Slot::B, peer)]);
    observed.handshakes.b.insert(peer, SESSION);
    assert_eq!(plan(&host.own, &mesh.remotes(1), &observed, mesh.now, POLICY), steps);
}

#[test]
fn a_host_that_was_away_for_two_rotations_is_reached_again() {
    let mut mesh = Mesh::new(3);
    mesh.settle();
    mesh.hosts[2].alive = false;
    for _ in 0..2 {
        mesh.rotate(0);
        mesh.settle();
        mesh.pass(POLICY.linger);
        mesh.settle();
    }
    mesh.hosts[2].alive = true;
    mesh.settle();
    for host in &mesh.hosts {
        assert_eq!(host.routes.len(), 2, "{host:?}");
    }
    mesh.pass(POLICY.linger);
    mesh.settle();
    let slots: Vec<_> = mesh.hosts.iter().map(|host| newest(&host.own.wireguard).unwrap()).collect();
    assert!(slots.iter().all(|slot| *slot == slots[0]), "{:?}", mesh.hosts);
}

#[test]
fn a_peer_that_never_moves_is_waited_for_and_not_for_ever() {
    let mut mesh = Mesh::new(2);
    mesh.settle();
    mesh.rotate(0);
    assert_eq!(mesh.work(0), []);
    mesh.now += u64::try_from(POLICY.max_overlap.as_millis()).unwrap();
    assert_eq!(mesh.work(0), [Step::Retire(Slot::A)]);
}

#[test]
fn a_peer_whose_agent_is_away_is_heard_on_the_old_key() {
    let mut mesh = Mesh::new(2);
    mesh.settle();
    mesh.rotate(0);
    // The peer makes its key and then its agent is gone: it goes on sending by the old one.
    mesh.work(1);
    mesh.work(0);
    mesh.hosts[1].routes = BTreeMap::from([(address(1), Slot::A)]);
    assert_eq!(mesh.work(0), [Step::Route(address(2), Slot::B), Step::Retire(Slot::A)]);
    mesh.pass(POLICY.linger);
    assert_eq!(mesh.work(0), []);
    mesh.assert_nothing_is_lost();
    mesh.hosts[1].routes = BTreeMap::from([(address(1), Slot::B)]);
    mesh.pass(POLICY.linger);
    assert_eq!(mesh.work(0), [Step::Remove(Slot::A)]);
}

#[test]
fn a_host_that_is_gone_from_the_records_is_sent_nothing() {
    let mut mesh = Mesh::new(2);
    mesh.settle();
    let host = &mesh.hosts[0];
    let observed = Observed { handshakes: mesh.handshakes(host), routes: host.routes.clone() };
    let steps = plan(&host.own, &[], &observed, mesh.now, POLICY);
    assert_eq!(steps, [Step::Unroute(address(2), Slot::A)]);
}

proptest::proptest! {
    /// Whatever order hosts work in, whoever rotates when, nobody sends what the other cannot read, and in the end all
    /// have one key.
    #[test]
    fn no_order_of_events_loses_anything(events in proptest::collection::vec((0u8..4, 0usize..4), 0..120)) {
        let mut mesh = Mesh::new(4);
        mesh.settle();
        for (event, host) in events {
            match event {
                0 if Slot::ALL.iter().any(|slot| slot.of(&mesh.hosts[host].own.wireguard).is_none()) => {
                    mesh.rotate(host);
                }
                1 => mesh.pass(Duration::from_secs(60)),
                _ => drop(mesh.work(host)),
            }
            mesh.assert_nothing_is_lost();
        }
        for _ in 0..4 {
            mesh.settle();
            mesh.pass(POLICY.linger);
        }
        for host in &mesh.hosts {
            proptest::prop_assert!(host.own.wireguard.a.is_some() != host.own.wireguard.b.is_some(), "{:?}", mesh.hosts);
            proptest::prop_assert_eq!(host.routes.len(), 3);
        }
    }
}
