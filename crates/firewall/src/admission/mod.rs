//! Containers that the host's firewall lets through, and whom they are reachable for: what upstream's
//! `firewall` plugin does.
//!
//! What an attachment got is on record ([`books`]), so that it can be taken back without the addresses,
//! whatever the configuration says by then, and written again after a flush. An address that another
//! attachment has meanwhile stays.

mod books;
pub(crate) mod layout;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_model::{Endpoint, IfName, NetworkName};

use crate::claim::Claims;
use crate::entry::{self, Entry};
use crate::firewalld::{self, Firewalld, Member};
use crate::iptables::admission::{self as chains, Wanted};
use crate::iptables::lock::Writer;
use crate::iptables::part;
use crate::iptables::restore::Listing;
use crate::iptables::tool::Tool;
use crate::weft::Demand;
use crate::{Change, Firewall, FirewallError, foreign, weft};

use books::Books;
pub(crate) use books::Record;

/// Forwarded packets from these addresses pass the host's firewall, and so do answers to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The attachment.
    pub endpoint: Endpoint,
    /// The container's addresses. May be empty when removing.
    pub addresses: Vec<IpAddr>,
    /// Who lets them through.
    pub carrier: Carrier,
    /// The chain of iptables that is asked first.
    pub admin_chain: String,
    /// The zone of firewalld that the addresses join.
    pub zone: String,
    /// For whom the container is reachable; absent means for everybody.
    pub ingress: Option<Ingress>,
    /// The directory for our records, as for [`crate::Masquerade`].
    pub claims: PathBuf,
}

/// Who lets a container's packets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// firewalld where it is running, else our own table, or iptables where the kernel has no nf_tables.
    Auto,
    /// Our own table, `inet weft`.
    Weft,
    /// The chains of upstream's plugin.
    Iptables,
    /// firewalld: the addresses become sources of a zone.
    Firewalld,
}

/// A bridge's containers are not reached from other bridges with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The bridge.
    pub bridge: IfName,
    /// Whether its own containers do not reach each other either.
    pub closed: bool,
}

impl Carrier {
    /// Says whether it could do that now.
    ///
    /// # Errors
    ///
    /// When firewalld is not running, iptables not installed, or the kernel has no nf_tables.
    pub fn available(self) -> Result<(), FirewallError> {
        match self {
            Self::Auto => Ok(()),
            Self::Weft => Firewall::new().inet().map(drop),
            Self::Iptables => Tool::V4.required(),
            Self::Firewalld => Firewalld::required().map(drop),
        }
    }

    fn resolve(self) -> Self {
        match self {
            Self::Auto if firewalld::is_running() => Self::Firewalld,
            Self::Auto if weft_nft::is_usable() => Self::Weft,
            Self::Auto => Self::Iptables,
            other => other,
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Auto => "auto",
            Self::Weft => "weft",
            Self::Iptables => "iptables",
            Self::Firewalld => "firewalld",
        })
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("admit")?;
        for addr in &self.addresses {
            write!(out, " {addr}")?;
        }
        write!(out, " by {}", self.carrier)?;
        match &self.ingress {
            None => Ok(()),
            Some(Ingress { bridge, closed: false }) => write!(out, ", to bridge {bridge} alone"),
            Some(Ingress { bridge, closed: true }) => write!(out, ", to nobody but {bridge}'s host"),
        }
    }
}

/// Returns the endpoints of a network that are on record here.
pub fn holders(claims: &Path, network: &NetworkName) -> Vec<Endpoint> {
    Books(claims).of_network(network)
}

/// Returns the endpoints of all networks whose records can be read.
pub(crate) fn on_record(claims: &Path) -> Vec<Endpoint> {
    Books(claims).all().into_iter().map(|(endpoint, _)| endpoint).collect()
}

/// Returns those of these addresses that an attachment of ours wants let through.
pub(crate) fn wanted(
    claims: &Path,
    carrier: Carrier,
    addresses: &[IpAddr],
) -> Result<Vec<IpAddr>, FirewallError> {
    Books(claims).wanted(carrier, addresses)
}

