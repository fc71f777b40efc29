//! Leases that are got, renewed and given back: what is said to servers, and what is remembered of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_cni::{Code, Failure};
use weft_model::{Endpoint, Mac};
use weft_state::{boot, document};

use crate::client::{Patience, Station};
use crate::flags::Flags;
use crate::lease::{Due, Lease, Leases, now};
use crate::message::{Client, Terms};
use crate::options::Conf;
use crate::rpc::Allocation;

/// Tells one namespace from a later one at its path, as the records of attachments do.
pub(crate) fn identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    Some(format!("{}:{}@{}.{:09}", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// Returns a path below a prefix; an empty prefix is none.
pub(crate) fn below(prefix: &Path, path: &Path) -> PathBuf {
    if prefix.as_os_str().is_empty() {
        return path.into();
    }
    prefix.join(path.strip_prefix("/").unwrap_or(path))
}

/// Gets a lease and remembers it: for the address that an interface has, which another daemon may have got, or for any.
pub(crate) fn acquire(
    leases: &Leases,
    wanted: Allocation,
    flags: &Flags,
    stopped: &dyn Fn(Duration) -> bool,
) -> Result<Lease, Failure> {
    let (netns, ifname) = (below(&flags.hostprefix, &wanted.netns), &wanted.endpoint.ifname);
    let namespace = identity(&netns).unwrap_or_default();
    let station = Station::open(&netns, ifname)?.ok_or_else(|| {
        Failure::text(Code::Internal, format!("there is no interface {ifname} in {}", netns.display()))
    })?;
    let client = client(&wanted.endpoint, &wanted.conf, &wanted.args, station.mac, flags.broadcast)?;
    let refused = |address| {
        let text = format!("there is no lease for {}, and no server confirms {address}", wanted.endpoint);
        Failure::text(Code::Internal, text)
    };
    let (terms, server_mac) = match wanted.address {
        None => station.acquire(&client, None, flags.patience, stopped)?,
        Some(address) => station
            .keep(&client, address, None, flags.patience.answer)
            .and_then(|(terms, mac)| Some((terms?, mac)))
            .ok_or_else(|| refused(address))?,
    };
    let lease = Lease {
        schema: document::SCHEMA,
        boot: boot::id().map_err(|error| Failure::new(Code::Io, error))?,
        endpoint: wanted.endpoint,
        netns,
        namespace,
        mac: station.mac.to_string(),
        server_mac: server_mac.to_string(),
        args: wanted.args,
        conf: wanted.conf,
        since: now()?,
        terms,
    };
    if let Err(error) = leases.write(&lease) {
        // What nobody remembers nobody gives back.
        let server = (lease.terms.server, server_mac);
        station.release(&client, lease.terms.address.ip(), server).ok();
        return Err(Failure::new(Code::Io, error));
    }
    Ok(lease)
}

/// CNI: a client's name for itself is that of the reference daemon.
fn client(endpoint: &Endpoint, conf: &str, args: &str, mac: Mac, broadcast: bool) -> Result<Client, Failure> {
    let Endpoint { network, container, ifname } = endpoint;
    let id = format!("{container}/{network}/{ifname}");
    Ok(Client { mac, id, options: Conf::read(conf)?.options(args)?, broadcast })
}

/// Says whether a lease still holds.
pub(crate) fn is_alive(lease: &Lease) -> bool {
    now().is_ok_and(|now| lease.due(now) != Due::Expiry)
}

/// Renews a lease; nothing when that does not succeed. The address stays the same, since nobody could change it.
pub(crate) fn renewed(lease: &Lease, due: Due, broadcast: bool, patience: Patience) -> Option<Lease> {
    let station = Station::open(&lease.netns, &lease.endpoint.ifname).ok()??;
    let client = client(&lease.endpoint, &lease.conf, &lease.args, station.mac, broadcast).ok()?;
    let address = lease.terms.address.ip();
    let since = now().ok()?;
    let (terms, mac): (Terms, Mac) = match due {
        Due::Nothing(_) => return None,
        Due::Expiry => {
            let once = Patience { whole: patience.answer, ..patience };
            station.acquire(&client, Some(address), once, &|_| true).ok()?
        }
        due => {
            let (_, server_mac) = lease.macs()?;
            let server = matches!(due, Due::Renewal(_)).then_some((lease.terms.server, server_mac));
            let (terms, mac) = station.keep(&client, address, server, patience.answer)?;
            (terms?, mac)
        }
    };
    Some(Lease { server_mac: mac.to_string(), since, terms, ..lease.clone() })
}

/// Gives the address of an interface back, also one that another daemon got: its server is found by asking for the
/// address. Also for who has no daemon.
///
/// # Errors
///
/// As for [`give_back`].
pub(crate) fn disconnect(leases: &Leases, held: Allocation, flags: &Flags) -> Result<(), Failure> {
    let endpoint = held.endpoint.clone();
    if held.address.is_some() && leases.get(&endpoint).is_none() {
        // Where nobody answers there is nothing to give back.
        acquire(leases, held, flags, &|_| true).ok();
    }
    give_back(leases, &endpoint)
}

/// Tells the server that an address is free, and forgets it.
///
/// # Errors
///
/// When the file cannot be removed. A server that is not told will find out when the lease ends.
pub(crate) fn give_back(leases: &Leases, endpoint: &Endpoint) -> Result<(), Failure> {
    let Some(lease) = leases.get(endpoint) else { return Ok(()) };
    if identity(&lease.netns).as_ref() == Some(&lease.namespace) && is_alive(&lease) {
        let told = say_goodbye(&lease);
        if let Err(failure) = told {
            eprintln!("dhcp: {}", failure.msg);
        }
    }
    leases.remove(endpoint).map_err(|error| Failure::new(Code::Io, error))
}

fn say_goodbye(lease: &Lease) -> Result<(), Failure> {
    let missing = || Failure::text(Code::Internal, "the lease has no Ethernet addresses");
    let (mac, server_mac) = lease.macs().ok_or_else(missing)?;
    let Some(station) = Station::open(&lease.netns, &lease.endpoint.ifname)? else { return Ok(()) };
    let client = client(&lease.endpoint, &lease.conf, &lease.args, mac, false)?;
    station.release(&client, lease.terms.address.ip(), (lease.terms.server, server_mac))
}
