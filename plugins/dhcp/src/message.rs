//! Messages: what a client says, and what it makes of the answers (RFC 2131, RFC 2132).

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, Flags, Message, MessageType, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};
use weft_model::Mac;

use crate::options::{CLIENT_ID, Options};

/// The lease that is taken when a server names none, and the longest that is believed, in seconds.
const LEASE: [u32; 2] = [3600, 10 * 365 * 86400];
/// The shortest lease that is believed, in seconds: less would be a storm of renewals.
const SHORTEST: u32 = 8;
/// How many entries of a list are taken from a server.
const ENTRIES: usize = 64;
/// The smallest MTU of IPv4 (RFC 791), below which an option is nonsense.
const SMALLEST_MTU: u16 = 576;
/// How long a message is before its options, and what its last four bytes are (RFC 2131, section 3).
const HEAD: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// The options that are read of an answer.
const READ: [OptionCode; 13] = [
    OptionCode::SubnetMask,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::DomainName,
    OptionCode::InterfaceMtu,
    OptionCode::StaticRoutingTable,
    OptionCode::AddressLeaseTime,
    OptionCode::MessageType,
    OptionCode::ServerIdentifier,
    OptionCode::Renewal,
    OptionCode::Rebinding,
    OptionCode::DomainSearch,
    OptionCode::ClasslessStaticRoute,
];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The interface's Ethernet address.
    pub(crate) mac: Mac,
    /// The client's name for itself: container, network and interface.
    pub(crate) id: String,
    /// The options of its messages.
    pub(crate) options: Options,
    /// Whether answers are to be sent to everybody.
    pub(crate) broadcast: bool,
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saying {
    /// Who has an address for me? Perhaps this one?
    Discover(Option<Ipv4Addr>),
    /// I take this address of that server.
    Select(Ipv4Addr, Ipv4Addr),
    /// I would like to keep this address.
    Keep(Ipv4Addr),
    /// I do not need this address of that server any more.
    Release(Ipv4Addr, Ipv4Addr),
}

impl Client {
    /// Returns the client's name as a server is told it: type 0, no hardware address (RFC 2132, section 9.14).
    fn identifier(&self) -> Vec<u8> {
        let told = self.options.told.iter().find(|(code, _)| *code == CLIENT_ID);
        let id = told.map_or(self.id.as_bytes(), |(_, value)| value);
        [&[0], &id[..id.len().min(254)]].concat()
    }

