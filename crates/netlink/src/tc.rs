//! `tc`: how fast a link sends, and what it receives being led elsewhere.

use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{DefaultNla, Emitable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::libc;

use crate::bpf::Program;
use crate::wire::{attributes, string, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// The handle of the qdisc at a link's root, as `tc` writes it: `1:`.
const ROOT: TcHandle = TcHandle { major: 1, minor: 0 };
/// The class of HTB that is shaped: `1:1`.
const SHAPED: TcHandle = TcHandle { major: 1, minor: 1 };
/// What is received, as the parent of filters: `ffff:`.
const RECEIVED: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// The same, of a qdisc that has filters on what is sent, too: `ffff:fff2`.
const INCOMING: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };

/// How fast packets leave: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second.
    pub rate: u64,
    /// How many bytes may go at once.
    pub burst: u32,
    /// How many bytes may wait.
    pub limit: u32,
}

impl Rate {
    /// Returns what the bucket holds, as time: ticks of 64 ns at this rate (PSCHED_SHIFT, include/net/pkt_sched.h).
    pub fn buffer(&self) -> u32 {
        let ticks = u128::from(self.burst) * 15_625_000 / u128::from(self.rate.max(1));
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// `struct tc_ratespec`: for Ethernet, so that the kernel needs no table.
    fn spec(&self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        bytes
    }

    fn is_long(&self) -> bool {
        self.rate > u64::from(u32::MAX)
    }
}

/// Options of qdiscs, classes, filters and actions (include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h).
mod tca {
    pub(super) const OPTIONS: u16 = 2;
    pub(super) const KIND: u16 = 1;
    pub(super) const TBF_PARMS: u16 = 1;
    pub(super) const TBF_RATE64: u16 = 4;
    pub(super) const TBF_BURST: u16 = 6;
    pub(super) const HTB_PARMS: u16 = 1;
    pub(super) const HTB_INIT: u16 = 2;
    pub(super) const HTB_RATE64: u16 = 6;
    pub(super) const HTB_CEIL64: u16 = 7;
    pub(super) const U32_CLASSID: u16 = 1;
    pub(super) const U32_SEL: u16 = 5;
    pub(super) const U32_ACT: u16 = 7;
    pub(super) const ACT_KIND: u16 = 1;
    pub(super) const ACT_OPTIONS: u16 = 2;
    pub(super) const MIRRED_PARMS: u16 = 2;
    pub(super) const BPF_FD: u16 = 6;
    pub(super) const BPF_NAME: u16 = 7;
    pub(super) const BPF_FLAGS: u16 = 8;
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind, bytes)
}

fn message(index: u32, parent: TcHandle, handle: TcHandle, info: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message.header.handle = handle;
    message.header.info = info;
    message
}

fn of_kind(mut message: TcMessage, kind: &str, options: &[DefaultNla]) -> TcMessage {
    message.attributes.push(TcAttribute::Kind(kind.into()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Other(nested(tca::OPTIONS, options)));
    }
    message
}

const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// Has everything that a link sends pass one bucket, in the place of whatever was at its root.
pub fn shape(index: u32, rate: &Rate) -> Request {
    let mut parms = rate.spec();
    parms.extend([0; 12]);
    for word in [rate.limit, rate.buffer(), 0] {
        parms.extend(word.to_ne_bytes());
    }
    let mut options = vec![
        DefaultNla::new(tca::TBF_PARMS, parms),
        DefaultNla::new(tca::TBF_BURST, rate.burst.to_ne_bytes().to_vec()),
    ];
    if rate.is_long() {
        options.push(DefaultNla::new(tca::TBF_RATE64, rate.rate.to_ne_bytes().to_vec()));
    }
    let qdisc = of_kind(message(index, TcHandle::ROOT, ROOT, 0), "tbf", &options);
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(qdisc), REPLACE)
}

