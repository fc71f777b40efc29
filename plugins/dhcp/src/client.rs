//! Talking to servers, from inside a container's namespace.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_cni::{Code, Failure};
use weft_model::{IfName, Mac};
use weft_netlink::Socket;
use weft_netlink::link::{self, Change};
use weft_netlink::packet::{BROADCAST, PacketSocket};
use weft_netns::Netns;

use crate::frame;
use crate::message::{Answer, Client, Saying, Terms};

/// How long a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// For one answer.
    pub(crate) answer: Duration,
    /// At most between one attempt and the next.
    pub(crate) between: Duration,
    /// For a lease.
    pub(crate) whole: Duration,
}

/// The first wait between two attempts, which doubles each time (RFC 2131, section 4.1).
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// How often a message is said again while its answer is waited for.
const REPEATS: u32 = 3;

/// A client's place on its link.
#[derive(Debug)]
pub(crate) struct Station {
    socket: PacketSocket,
    /// The interface's Ethernet address.
    pub(crate) mac: Mac,
}

impl Station {
    /// Opens an interface of a namespace and raises it; nothing if it is not there.
    ///
    /// # Errors
    ///
    /// When the namespace is not there, or the interface cannot be listened to.
    pub(crate) fn open(netns: &Path, ifname: &IfName) -> Result<Option<Self>, Failure> {
        let failed = |error: weft_netns::NetnsError| Failure::new(Code::Internal, error);
        Netns::open(netns).map_err(failed)?.run(|| Self::find(ifname)).map_err(failed)?
    }

    fn find(ifname: &IfName) -> Result<Option<Self>, Failure> {
        let failed = |error: weft_netlink::Error| Failure::new(Code::Internal, error);
        let mut socket = Socket::open().map_err(failed)?;
        let Some(found) = socket.link(link::get(ifname)).map_err(failed)? else { return Ok(None) };
        let mac = found.mac.ok_or_else(|| {
            Failure::text(
                Code::Internal,
                format!("{ifname} has no Ethernet address, so no DHCP server hears it"),
            )
        })?;
        if !found.up {
            let up = Change { up: Some(true), ..Change::default() };
            socket.request(link::change(found.index, &up)).map_err(failed)?;
        }
        let socket = PacketSocket::open(found.index).map_err(|error| {
            Failure::text(Code::Internal, format!("{ifname} cannot be listened to: {error}"))
        })?;
        Ok(Some(Self { socket, mac }))
    }

    /// Says something until an answer is accepted or patience ends; nothing then. Returns who answered, too.
    fn ask<T>(
        &self,
        client: &Client,
        saying: Saying,
        [from, to]: [Ipv4Addr; 2],
        mac: Mac,
        patience: Duration,
        accept: impl Fn(Answer) -> Option<T>,
    ) -> Option<(T, Mac)> {
        let xid = transaction()?;
        let packet = frame::wrap(from, to, &client.say(saying, xid)?)?;
        let mut buffer = vec![0; 4096];
        for _ in 0..REPEATS {
            // A link that is not ready loses what is sent: the next one will pass.
            self.socket.send(&packet, mac).ok();
            let deadline = Instant::now() + patience / REPEATS;
            while let Some(left) =
                deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            {
                let Ok(Some((length, sender))) = self.socket.receive(&mut buffer, left) else { break };
                let message = buffer.get(..length).and_then(frame::unwrap);
                let answer = message.and_then(|message| client.read(message, xid));
                if let Some(accepted) = answer.and_then(&accept) {
                    return Some((accepted, sender));
                }
            }
        }
        None
    }

    /// Discovers a server and takes what it offers; nothing when nobody answers. With `wanted`, that address alone.
    fn discover(
        &self,
        client: &Client,
        wanted: Option<Ipv4Addr>,
        patience: Duration,
    ) -> Option<(Terms, Mac)> {
        const ANYBODY: [Ipv4Addr; 2] = [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST];
        let offer = |answer| match answer {
            Answer::Offer(terms) if wanted.is_none_or(|wanted| wanted == terms.address.ip()) => Some(terms),
            _ => None,
        };
        let discover = Saying::Discover(wanted);
        let (offer, _) = self.ask(client, discover, ANYBODY, BROADCAST, patience, offer)?;
        let (address, server) = (offer.address.ip(), offer.server);
        let select = Saying::Select(address, server);
        let verdict = |answer| verdict(answer, address);
        let (verdict, mac) = self.ask(client, select, ANYBODY, BROADCAST, patience, verdict)?;
        verdict.map(|terms| (terms, mac))
    }

    /// Gets a lease.
    ///
    /// # Errors
    ///
    /// When nobody gives one. CNI: the words are those of the reference daemon.
    pub(crate) fn acquire(
        &self,
        client: &Client,
        wanted: Option<Ipv4Addr>,
        patience: Patience,
        stopped: &dyn Fn(Duration) -> bool,
    ) -> Result<(Terms, Mac), Failure> {
        let deadline = Instant::now() + patience.whole;
        let mut wait = FIRST_WAIT.min(patience.between);
        loop {
            if let Some(lease) = self.discover(client, wanted, patience.answer) {
                return Ok(lease);
            }
            if Instant::now() + wait >= deadline || stopped(wait) {
                return Err(Failure::text(Code::Internal, "no more tries"));
            }
            wait = (wait * 2).min(patience.between);
        }
    }

    /// Asks to keep an address: the server that gave it, or with nobody's address anybody. Nothing when nobody
    /// answers, and no terms when the answer is no.
    pub(crate) fn keep(
        &self,
        client: &Client,
        address: Ipv4Addr,
        server: Option<(Ipv4Addr, Mac)>,
        patience: Duration,
    ) -> Option<(Option<Terms>, Mac)> {
        let (to, mac) = server.unwrap_or((Ipv4Addr::BROADCAST, BROADCAST));
        self.ask(client, Saying::Keep(address), [address, to], mac, patience, |answer| {
            verdict(answer, address)
        })
    }

    /// Gives an address back. There is no answer to that.
    ///
    /// # Errors
    ///
    /// When the link is down or gone.
    pub(crate) fn release(
        &self,
        client: &Client,
        address: Ipv4Addr,
        server: (Ipv4Addr, Mac),
    ) -> Result<(), Failure> {
        let packet = transaction()
            .and_then(|xid| client.say(Saying::Release(address, server.0), xid))
            .and_then(|message| frame::wrap(address, server.0, &message));
        let Some(packet) = packet else { return Ok(()) };
        self.socket.send(&packet, server.1).map_err(|error| {
            Failure::text(Code::Internal, format!("{address} cannot be given back to {}: {error}", server.0))
        })
    }
}

/// A server that grants another address than was asked for grants nothing.
fn verdict(answer: Answer, address: Ipv4Addr) -> Option<Option<Terms>> {
    match answer {
        Answer::Ack(terms) if terms.address.ip() == address => Some(Some(terms)),
        Answer::Nak => Some(None),
        Answer::Ack(_) | Answer::Offer(_) => None,
    }
}

/// Draws a transaction's number, which nobody outside should guess.
fn transaction() -> Option<u32> {
    let Mac([a, b, c, d, ..]) = {
        let mut mac = Mac::random();
        // The two bits that a random address lacks come from another one.
        mac.0[0] = Mac::random().0[5];
        mac
    };
    Some(u32::from_be_bytes([a, b, c, d])).filter(|xid| *xid != 0).or(Some(1))
}