    /// Returns a message as bytes.
    pub(crate) fn say(&self, saying: Saying, xid: u32) -> Option<Vec<u8>> {
        let mut message = Message::default();
        message.set_xid(xid).set_chaddr(&self.mac.0);
        if self.broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        let kind = match saying {
            Saying::Discover(_) => MessageType::Discover,
            Saying::Select(..) | Saying::Keep(_) => MessageType::Request,
            Saying::Release(..) => MessageType::Release,
        };
        if let Saying::Keep(address) | Saying::Release(address, _) = saying {
            message.set_ciaddr(address);
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ClientIdentifier(self.identifier()));
        if let Saying::Discover(Some(address)) | Saying::Select(address, _) = saying {
            options.insert(DhcpOption::RequestedIpAddress(address));
        }
        if let Saying::Select(_, server) | Saying::Release(_, server) = saying {
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        if !matches!(saying, Saying::Release(..)) {
            let asked = self.options.asked.iter().map(|code| OptionCode::from(*code)).collect();
            options.insert(DhcpOption::ParameterRequestList(asked));
            options.insert(DhcpOption::MaxMessageSize(1472));
            for (code, value) in self.options.told.iter().filter(|(code, _)| *code != CLIENT_ID) {
                let option = UnknownOption::new(OptionCode::from(*code), value.clone());
                options.insert(DhcpOption::Unknown(option));
            }
        }
        let mut bytes = Vec::with_capacity(400);
        message.encode(&mut Encoder::new(&mut bytes)).ok()?;
        // Old servers want messages of at least BOOTP's length (RFC 1542, section 2.1).
        bytes.resize(bytes.len().max(300), 0);
        Some(bytes)
    }

    /// Reads an answer to this client; nothing for whatever else it is.
    pub(crate) fn read(&self, bytes: &[u8], xid: u32) -> Option<Answer> {
        let message = Message::decode(&mut Decoder::new(&sift(bytes)?)).ok()?;
        // Not `chaddr()`, which believes the length that it is told.
        let hardware = bytes.get(28..34)?;
        let ours =
            message.opcode() == v4::Opcode::BootReply && message.xid() == xid && *hardware == self.mac.0;
        if !ours {
            return None;
        }
        match message.opts().msg_type()? {
            MessageType::Offer => Terms::of(&message).map(Answer::Offer),
            MessageType::Ack => Terms::of(&message).map(Answer::Ack),
            MessageType::Nak => Some(Answer::Nak),
            _ => None,
        }
    }
}

/// Returns the message with those options alone that are read: the decoder takes the lengths of some others on trust.
fn sift(bytes: &[u8]) -> Option<Vec<u8>> {
    let (head, mut rest) = bytes.split_at_checked(HEAD)?;
    if !head.ends_with(&MAGIC) {
        return None;
    }
    let mut sifted = head.to_vec();
    while let [code, after @ ..] = rest {
        rest = match *code {
            0 => after,
            255 => break,
            code => {
                let (value, next) =
                    after.split_first().and_then(|(len, after)| after.split_at_checked((*len).into()))?;
                if READ.contains(&OptionCode::from(code)) {
                    sifted.extend(rest.get(..2 + value.len())?);
                }
                next
            }
        };
    }
    sifted.push(255);
    Some(sifted)
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has these terms.
    Offer(Terms),
    /// They hold.
    Ack(Terms),
    /// They do not.
    Nak,
}

/// The terms of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// The address with its subnet's prefix.
    pub(crate) address: Ipv4Network,
    /// The server.
    pub(crate) server: Ipv4Addr,
    /// Seconds until the lease has to be renewed with its server.
    pub(crate) renew: u32,
    /// Seconds until any server will do.
    pub(crate) rebind: u32,
    /// Seconds that the lease lasts.
    pub(crate) lease: u32,
    /// The gateway.
    pub(crate) router: Option<Ipv4Addr>,
    /// Routes, each with its gateway.
    pub(crate) routes: Vec<(Ipv4Network, Ipv4Addr)>,
    /// Servers for names.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// The domain.
    pub(crate) domain: Option<String>,
    /// The domains to search in.
    pub(crate) search: Vec<String>,
    /// The largest packet.
    pub(crate) mtu: Option<u16>,
}

impl Terms {
    /// Reads the terms; nothing when the address is one that no host can have, or there is no mask or server.
    fn of(message: &Message) -> Option<Self> {
        let options = message.opts();
        let address = message.yiaddr();
        let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        if special || address.is_broadcast() {
            return None;
        }
        let Some(DhcpOption::SubnetMask(mask)) = options.get(OptionCode::SubnetMask) else { return None };
        let Some(DhcpOption::ServerIdentifier(server)) = options.get(OptionCode::ServerIdentifier) else {
            return None;
        };
        let seconds = |code| match options.get(code) {
            Some(
                DhcpOption::AddressLeaseTime(time) | DhcpOption::Renewal(time) | DhcpOption::Rebinding(time),
            ) => Some(*time),
            _ => None,
        };
        let lease = seconds(OptionCode::AddressLeaseTime).unwrap_or(LEASE[0]).clamp(SHORTEST, LEASE[1]);
        // RFC 2131, section 4.4.5: half of the lease, and seven eighths.
        let rebind = seconds(OptionCode::Rebinding).filter(|time| *time < lease).unwrap_or(lease / 8 * 7);
        let rebind = rebind.max(2);
        let renew = seconds(OptionCode::Renewal).filter(|time| *time < rebind).unwrap_or(lease / 2);
        Some(Self {
            address: Ipv4Network::with_netmask(address, *mask).ok()?,
            server: *server,
            renew: renew.clamp(1, rebind - 1),
            rebind,
            lease,
            router: routers(options).into_iter().find(|router| !router.is_unspecified()),
            routes: routes(options),
            dns: match options.get(OptionCode::DomainNameServer) {
                Some(DhcpOption::DomainNameServer(servers)) => {
                    servers.iter().take(ENTRIES).copied().collect()
                }
                _ => Vec::new(),
            },
            domain: match options.get(OptionCode::DomainName) {
                Some(DhcpOption::DomainName(name)) => Some(name.clone()).filter(|name| is_domain(name)),
                _ => None,
            },
            search: match options.get(OptionCode::DomainSearch) {
                Some(DhcpOption::DomainSearch(names)) => {
                    let names = names.iter().map(ToString::to_string).filter(|name| is_domain(name));
                    names.take(ENTRIES).collect()
                }
                _ => Vec::new(),
            },
            mtu: match options.get(OptionCode::InterfaceMtu) {
                Some(DhcpOption::InterfaceMtu(mtu)) => Some(*mtu).filter(|mtu| *mtu >= SMALLEST_MTU),
                _ => None,
            },
        })
    }
}