/// The end of a packet's way that a subnet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Has some of what a link sends pass a bucket: all but what goes to or comes from these subnets, or that alone
/// (`only`). The requests belong together, in this order.
///
/// KERNEL: HTB passes on at once what no class is for, and what a filter gives the qdisc's own handle (HTB_DIRECT,
/// net/sched/sch_htb.c).
pub fn shape_some(index: u32, rate: &Rate, subnets: &[IpNetwork], only: bool, end: End) -> Vec<Request> {
    let default = if only { 0_u32 } else { u32::from(SHAPED.minor) };
    let init: Vec<u8> = [3, 10, default, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let options = [DefaultNla::new(tca::HTB_INIT, init)];
    let qdisc = of_kind(message(index, TcHandle::ROOT, ROOT, 0), "htb", &options);
    let class = of_kind(message(index, ROOT, SHAPED, 0), "htb", &htb_class(rate));
    let target = if only { SHAPED } else { ROOT };
    let filters = subnets.iter().map(|subnet| subnet_filter(index, subnet, target, end));
    let mut requests = vec![
        Request::new(RouteNetlinkMessage::NewQueueDiscipline(qdisc), REPLACE),
        Request::new(RouteNetlinkMessage::NewTrafficClass(class), REPLACE),
    ];
    requests.extend(filters);
    requests
}

/// `struct tc_htb_opt`: rate and ceiling, what both buckets hold, quantum, level, priority.
fn htb_class(rate: &Rate) -> Vec<DefaultNla> {
    let mut parms = rate.spec();
    parms.extend(rate.spec());
    for word in [rate.buffer(), rate.buffer(), 0, 0, 0] {
        parms.extend(word.to_ne_bytes());
    }
    let mut options = vec![DefaultNla::new(tca::HTB_PARMS, parms)];
    if rate.is_long() {
        for kind in [tca::HTB_RATE64, tca::HTB_CEIL64] {
            options.push(DefaultNla::new(kind, rate.rate.to_ne_bytes().to_vec()));
        }
    }
    options
}

/// Filters of one preference are of one protocol: IPv4 and IPv6 have one each.
fn subnet_filter(index: u32, subnet: &IpNetwork, target: TcHandle, end: End) -> Request {
    let (protocol, preference, source, length) = match subnet {
        IpNetwork::V4(_) => (libc::ETH_P_IP, 10, 12, 4),
        IpNetwork::V6(_) => (libc::ETH_P_IPV6, 20, 8, 16),
    };
    let offset = if end == End::Source { source } else { source + length };
    let keys = match subnet {
        IpNetwork::V4(subnet) => words(&subnet.network().octets(), &subnet.mask().octets(), offset),
        IpNetwork::V6(subnet) => words(&subnet.network().octets(), &subnet.mask().octets(), offset),
    };
    let classid = u32::from(target).to_ne_bytes().to_vec();
    let options = [DefaultNla::new(tca::U32_CLASSID, classid), selector(&keys)];
    let filter = of_kind(message(index, ROOT, TcHandle::UNSPEC, info(preference, protocol)), "u32", &options);
    Request::new(RouteNetlinkMessage::NewTrafficFilter(filter), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// One word of a packet: its mask, its value, and where it is in the IP header.
type Key = ([u8; 4], [u8; 4], i32);

fn words(address: &[u8], mask: &[u8], offset: i32) -> Vec<Key> {
    let word = |bytes: &[u8]| bytes.first_chunk::<4>().copied().unwrap_or_default();
    let pairs = address.chunks(4).zip(mask.chunks(4)).zip((offset..).step_by(4));
    pairs.map(|((address, mask), offset)| (word(mask), word(address), offset)).collect()
}

/// `struct tc_u32_sel` and its `struct tc_u32_key`s.
fn selector(keys: &[Key]) -> DefaultNla {
    const TC_U32_TERMINAL: u8 = 1;
    let mut bytes = vec![0; 16];
    bytes[0] = TC_U32_TERMINAL;
    bytes[2] = u8::try_from(keys.len()).unwrap_or_default();
    for (mask, value, offset) in keys {
        bytes.extend(mask);
        bytes.extend(value);
        bytes.extend(offset.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    DefaultNla::new(tca::U32_SEL, bytes)
}

/// A filter's preference and protocol, as `struct tcmsg` has them.
fn info(preference: u16, protocol: i32) -> u32 {
    let protocol = u16::try_from(protocol).unwrap_or_default().to_be();
    u32::from(preference) << 16 | u32::from(protocol)
}

/// Prepares a link for filters on what it receives.
pub fn watch_received(index: u32) -> Request {
    let qdisc = of_kind(message(index, TcHandle::INGRESS, RECEIVED, 0), "ingress", &[]);
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(qdisc), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Has another link send everything that a link receives.
pub fn redirect(index: u32, to: u32) -> Request {
    const TC_ACT_STOLEN: u32 = 4;
    const TCA_EGRESS_REDIR: u32 = 1;
    let parms = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to];
    let parms = parms.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let action = nested(
        1,
        &[
            DefaultNla::new(tca::ACT_KIND, b"mirred\0".to_vec()),
            nested(tca::ACT_OPTIONS, &[DefaultNla::new(tca::MIRRED_PARMS, parms)]),
        ],
    );
    let options = [selector(&[([0; 4], [0; 4], 0)]), nested(tca::U32_ACT, &[action])];
    let header = message(index, RECEIVED, TcHandle::UNSPEC, info(1, libc::ETH_P_ALL));
    let filter = of_kind(header, "u32", &options);
    Request::new(RouteNetlinkMessage::NewTrafficFilter(filter), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Has a program decide about what a link receives, in the place of the one that did. Filters of others come first.
pub fn decide_received(index: u32, program: &Program, name: &str) -> Request {
    const LAST: u16 = u16::MAX;
    const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
    let options = [
        DefaultNla::new(tca::BPF_FD, program.as_fd().as_raw_fd().to_ne_bytes().to_vec()),
        DefaultNla::new(tca::BPF_NAME, [name.as_bytes(), b"\0"].concat()),
        DefaultNla::new(tca::BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
    ];
    let header = message(index, INCOMING, TcHandle { major: 0, minor: 1 }, info(LAST, libc::ETH_P_ALL));
    Request::new(RouteNetlinkMessage::NewTrafficFilter(of_kind(header, "bpf", &options)), REPLACE)
}

/// Returns the names of the programs that decide about what a link receives.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn deciders(socket: &mut Socket, index: u32) -> Result<Vec<String>, Error> {
    let message = message(index, INCOMING, TcHandle::UNSPEC, 0);
    let request = Request::new(RouteNetlinkMessage::GetTrafficFilter(message), libc::NLM_F_DUMP);
    match socket.dump(&request, |payload| decider(payload, index)) {
        // Without the qdisc there are no filters.
        Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

fn decider(payload: &[u8], index: u32) -> Option<String> {
    if u32_at(payload, 4)? != index {
        return None;
    }
    let (_, options) = attributes(payload.get(20..)?).find(|(kind, _)| *kind == tca::OPTIONS)?;
    attributes(options).find(|(kind, _)| *kind == tca::BPF_NAME).map(|(_, name)| string(name))
}

/// Returns the filters on what a link receives, whoever's: their kind and name, a line each.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn filters_received(socket: &mut Socket, index: u32) -> Result<Vec<String>, Error> {
    let message = message(index, INCOMING, TcHandle::UNSPEC, 0);
    let request = Request::new(RouteNetlinkMessage::GetTrafficFilter(message), libc::NLM_F_DUMP);
    // Those of a block that several links share are of none of them, so links are not compared.
    match socket.dump(&request, |payload| Some(filter(payload))) {
        // Without the qdisc there are no filters.
        Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

/// Reads a filter's kind and name.
fn filter(payload: &[u8]) -> String {
    let mut words = Vec::new();
    for (kind, value) in attributes(payload.get(20..).unwrap_or_default()) {
        match kind {
            tca::KIND => words.push(string(value)),
            tca::OPTIONS => {
                let name = attributes(value).find(|(kind, _)| *kind == tca::BPF_NAME);
                words.extend(name.map(|(_, name)| string(name)));
            }
            _ => {}
        }
    }
    words.join(" ")
}

/// Reads all that anybody reads of a filter, a queue or a class.
pub(crate) fn read_all(payload: &[u8], index: u32) {
    black_box((decider(payload, index), filter(payload), redirection(payload, index)));
    black_box(Queue::read(payload, index));
}

/// Gives a link back the qdisc it was born with.
pub fn unshape(index: u32) -> Request {
    let message = message(index, TcHandle::ROOT, TcHandle::UNSPEC, 0);
    Request::new(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
}

/// Takes the filters on what a link receives away.
pub fn ignore_received(index: u32) -> Request {
    let message = message(index, TcHandle::INGRESS, RECEIVED, 0);
    Request::new(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
}

/// A qdisc or a class of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its kind, such as `tbf`.
    pub kind: String,
    /// Its handle: 16 bits before the colon, 16 behind.
    pub handle: u32,
    /// What it belongs to, in the same form.
    pub parent: u32,
    /// A bucket's rate in bytes a second, limit and buffer; an HTB class has no limit.
    pub bucket: Option<(u64, u32, u32)>,
}

impl Queue {
    /// Returns whether it is what a link sends by.
    pub fn is_root(&self) -> bool {
        self.parent == u32::from(TcHandle::ROOT)
    }

    /// Reads the payload of an RTM_NEWQDISC or RTM_NEWTCLASS about one link.
    fn read(payload: &[u8], index: u32) -> Option<Self> {
        if u32_at(payload, 4)? != index {
            return None;
        }
        let mut queue = Self { handle: u32_at(payload, 8)?, parent: u32_at(payload, 12)?, ..Self::default() };
        let mut options: &[u8] = &[];
        for (kind, value) in attributes(payload.get(20..)?) {
            match kind {
                tca::KIND => queue.kind = string(value),
                tca::OPTIONS => options = value,
                _ => {}
            }
        }
        queue.bucket = match queue.kind.as_str() {
            "tbf" => bucket(options, tca::TBF_PARMS, tca::TBF_RATE64, 24, 28),
            "htb" => bucket(options, tca::HTB_PARMS, tca::HTB_RATE64, usize::MAX, 24),
            _ => None,
        };
        Some(queue)
    }
}

fn bucket(options: &[u8], parms: u16, long: u16, limit: usize, buffer: usize) -> Option<(u64, u32, u32)> {
    let (mut found, mut rate64) = (None, None);
    for (kind, value) in attributes(options) {
        if kind == parms {
            let rate = u64::from(u32_at(value, 8)?);
            found = Some((rate, u32_at(value, limit).unwrap_or_default(), u32_at(value, buffer)?));
        } else if kind == long {
            rate64 = value.first_chunk().copied().map(u64::from_ne_bytes);
        }
    }
    found.map(|(rate, limit, buffer)| (rate64.unwrap_or(rate), limit, buffer))
}

/// Returns the qdiscs of a link.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn queues(socket: &mut Socket, index: u32) -> Result<Vec<Queue>, Error> {
    let message = TcMessage::with_index(index.cast_signed());
    let request = Request::new(RouteNetlinkMessage::GetQueueDiscipline(message), libc::NLM_F_DUMP);
    socket.dump(&request, |payload| Queue::read(payload, index))
}

/// Returns the classes of a link.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn classes(socket: &mut Socket, index: u32) -> Result<Vec<Queue>, Error> {
    let message = TcMessage::with_index(index.cast_signed());
    let request = Request::new(RouteNetlinkMessage::GetTrafficClass(message), libc::NLM_F_DUMP);
    socket.dump(&request, |payload| Queue::read(payload, index))
}

/// Returns the indexes of the links that what a link receives is redirected to.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn redirections(socket: &mut Socket, index: u32) -> Result<Vec<u32>, Error> {
    let message = message(index, RECEIVED, TcHandle::UNSPEC, 0);
    let request = Request::new(RouteNetlinkMessage::GetTrafficFilter(message), libc::NLM_F_DUMP);
    match socket.dump(&request, |payload| redirection(payload, index)) {
        // Without the qdisc there are no filters.
        Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

fn redirection(payload: &[u8], index: u32) -> Option<u32> {
    if u32_at(payload, 4)? != index {
        return None;
    }
    let inner = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let options = inner(payload.get(20..)?, tca::OPTIONS)?;
    let actions = inner(options, tca::U32_ACT)?;
    let (_, action) = attributes(actions).next()?;
    let parms = inner(inner(action, tca::ACT_OPTIONS)?, tca::MIRRED_PARMS)?;
    u32_at(parms, 24)
}

/// Returns how many filters a link's root qdisc has.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn exceptions(socket: &mut Socket, index: u32) -> Result<usize, Error> {
    let message = message(index, ROOT, TcHandle::UNSPEC, 0);
    let request = Request::new(RouteNetlinkMessage::GetTrafficFilter(message), libc::NLM_F_DUMP);
    // A filter has a class; the hash table it is in has none.
    let with_class = |payload: &[u8]| {
        let (_, options) = attributes(payload.get(20..)?).find(|(kind, _)| *kind == tca::OPTIONS)?;
        attributes(options).find(|(kind, _)| *kind == tca::U32_CLASSID).map(drop)
    };
    match socket.dump(&request, |payload| {
        u16_at(payload, 0)?;
        with_class(payload).filter(|()| u32_at(payload, 4) == Some(index))
    }) {
        Err(error) if error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL) => Ok(0),
        outcome => outcome.map(|found| found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_measured_in_ticks() {
        let of = |rate, burst| Rate { rate, burst, limit: 0 }.buffer();
        assert_eq!(of(1, 1), 15_625_000);
        assert_eq!(of(1_000_000, 1_000_000), 15_625_000);
        assert_eq!(of(1, u32::MAX), u32::MAX);
        assert_eq!(of(0, 1), 15_625_000);
        assert_eq!(of(u64::MAX, 1), 0);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        for length in 0..64 {
            for byte in [0, 1, 4, 8, 0xff] {
                let payload = vec![byte; length];
                drop(Queue::read(&payload, 0));
                assert_eq!(redirection(&payload, u32::from_ne_bytes([byte; 4]) ^ 1), None);
                drop(decider(&payload, u32::from_ne_bytes([byte; 4])));
            }
        }
    }
}