/// Lets a container through, in place of what the attachment had. If that fails, nothing of it stays.
pub(crate) fn ensure(firewall: &mut Firewall, wanted: &Admission) -> Result<Change, FirewallError> {
    let Admission { claims, endpoint, .. } = wanted;
    let books = Books(claims);
    let record = Record::of(wanted, wanted.carrier.resolve());
    let earlier = books.read(endpoint);
    if let Some(earlier) = earlier.as_ref().filter(|earlier| **earlier != record) {
        take_back(firewall, claims, endpoint, earlier)?;
    }
    books.write(endpoint, &record)?;
    if let Err(error) = put(firewall, claims, endpoint, &record) {
        take_back(firewall, claims, endpoint, &record).and_then(|()| books.forget(endpoint)).ok();
        return Err(error);
    }
    if record.carrier == Carrier::Weft && earlier.is_none() {
        // What cannot be let through is told by `foreign::obstacles`.
        if foreign::is_open(claims) || foreign::open(firewall, claims, None).unwrap_or_default() {
            foreign::let_out(firewall, claims, &books::owner(endpoint)).ok();
        }
    }
    Ok(if earlier.is_some_and(|earlier| earlier == record) { Change::AlreadyThere } else { Change::Made })
}

/// Takes back what an attachment had. Without a record, what upstream's plugin would have made.
pub(crate) fn remove(firewall: &mut Firewall, wanted: &Admission) -> Result<(), FirewallError> {
    let books = Books(&wanted.claims);
    let Some(record) = books.read(&wanted.endpoint) else {
        return remove_foreign(firewall, wanted);
    };
    take_back(firewall, &wanted.claims, &wanted.endpoint, &record)?;
    books.forget(&wanted.endpoint)
}

/// Returns what is missing.
pub(crate) fn observe(firewall: &mut Firewall, wanted: &Admission) -> Result<Vec<String>, FirewallError> {
    match (Books(&wanted.claims).read(&wanted.endpoint), wanted.carrier) {
        (Some(recorded), _) => missing_of(firewall, wanted, recorded.carrier),
        (None, Carrier::Auto) => missing_of_upstreams(firewall, wanted),
        (None, carrier) => missing_of(firewall, wanted, carrier),
    }
}

/// Whom we have no record of, upstream may have let through: where firewalld was running by that, elsewhere by iptables.
/// Which it was then, nobody knows.
fn missing_of_upstreams(firewall: &mut Firewall, wanted: &Admission) -> Result<Vec<String>, FirewallError> {
    let by_iptables = chains::may_be_there(firewall.inet().ok());
    let carrier = wanted.carrier.resolve();
    if carrier != Carrier::Firewalld {
        return missing_of(firewall, wanted, if by_iptables { Carrier::Iptables } else { carrier });
    }
    // Its policy is in iptables all the same, and its own CHECK does not look for it.
    let missing = missing_of(firewall, &Admission { ingress: None, ..wanted.clone() }, carrier)?;
    if !missing.is_empty() && by_iptables && missing_of(firewall, wanted, Carrier::Iptables)?.is_empty() {
        return Ok(Vec::new());
    }
    Ok(missing)
}

fn missing_of(
    firewall: &mut Firewall,
    wanted: &Admission,
    carrier: Carrier,
) -> Result<Vec<String>, FirewallError> {
    let record = Record::of(wanted, carrier);
    let mut missing = Vec::new();
    let entries = record.entries();
    if !entries.is_empty() {
        let owner = books::owner(&wanted.endpoint);
        let demand = Demand { network: &owner, claims: Claims(&wanted.claims), entries };
        missing.extend(weft::observe(firewall.inet()?, &demand)?);
    }
    missing.extend(missing_elsewhere(&record, &mut Listing::default())?);
    Ok(missing)
}