fn routers(options: &v4::DhcpOptions) -> Vec<Ipv4Addr> {
    match options.get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers.iter().take(ENTRIES).copied().collect(),
        _ => Vec::new(),
    }
}

/// Classless routes beat static ones and routers (RFC 3442). What has no gateway is on the link, as the address's
/// own subnet is.
fn routes(options: &v4::DhcpOptions) -> Vec<(Ipv4Network, Ipv4Addr)> {
    let mut routes = Vec::new();
    if let Some(DhcpOption::ClasslessStaticRoute(list)) = options.get(OptionCode::ClasslessStaticRoute) {
        for (subnet, gateway) in list {
            let subnet = Ipv4Network::new(subnet.network(), subnet.prefix_len());
            routes.extend(subnet.ok().map(|subnet| (subnet, *gateway)));
        }
    } else {
        if let Some(DhcpOption::StaticRoutingTable(list)) = options.get(OptionCode::StaticRoutingTable) {
            routes.extend(list.iter().filter_map(|(to, gateway)| Some((class(*to)?, *gateway))));
        }
        let default = Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).ok();
        routes.extend(default.and_then(|default| Some((default, *routers(options).first()?))));
    }
    routes.retain(|(_, gateway)| !gateway.is_unspecified());
    routes.truncate(ENTRIES);
    routes
}

/// Static routes are of the days before prefixes had lengths.
fn class(address: Ipv4Addr) -> Option<Ipv4Network> {
    let prefix = match address.octets()[0] {
        0 => return None,
        1..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => return None,
    };
    Ipv4Network::new(address, prefix).ok().and_then(|of| Ipv4Network::new(of.network(), prefix).ok())
}

