//! Elements of our own sets by which packets within a network meet something else than they do on any host of ours.
//!
//! Rules are compared as they are ([`crate::Ours`]); elements come and go with networks, containers and ports, and anybody may add one or
//! take one away. Most sets are asked only about what arrives from or goes to somewhere else: published ports about the host's own
//! addresses, isolation and guards about packets that are not within a network, admissions to set a mark that nobody but others' filters
//! looks at. What is left is here:
//!
//! ```text
//! set inet weft within            lacks a way of the network's: its packets go on to what isolates it
//! set inet weft no_icc            has one: its packets are marked
//! set inet weft masqN_L           has a part of the network's subnets: packets to the rest of them are masqueraded
//! set bridge weft spoof_guarded   has a container's port: what it sends is checked
//! ```
//!
//! The element `*`, for whatever has none of its own, is one of the network's in `no_icc` and `spoof_guarded`. In `masqN_L` it accepts all
//! that passes as it is, and it is no way in `within`.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_nft::{Error, Key, Set, Socket};

use crate::FirewallError;
use crate::entry::Entry;
use crate::layout::masquerade::{self, Kind};
use crate::layout::{ANY, INET, bridge, forward};
use crate::strangers::Stranger;

/// What the sets have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    within: BTreeSet<Key>,
    marked: BTreeSet<Key>,
    checked: BTreeSet<Key>,
    masqueraded: Vec<IpNetwork>,
    is_passing: bool,
}

/// A network whose packets pass from one of its interfaces to another.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// Its subnets, on all hosts.
    pub subnets: &'a [IpNetwork],
    /// The interfaces that packets pass between.
    pub links: [&'a IfName; 2],
    /// The ports of its containers.
    pub ports: &'a [String],
    /// Whether it shares its namespace with others, so that what isolates it is there.
    pub is_fenced: bool,
}

impl Elements {
    /// Returns what there is in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn read(socket: &mut Socket) -> Result<Self, FirewallError> {
        Self::list(socket).map_err(|source| crate::table::refused(INET, source))
    }

    fn list(socket: &mut Socket) -> Result<Self, Error> {
        let mut found = Self::default();
        let within = found.keys(socket, &forward::within())?;
        // One that is about to go lets nothing pass for long.
        found.within = within.into_iter().filter_map(|(key, stays)| stays.then_some(key)).collect();
        found.marked = found.keys(socket, &forward::no_icc())?.into_keys().collect();
        found.checked = found.keys(socket, &bridge::guarded())?.into_keys().collect();
        for name in socket.sets(INET)? {
            let Some(any) = masqueraded_by(&name) else { continue };
            let keys = found.keys(socket, &masquerade::subnet_set(Kind::Masquerade, any))?;
            found.masqueraded.extend(keys.keys().filter_map(|key| subnet(key, any)));
        }
        Ok(found)
    }

    fn keys(&mut self, socket: &mut Socket, set: &Set) -> Result<BTreeMap<Key, bool>, Error> {
        let found = socket.lasting_keys(set)?;
        self.is_passing |= found.values().any(|lasts| !lasts);
        Ok(found)
    }

    /// Returns whether some are there for a time only: nobody tells when it is over.
    pub fn is_passing(&self) -> bool {
        self.is_passing
    }

    /// Returns what is there, or not there, that a network's packets meet.
    pub fn about(&self, network: &Network<'_>) -> Vec<Stranger> {
        let [one, other] = network.links;
        let mut found = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let (key, element) =
                (Entry::Between(from.clone(), to.clone()).key(), format!("\"{from}\" . \"{to}\""));
            if network.is_fenced && !self.within.contains(&key) {
                found
                    .push(Stranger::Missing { set: forward::within().to_string(), element: element.clone() });
            }
            if self.marked.contains(&key) {
                found.push(Stranger::Element { set: forward::no_icc().to_string(), element });
            }
        }
        for (keys, set) in [(&self.marked, forward::no_icc()), (&self.checked, bridge::guarded())] {
            if keys.iter().any(Key::is_catch_all) {
                found.push(Stranger::Element { set: set.to_string(), element: "*".into() });
            }
        }
        let checked = network.ports.iter().find(|port| self.checked.contains(&Key::new().ifname(port)));
        found.extend(checked.map(|port| Stranger::Element {
            set: bridge::guarded().to_string(),
            element: format!("\"{port}\""),
        }));
        let masqueraded = network.subnets.iter().find_map(|subnet| self.masqueraded_part(*subnet));
        found.extend(masqueraded.map(|part| Stranger::Element {
            set: masquerade::subnet_set(Kind::Masquerade, part).to_string(),
            element: format!("{0} . {0}", part.network()),
        }));
        found
    }

    /// Returns a part of a subnet that is masqueraded, unless packets within all of it are accepted before.
    fn masqueraded_part(&self, subnet: IpNetwork) -> Option<IpNetwork> {
        let has = |outer: IpNetwork, inner: IpNetwork| {
            outer.is_ipv4() == inner.is_ipv4()
                && outer.prefix() <= inner.prefix()
                && outer.contains(inner.network())
        };
        if self.masqueraded.iter().any(|known| has(*known, subnet)) {
            return None;
        }
        self.masqueraded.iter().find(|known| has(subnet, **known)).copied()
    }
}