/// Returns what iptables and firewalld lack of a record.
fn missing_elsewhere(record: &Record, listing: &mut Listing) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    if let Some(wanted) = record.chains() {
        missing.extend(chains::missing(&wanted, listing)?);
    }
    if record.carrier == Carrier::Firewalld {
        // A firewalld that has been stopped has forgotten all of them.
        let firewalld = Firewalld::connect()?;
        for addr in &record.addresses {
            let has = |firewalld: &Firewalld| firewalld.has(&record.zone, Member::Source(*addr));
            if !firewalld.as_ref().map(has).transpose()?.unwrap_or_default() {
                missing.push(format!("source {addr} of firewalld's zone {}", record.zone));
            }
        }
    }
    Ok(missing)
}

/// Returns what iptables and firewalld lack of anything on record.
pub(crate) fn lacking(
    claims: &Path,
    listing: &mut Listing,
) -> Result<Vec<(Endpoint, String)>, FirewallError> {
    let mut lacking = Vec::new();
    for (endpoint, record) in Books(claims).all() {
        lacking.extend(missing_elsewhere(&record, listing)?.into_iter().map(|what| (endpoint.clone(), what)));
    }
    Ok(lacking)
}

/// Writes again what firewalld has forgotten. Our own table is written from its claims, and so is iptables.
pub(crate) fn restore_firewalld(claims: &Path) -> Vec<FirewallError> {
    let of_each = |(endpoint, record): (Endpoint, Record)| {
        let refused = put_into_firewalld(claims, &endpoint, &record, true).err()?;
        Some(FirewallError::unrestored(&endpoint, refused))
    };
    Books(claims).all().into_iter().filter_map(of_each).collect()
}

/// Returns what attachments want of iptables, and have not given up.
pub(crate) fn by_iptables(claims: &Path) -> Vec<(Endpoint, Record)> {
    let books = Books(claims);
    let mut all = books.all();
    all.retain(|(endpoint, record)| record.by_iptables() && books.is_wished(endpoint, record));
    all
}

fn put(
    firewall: &mut Firewall,
    claims: &Path,
    endpoint: &Endpoint,
    record: &Record,
) -> Result<(), FirewallError> {
    let entries = record.entries();
    if !entries.is_empty() {
        let owner = books::owner(endpoint);
        weft::ensure(firewall.inet()?, &Demand { network: &owner, claims: Claims(claims), entries })?;
    }
    put_elsewhere(claims, endpoint, record)
}

fn put_elsewhere(claims: &Path, endpoint: &Endpoint, record: &Record) -> Result<(), FirewallError> {
    if let Some(wanted) = record.chains() {
        let writer = Writer::alone(claims)?;
        Books(claims).want(endpoint, record)?;
        part::write(&writer, &[&wanted])?;
    }
    put_into_firewalld(claims, endpoint, record, false)
}

/// `again` is for what has been there: what is given up meanwhile stays away.
fn put_into_firewalld(
    claims: &Path,
    endpoint: &Endpoint,
    record: &Record,
    again: bool,
) -> Result<(), FirewallError> {
    if record.carrier != Carrier::Firewalld {
        return Ok(());
    }
    let books = Books(claims);
    let _writer = Writer::alone(claims)?;
    if again && !books.is_wished(endpoint, record) {
        return Ok(());
    }
    let firewalld = Firewalld::required()?;
    books.want(endpoint, record)?;
    record.addresses.iter().try_for_each(|addr| firewalld.add(&record.zone, Member::Source(*addr)))
}

fn take_back(
    firewall: &mut Firewall,
    claims: &Path,
    endpoint: &Endpoint,
    record: &Record,
) -> Result<(), FirewallError> {
    let books = Books(claims);
    let entries = Claims(claims).drop_all(&books::owner(endpoint), &entry::ADMISSION)?;
    let ours = match entries.is_empty() {
        true => Ok(()),
        false => firewall.inet().and_then(|socket| weft::remove(socket, &Claims(claims), &entries)),
    };
    ours.and(foreign::close(claims)).and(take_elsewhere(&books, claims, endpoint, record))
}

