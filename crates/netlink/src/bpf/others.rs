//! Programs of others that have a say about packets.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::call::{self, Command, Words, halves, pair};
use crate::Error;

/// A program that is called as rules of netfilter are (BPF_LINK_TYPE_NETFILTER).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetfilterLink {
    /// The link's id, as `bpftool link` shows it.
    pub id: u32,
    /// The id of its program.
    pub program: u32,
}

/// The links that somebody has seen: most stay, so each is asked for once.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<u32, Option<NetfilterLink>>);

impl Links {
    /// Returns which links of netfilter there are on this machine; in which namespaces the kernel does not say.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, such as `EAGAIN` for a link that is being attached. A kernel without such links has none.
    pub fn netfilter(&mut self) -> Result<Vec<NetfilterLink>, Error> {
        let mut seen = BTreeMap::new();
        let mut last = 0;
        while let Some(id) = next(last).map_err(Error::refused)? {
            last = id;
            let link = match self.0.get(&id) {
                Some(known) => *known,
                None => match netfilter(id) {
                    Ok(link) => link,
                    // It has gone.
                    Err(Errno::ENOENT) => continue,
                    Err(errno) => return Err(Error::refused(errno)),
                },
            };
            seen.insert(id, link);
        }
        self.0 = seen;
        Ok(self.0.values().flatten().copied().collect())
    }
}

fn next(after: u32) -> Result<Option<u32>, Errno> {
    let mut words: Words = [0; 16];
    words[0] = pair(after, 0);
    match call::bpf(Command::NextLink, &mut words) {
        Ok(_) => Ok(Some(halves(words[0])[1])),
        // After the last one; and of a kernel that has no links (before Linux 5.8).
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn netfilter(id: u32) -> Result<Option<NetfilterLink>, Errno> {
    const BPF_LINK_TYPE_NETFILTER: u32 = 10;
    let mut words: Words = [0; 16];
    words[0] = pair(id, 0);
    // KERNEL: this is EAGAIN as long as the link is being attached (bpf_link_by_id).
    let link = call::open(Command::OpenLink, &mut words)?;
    let answer = call::describe(link.as_raw_fd().cast_unsigned())?;
    let [kind, id] = halves(answer[0]);
    Ok((kind == BPF_LINK_TYPE_NETFILTER).then(|| NetfilterLink { id, program: halves(answer[1])[0] }))
}

/// Returns how many programs decide by themselves, without a filter of `tc`, about what a link of the calling thread's
/// namespace receives (TCX).
///
/// # Errors
///
/// The kernel's refusal. A kernel without them has none.
pub fn tcx_received(index: u32) -> Result<u32, Error> {
    const BPF_TCX_INGRESS: u32 = 46;
    let mut words: Words = [0; 16];
    words[0] = pair(index, BPF_TCX_INGRESS);
    match call::bpf(Command::QueryPrograms, &mut words) {
        Ok(_) => Ok(halves(words[3])[0]),
        // Nobody has had one there; and of a kernel before Linux 6.6.
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(0),
        Err(errno) => Err(Error::refused(errno)),
    }
}