/// Returns any subnet of the family and length that a set of this name is about.
fn masqueraded_by(name: &str) -> Option<IpNetwork> {
    ANY.into_iter().find_map(|any| {
        let family = if any.is_ipv4() { "masq4_" } else { "masq6_" };
        IpNetwork::new(any, name.strip_prefix(family)?.parse().ok()?).ok()
    })
}

/// Returns the subnet that a key is twice the address of. Any other key says that nothing is changed.
fn subnet(key: &Key, any: IpNetwork) -> Option<IpNetwork> {
    let (first, second) = key.as_bytes().split_at_checked(key.as_bytes().len() / 2)?;
    let address = match first.len() {
        4 => <[u8; 4]>::try_from(first).ok()?.into(),
        _ => <[u8; 16]>::try_from(first).ok()?.into(),
    };
    IpNetwork::new(address, any.prefix()).ok().filter(|_| first == second)
}

#[cfg(test)]
mod tests {
    use weft_model::Mac;
    use weft_nft::Transaction;

    use super::*;
    use crate::part::Part;

    const SUBNET: &str = "10.1.0.0/16";

    fn ifname(name: &str) -> IfName {
        name.parse().unwrap()
    }

    /// Has a network's own elements there, and returns a socket.
    fn own() -> Socket {
        weft_netns::isolate().unwrap();
        let mut socket = Socket::open().unwrap();
        let mut all = Transaction::new();
        masquerade::create(&mut all);
        for part in [Part::Forward, Part::NoIcc] {
            part.create(&mut all);
        }
        for length in [16, 24, 32] {
            Part::length(Kind::Masquerade, IpNetwork::new(ANY[0], length).unwrap()).create(&mut all);
        }
        bridge::create(&mut all);
        for (from, to) in [("ovb1", "ov1"), ("ov1", "ovb1")] {
            add(&mut all, &Entry::Between(ifname(from), ifname(to)));
        }
        socket.commit(&all).unwrap();
        socket
    }

    #[expect(clippy::disallowed_methods, reason = "a test waits as long as it takes")]
    fn nft(words: &str) {
        let done = std::process::Command::new("nft").arg(words).status().unwrap();
        assert!(done.success(), "{words}");
    }

    fn add(all: &mut Transaction, entry: &Entry) {
        all.elements(&entry.set(), vec![entry.element()]);
    }