fn take_elsewhere(
    books: &Books<'_>,
    claims: &Path,
    endpoint: &Endpoint,
    record: &Record,
) -> Result<(), FirewallError> {
    if record.chains().is_none() && record.carrier != Carrier::Firewalld {
        return Ok(());
    }
    let writer = Writer::alone(claims)?;
    let free = books.unwant(endpoint, record)?;
    if record.chains().is_some() {
        return chains::remove(&writer, &free.addresses, &free.bridges);
    }
    // A firewalld that has been stopped has forgotten its sources.
    let Some(firewalld) = Firewalld::connect()? else { return Ok(()) };
    free.addresses.iter().try_for_each(|addr| firewalld.remove(&record.zone, Member::Source(*addr)))
}

/// What we have no record of may be upstream's: its plugin keeps none. Nothing is started on a guess.
fn remove_foreign(firewall: &mut Firewall, wanted: &Admission) -> Result<(), FirewallError> {
    let Admission { addresses, carrier, claims, .. } = wanted;
    if addresses.is_empty() {
        return Ok(());
    }
    let free_of = |by: Carrier| -> Result<Vec<IpAddr>, FirewallError> {
        let others = Books(claims).wanted(by, addresses)?;
        Ok(addresses.iter().copied().filter(|addr| !others.contains(addr)).collect())
    };
    // Unless it is told, upstream's plugin takes firewalld where that is running, and iptables elsewhere: which it was then,
    // nobody knows.
    if matches!(carrier, Carrier::Firewalld | Carrier::Auto)
        && let Some(firewalld) = Firewalld::connect()?
    {
        let _writer = Writer::alone(claims)?;
        let free = free_of(Carrier::Firewalld)?;
        free.iter().try_for_each(|addr| firewalld.remove(&wanted.zone, Member::Source(*addr)))?;
    }
    let upstreams = |firewall: &mut Firewall| chains::may_be_there(firewall.inet().ok());
    if *carrier == Carrier::Iptables || *carrier == Carrier::Auto && upstreams(firewall) {
        let writer = Writer::alone(claims)?;
        return chains::remove(&writer, &free_of(Carrier::Iptables)?, &[]);
    }
    Ok(())
}

/// Takes sources out of firewalld's zones, unless an attachment of ours wants them: upstream's plugin put them there for
/// attachments that are gone.
pub(crate) fn expel_sources(claims: &Path, addresses: &[IpAddr]) -> Result<(), FirewallError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let Some(firewalld) = Firewalld::connect()? else { return Ok(()) };
    let _writer = Writer::alone(claims)?;
    let wanted = Books(claims).wanted(Carrier::Firewalld, addresses)?;
    let going = addresses.iter().filter(|addr| !wanted.contains(addr));
    // What one is refused the others are taken for all the same.
    going.map(|addr| firewalld.expel(*addr)).fold(Ok(()), Result::and)
}

impl Record {
    /// What our own table has of it. The policy is there whoever lets the packets through, unless that is iptables.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if self.carrier == Carrier::Weft {
            entries.extend(self.addresses.iter().copied().map(Entry::Admitted));
        }
        if let Some(Ingress { bridge, closed }) = self.ingress.as_ref().filter(|_| !self.by_iptables()) {
            entries.push(Entry::Isolated(bridge.clone()));
            entries.extend(closed.then(|| Entry::NoIcc(bridge.clone())));
        }
        entries
    }

    fn by_iptables(&self) -> bool {
        self.carrier == Carrier::Iptables
    }

    /// What iptables has of it.
    pub(crate) fn chains(&self) -> Option<Wanted<'_>> {
        self.by_iptables().then_some(Wanted {
            admin_chain: &self.admin_chain,
            addresses: &self.addresses,
            ingress: self.ingress.as_ref(),
        })
    }
}
