//! The socket: sending transactions and asking short questions.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, GenMessage, NfTablesMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use crate::encode::{self, Encoded};
use crate::error::Error;
use crate::list::{End, Listing};
use crate::message::{Messages, NLMSG_ERROR, error_code};
use crate::{FoundElement, Key, RuleInfo, Set, Table, Transaction, read};

/// The subsystem a batch is for, in its header's res_id (NFNL_SUBSYS_NFTABLES).
const NFTABLES: u16 = 10;
/// NFNL_MSG_BATCH_BEGIN and its attribute NFNL_BATCH_GENID (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u8 = 16;
const BATCH_GENID: u16 = 1;
/// The kernel fills an answer up to this size when it lists (NLMSG_GOODSIZE and what it grows to).
const ANSWER: usize = 32 * 1024;
/// What fits into a socket's send buffer whatever the sysctls say.
const SMALL: usize = 64 * 1024;
/// How often an interrupted exchange is tried again.
const ATTEMPTS: usize = 16;

/// Returns whether the kernel has nf_tables and lets us use it.
pub fn is_usable() -> bool {
    Socket::open().and_then(|mut socket| socket.generation()).is_ok()
}

/// A blocking netfilter socket in the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    answer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] when the kernel has no nfnetlink or is out of descriptors.
    pub fn open() -> Result<Self, Error> {
        let socket =
            netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(|cause| Error::Open(errno(&cause)))?;
        Ok(Self { socket, answer: Vec::with_capacity(ANSWER), sequence: 0 })
    }

    /// Returns how many messages were sent, which is most of what anything here costs.
    pub fn messages(&self) -> u32 {
        self.sequence
    }

    /// Makes all the changes of a transaction, or none of them.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] names the first object the kernel refused. A transaction that depends on a
    /// generation is refused with `ERESTART` when another one came in between.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.try_commit(transaction) {
                // The kernel stops a batch when a signal is pending; nothing of it has happened.
                Err(Error::Refused { errno: Errno::EINTR, .. }) if attempts < ATTEMPTS => {}
                Err(Error::Refused { errno: Errno::ERESTART, .. })
                    if attempts < ATTEMPTS && transaction.generation.is_none() => {}
                outcome => return outcome,
            }
        }
    }

    /// KERNEL: a batch is worked off within the send (nfnetlink_rcv_batch), so every answer is waiting
    /// when it returns. Failing messages are answered in any case; of the others only the last one
    /// is asked to, which keeps a large transaction from overflowing the receive buffer.
    fn try_commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let first = self.sequence.wrapping_add(1);
        let mut out = Vec::with_capacity(1024);
        self.push_control(&mut out, begin(transaction.generation));
        let last = transaction.changes.len() - 1;
        for (index, change) in transaction.changes.iter().enumerate() {
            let mut message = encode::change(change, u32::try_from(index).unwrap_or(u32::MAX));
            if index == last {
                message.flags |= NLM_F_ACK;
            }
            self.push(&mut out, message, 0);
        }
        self.push_control(&mut out, ControlMessage::BatchEnd);
        self.send(&out)?;

        let mut refusal = None;
        // After a refusal the queue is emptied, so that no later question gets an old answer.
        loop {
            match self.receive() {
                Ok(true) => {}
                Ok(false) => break,
                // More refusals than fit: the first are there, and the first is all that is told.
                Err(Error::Socket(Errno::ENOBUFS)) => continue,
                Err(error) => return Err(error),
            }
            for message in Messages(&self.answer) {
                let (header, body) = message.ok_or_else(|| Error::Answer("a transaction".into()))?;
                // The sequence numbers of one transaction run without gaps; `first` is its begin.
                let index = header.sequence.wrapping_sub(first).wrapping_sub(1) as usize;
                match error_code(body) {
                    _ if header.kind != NLMSG_ERROR => {}
                    0 if index == last && refusal.is_none() => return Ok(()),
                    0 => {}
                    errno => {
                        refusal.get_or_insert((index, Errno::from_raw(errno)));
                    }
                }
            }
        }
        let (index, errno) = refusal.ok_or_else(|| Error::Answer("a transaction".into()))?;
        let object = transaction.changes.get(index).map_or("transaction".into(), ToString::to_string);
        Err(Error::Refused { object, errno })
    }

    /// Returns the number of the ruleset's present state, which every transaction changes.
    ///
    /// # Errors
    ///
    /// When the kernel has no nf_tables, or does not let us use it.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
        let found = self.ask(NetfilterProtoFamily::Unspec, question, "nf_tables", read::generation)?;
        found.ok_or_else(|| Error::Answer("the ruleset's generation".into()))
    }

    /// Returns a table's comment, or `None` if there is no such table. The inner `None` is a table
    /// without a comment.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn table(&mut self, table: Table) -> Result<Option<Option<String>>, Error> {
        let question = NfTablesMessage::GetTable(encode::table_message(table));
        let object = format!("table {table}");
        self.ask(table.family.into(), question, &object, |attributes| Some(read::table_comment(attributes)))
    }

    /// Returns whether a chain exists.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        let attributes = vec![ChainAttribute::Table(table.name.into()), ChainAttribute::Name(chain.into())];
        let question = NfTablesMessage::GetChain(ChainMessage { attributes });
        let object = format!("chain {table} {chain}");
        Ok(self.ask(table.family.into(), question, &object, |_| Some(()))?.is_some())
    }

    /// Returns whether a set exists.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn has_set(&mut self, set: &Set) -> Result<bool, Error> {
        let question = encode::set_question(set);
        Ok(self.ask(set.table.family.into(), question, &set.to_string(), |_| Some(()))?.is_some())
    }

    /// Returns the element a key leads to, in constant time, or `None` if there is none, or no
    /// such set, or no such table.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn element(&mut self, set: &Set, key: &Key) -> Result<Option<FoundElement>, Error> {
        let question = NfTablesMessage::GetSetElement(encode::element_question(set, key));
        self.ask(set.table.family.into(), question, &set.name, read::element)
    }

    /// Returns the rules of one chain; none if there is no such chain.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn rules(&mut self, table: Table, chain: &str) -> Result<Vec<RuleInfo>, Error> {
        let message = NfTablesMessage::GetRule(encode::rules_message(table, chain, None));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let question =
                Encoded { family: table.family.into(), flags: NLM_F_DUMP, message: message.clone().into() };
            match self.list(question, &format!("chain {chain}"), |attributes| Some(read::rule(attributes)))? {
                Some(rules) => return read::all(rules, || format!("the rules of chain {table} {chain}")),
                None if attempts < ATTEMPTS => {}
                None => return Err(Error::Answer(format!("the rules of chain {table} {chain}"))),
            }
        }
    }

    /// Returns the names of a table's chains.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn chains(&mut self, table: Table) -> Result<Vec<String>, Error> {
        // KERNEL: a table cannot be asked for; every chain of the family is listed (nf_tables_dump_chains).
        let object = format!("the chains of table {table}");
        let found =
            self.dump(|| encode::chains_question(table), &object, |bytes| Some(read::chain_name(bytes)))?;
        let found = read::all(found, || object)?;
        Ok(found.into_iter().filter(|(of, _)| of == table.name).map(|(_, name)| name).collect())
    }

    /// Returns the names of a table's sets and maps; none if there is no such table.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn sets(&mut self, table: Table) -> Result<Vec<String>, Error> {
        let object = format!("the sets of table {table}");
        let found =
            self.dump(|| encode::sets_question(table), &object, |bytes| Some(read::set_name(bytes)))?;
        read::all(found, || object)
    }

    pub(crate) fn dump<T>(
        &mut self,
        question: impl Fn() -> Encoded,
        object: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let question = Encoded { flags: NLM_F_DUMP, ..question() };
            if let Some(found) = self.list(question, object, &read)? {
                return Ok(found);
            }
        }
        Err(Error::Answer(object.into()))
    }

    /// Sends a question with one answer and returns what `pick` finds in its attributes, or `None`
    /// if the kernel says that there is no such object.
    pub(crate) fn ask<T>(
        &mut self,
        family: NetfilterProtoFamily,
        question: NfTablesMessage,
        object: &str,
        pick: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut out = Vec::with_capacity(256);
        self.push(&mut out, Encoded { family, flags: 0, message: question.into() }, 0);
        self.send(&out)?;
        let strange = || Error::Answer(object.into());
        let (header, body) = loop {
            if !self.receive()? {
                return Err(strange());
            }
            let (header, _) = Messages(&self.answer).next().flatten().ok_or_else(strange)?;
            // What an exchange before this one has left, when it failed.
            if header.sequence == self.sequence {
                break Messages(&self.answer).next().flatten().ok_or_else(strange)?;
            }
        };
        if header.kind != NLMSG_ERROR {
            return pick(body).map(Some).ok_or_else(strange);
        }
        match Errno::from_raw(error_code(body)) {
            Errno::ENOENT => Ok(None),
            errno => Err(Error::Refused { object: object.into(), errno }),
        }
    }

    /// Returns what `read` makes of each object of a list, or `None` if the list changed while it was read.
    pub(crate) fn list<T>(
        &mut self,
        question: Encoded,
        object: &str,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let mut out = Vec::with_capacity(256);
        self.push(&mut out, question, 0);
        self.send(&out)?;
        let mut listing = Listing::new(self.sequence);
        while self.receive()? {
            match listing.add(&self.answer, &read) {
                None => {}
                Some(End::Whole(found)) => return Ok(Some(found)),
                Some(End::Torn) => return Ok(None),
                Some(End::Refused(errno)) => return Err(Error::Refused { object: object.into(), errno }),
                Some(End::Strange) => break,
            }
        }
        Err(Error::Answer(object.into()))
    }

    /// Sends requests that are not part of a transaction and returns the refusals, by position.
    pub(crate) fn tell(&mut self, requests: Vec<Encoded>) -> Result<Vec<(usize, Errno)>, Error> {
        let mut out = Vec::with_capacity(1024);
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        for (index, mut request) in requests.into_iter().enumerate() {
            if index + 1 == count {
                request.flags |= NLM_F_ACK;
            }
            self.push(&mut out, request, 0);
        }
        self.send(&out)?;
        let mut refused = Vec::new();
        while self.receive()? {
            for message in Messages(&self.answer) {
                let (header, body) = message.ok_or_else(|| Error::Answer("a request".into()))?;
                let index = header.sequence.wrapping_sub(first) as usize;
                match error_code(body) {
                    errno if errno != 0 && header.kind == NLMSG_ERROR && index < count => {
                        refused.push((index, Errno::from_raw(errno)));
                    }
                    _ => {}
                }
            }
        }
        Ok(refused)
    }

    fn push_control(&mut self, out: &mut Vec<u8>, message: ControlMessage) {
        let message = Encoded { family: NetfilterProtoFamily::Unspec, flags: 0, message: message.into() };
        self.push(out, message, NFTABLES);
    }

    fn push(&mut self, out: &mut Vec<u8>, encoded: Encoded, res_id: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let header = NetfilterHeader::new(encoded.family, 0, res_id);
        let mut message =
            NetlinkMessage::from(NetfilterMessage::new::<NetfilterMessageInner>(header, encoded.message));
        message.header.flags = NLM_F_REQUEST | encoded.flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = out.len();
        out.resize(start + message.buffer_len(), 0);
        message.serialize(&mut out[start..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > SMALL {
            setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() * 2)).map_err(Error::Socket)?;
        }
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::Socket(errno(&cause))),
            }
        }
    }

    /// Reads one answer; returns false if none is waiting.
    fn receive(&mut self) -> Result<bool, Error> {
        let flags = (MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC).bits();
        loop {
            self.answer.clear();
            match self.socket.recv_from(&mut self.answer, flags) {
                // Anybody may send to a netlink socket; only port 0 is the kernel.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > self.answer.len() => {
                    return Err(Error::Answer("a question, longer than the kernel promises".into()));
                }
                Ok(_) => return Ok(true),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::Socket(errno(&cause))),
            }
        }
    }
}