/// What a server says of names ends up in resolv.conf, where white space and line ends have a meaning.
fn is_domain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client() -> Client {
        let options = Options { asked: vec![1, 3], told: vec![(12, b"web".to_vec())] };
        Client { mac: Mac([2, 0, 0, 0, 0, 7]), id: "c/n/eth0".into(), options, broadcast: true }
    }

    /// An answer of a server, with these further options as bytes.
    fn answer(kind: u8, further: &[u8]) -> Vec<u8> {
        let mut bytes = client().say(Saying::Discover(None), 7).unwrap()[..240].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 0, 9]);
        bytes.extend([53, 1, kind, 54, 4, 10, 0, 0, 1, 1, 4, 255, 255, 255, 0]);
        bytes.extend(further);
        bytes.push(255);
        bytes
    }

    fn terms(further: &[u8]) -> Option<Terms> {
        match client().read(&answer(5, further), 7) {
            Some(Answer::Ack(terms)) => Some(terms),
            _ => None,
        }
    }

    #[test]
    fn a_client_says_who_it_is() {
        let bytes = client().say(Saying::Select([10, 0, 0, 9].into(), [10, 0, 0, 1].into()), 7).unwrap();
        assert!(bytes.len() >= 300 && bytes[..4] == [1, 1, 6, 0] && bytes[10] == 0x80);
        let told = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(told.opts().msg_type(), Some(MessageType::Request));
        let id = told.opts().get(OptionCode::ClientIdentifier);
        assert_eq!(id, Some(&DhcpOption::ClientIdentifier(b"\0c/n/eth0".to_vec())));
        assert_eq!(told.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("web".into())));
        let release = client().say(Saying::Release([10, 0, 0, 9].into(), [10, 0, 0, 1].into()), 7).unwrap();
        let release = Message::decode(&mut Decoder::new(&release)).unwrap();
        assert_eq!(
            (release.ciaddr(), release.opts().msg_type()),
            ([10, 0, 0, 9].into(), Some(MessageType::Release))
        );
        assert!(!release.opts().contains(OptionCode::ParameterRequestList));
    }

    #[test]
    fn terms_are_read() {
        let plain = terms(&[3, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 80, 26, 2, 5, 0, 6, 4, 10, 0, 0, 2]).unwrap();
        assert_eq!(plain.address.to_string(), "10.0.0.9/24");
        assert_eq!((plain.renew, plain.rebind, plain.lease), (40, 70, 80));
        assert_eq!((plain.mtu, plain.dns.len(), plain.router), (Some(1280), 1, Some([10, 0, 0, 1].into())));
        let to =
            |routes: &Terms| routes.routes.iter().map(|(to, via)| format!("{to} {via}")).collect::<Vec<_>>();
        assert_eq!(to(&plain), ["0.0.0.0/0 10.0.0.1"]);
        let classless = terms(&[3, 4, 10, 0, 0, 1, 121, 8, 24, 10, 7, 0, 10, 0, 0, 3, 33, 0]);
        assert_eq!(to(&classless.unwrap()), ["10.7.0.0/24 10.0.0.3"], "they beat the router");
        let old = terms(&[3, 4, 10, 0, 0, 1, 33, 8, 172, 16, 5, 0, 10, 0, 0, 4]).unwrap();
        assert_eq!(to(&old), ["172.16.0.0/16 10.0.0.4", "0.0.0.0/0 10.0.0.1"]);
    }

    #[test]
    fn hostile_terms_are_tamed() {
        let times = terms(&[51, 4, 0, 0, 0, 0, 58, 4, 0, 0, 0, 0, 59, 4, 255, 255, 255, 255]).unwrap();
        assert_eq!((times.renew, times.rebind, times.lease), (1, 7, 8));
        let endless = terms(&[51, 4, 255, 255, 255, 255]).unwrap();
        assert_eq!(endless.lease, LEASE[1]);
        assert_eq!(terms(&[26, 2, 0, 5]).unwrap().mtu, None);
        assert_eq!(terms(b"\x0f\x05a b\nc").unwrap().domain, None);
        assert_eq!(terms(b"\x0f\x03a.b").unwrap().domain.as_deref(), Some("a.b"));
        for (at, value) in [(0, 1), (4, 9), (28, 9), (16, 0), (16, 127), (16, 224)] {
            let mut other = answer(5, &[]);
            other[at] = value;
            let read = client().read(&other, 7);
            assert!(read.is_none() || at == 16 && value == 0, "byte {at}: {read:?}");
        }
        // A mask with holes is none.
        let mut holes = answer(5, &[]);
        let at = holes.len() - 3;
        holes[at] = 1;
        assert_eq!(client().read(&holes, 7), None);
        assert_eq!(client().read(&answer(6, &[]), 7), Some(Answer::Nak));
        assert_eq!(client().read(&answer(9, &[]), 7), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop(client().read(&bytes, 7));
        }

        #[test]
        fn any_options_are_read_without_a_panic(further in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(Answer::Ack(terms) | Answer::Offer(terms)) = client().read(&answer(5, &further), 7) {
                prop_assert!(terms.renew >= 1 && terms.renew < terms.rebind && terms.rebind < terms.lease);
                prop_assert!(terms.routes.len() <= ENTRIES && terms.dns.len() <= ENTRIES);
                prop_assert!(terms.routes.iter().all(|(_, gateway)| !gateway.is_unspecified()));
            }
        }
    }
}