    fn told(socket: &mut Socket, is_fenced: bool) -> Vec<String> {
        let links = [ifname("ovb1"), ifname("ov1")];
        let network = Network {
            subnets: &[SUBNET.parse().unwrap()],
            links: [&links[0], &links[1]],
            ports: &["vetha".into(), "vethb".into()],
            is_fenced,
        };
        let elements = Elements::read(socket).unwrap();
        elements.about(&network).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_others_add_and_take_away_is_told() {
        let mut socket = own();
        assert_eq!(told(&mut socket, true), [""; 0], "its own");
        let change = |socket: &mut Socket, entry: &Entry, there: bool| {
            let mut all = Transaction::new();
            match there {
                true => add(&mut all, entry),
                false => drop(all.delete_elements(&entry.set(), vec![entry.element()])),
            }
            socket.commit(&all).unwrap();
        };
        let way = Entry::Between(ifname("ovb1"), ifname("ov1"));
        change(&mut socket, &way, false);
        assert!(told(&mut socket, true)[0].contains("set inet weft within lacks \"ovb1\" . \"ov1\""));
        assert_eq!(told(&mut socket, false), [""; 0], "there is nobody that it is fenced from");
        change(&mut socket, &way, true);

        // A part of its subnet, unless all of it is accepted before.
        let part = Entry::Subnet("10.1.2.0/24".parse().unwrap());
        change(&mut socket, &part, true);
        let found = told(&mut socket, true);
        assert!(found[0].contains("nft list set inet weft masq4_24") && found.len() == 1, "{found:?}");
        assert!(found[0].contains("10.1.2.0 . 10.1.2.0"), "{found:?}");
        let whole = Entry::Subnet(SUBNET.parse().unwrap());
        change(&mut socket, &whole, true);
        assert_eq!(told(&mut socket, true), [""; 0], "nothing is changed within it");
        change(&mut socket, &whole, false);
        change(&mut socket, &part, false);
        let other = Entry::Subnet("10.2.2.0/24".parse().unwrap());
        change(&mut socket, &other, true);
        assert_eq!(told(&mut socket, true), [""; 0], "another network's");

        let port = (bridge::guarded(), bridge::guard(&ifname("vethb"), Mac([2, 0, 0, 0, 0, 1])));
        socket.commit(Transaction::new().elements(&port.0, vec![port.1.clone()])).unwrap();
        assert!(told(&mut socket, true)[0].contains("nft list set bridge weft spoof_guarded"));
        socket.commit(Transaction::new().delete_elements(&port.0, vec![port.1])).unwrap();
        assert_eq!(told(&mut socket, true), [""; 0]);
    }

    #[test]
    fn an_element_for_everything_is_told() {
        let mut socket = own();
        for (set, shown) in [
            ("inet weft no_icc", "set inet weft no_icc has *, "),
            ("bridge weft spoof_guarded", "set bridge weft spoof_guarded has *, "),
        ] {
            nft(&format!("add element {set} {{ * }}"));
            let found = told(&mut socket, true);
            assert!(found.len() == 1 && found[0].starts_with(shown), "{found:?}");
            nft(&format!("delete element {set} {{ * }}"));
            assert_eq!(told(&mut socket, true), [""; 0]);
        }
        // Whoever is within any subnet is accepted, and no packet is changed.
        nft("add element inet weft masq4_24 { * }");
        assert_eq!(told(&mut socket, true), [""; 0]);
        // It is no way of the network's.
        nft("add element inet weft within { * }");
        nft("delete element inet weft within { \"ov1\" . \"ovb1\" }");
        assert!(told(&mut socket, true)[0].contains("within lacks"));
    }

    #[test]
    fn what_others_add_for_a_time_is_there_as_long() {
        let mut socket = own();
        assert!(!Elements::read(&mut socket).unwrap().is_passing());
        nft("add element inet weft no_icc { \"ov1\" . \"ovb1\" timeout 1h }");
        assert!(Elements::read(&mut socket).unwrap().is_passing());
        assert!(told(&mut socket, true)[0].contains("set inet weft no_icc"));
        // And the way that is about to go is none.
        nft("delete element inet weft within { \"ov1\" . \"ovb1\" }");
        nft("add element inet weft within { \"ov1\" . \"ovb1\" timeout 1h }");
        assert!(told(&mut socket, true).iter().any(|why| why.contains("within lacks")));
    }
}