fn begin(generation: Option<u32>) -> ControlMessage {
    match generation {
        None => ControlMessage::BatchBegin,
        Some(number) => ControlMessage::Other {
            message_type: BATCH_BEGIN,
            attributes: vec![DefaultNla::new(BATCH_GENID, number.to_be_bytes().to_vec())],
        },
    }
}

fn errno(cause: &io::Error) -> Errno {
    Errno::from_raw(cause.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expr, Family};

    const TABLE: Table = Table::new(Family::Inet, "t");

    #[test]
    fn what_a_broken_off_exchange_has_left_is_passed_over() {
        weft_netns::isolate().unwrap();
        let mut socket = Socket::open().unwrap();
        let chain = TABLE.chain("c");
        let mut all = Transaction::new();
        socket.commit(all.table(TABLE, None).chain(&chain).rule(chain.rule([Expr::Counter]))).unwrap();
        // One is answered that there is none, the other by a list of nothing.
        let none = || NfTablesMessage::GetRule(encode::rules_message(TABLE, "none", Some(1))).into();
        let nothing = || NfTablesMessage::GetRule(encode::rules_message(TABLE, "none", None)).into();
        let leave = |socket: &mut Socket, flags, message| {
            let mut out = Vec::new();
            socket.push(&mut out, Encoded { family: TABLE.family.into(), flags, message }, 0);
            socket.send(&out).unwrap();
        };
        for (flags, message) in [(0, &none as &dyn Fn() -> NetfilterMessageInner), (NLM_F_DUMP, &nothing)] {
            leave(&mut socket, flags, message());
            assert_eq!(socket.rules(TABLE, "c").unwrap().len(), 1);
            leave(&mut socket, flags, message());
            assert_eq!(socket.table(TABLE).unwrap(), Some(None));
        }
    }
}
