//! What each verb does with the leases.

use std::collections::HashSet;

use weft_cni::{Code, Failure, IpConfig, NetConf, NetworkResult};
use weft_state::{Root, StateError};

use crate::conf::{self, Settings};
use crate::key::Key;
use crate::lease;
use crate::resolv;
use crate::store::Store;

/// Leases an address from each range set.
///
/// # Errors
///
/// When the configuration makes no sense, or there is no address to be had.
pub(crate) fn add(net: &NetConf, args: &str, root: &Root, key: &Key) -> Result<NetworkResult, Failure> {
    let settings = Settings::new(net, args, root)?;
    let dns = settings.resolv_conf.as_deref().map(resolv::read).transpose().map_err(io)?.unwrap_or_default();
    let mut store = Store::create(&settings.location).map_err(io)?;
    let choices = lease::lease(&settings, &mut store, key);
    store.finish().map_err(io)?;
    let ip = |choice: weft_ipam::Choice| IpConfig {
        address: choice.address,
        gateway: Some(choice.gateway),
        interface: None,
    };
    let ips = choices?.into_iter().map(ip).collect();
    Ok(NetworkResult { ips, routes: settings.routes, dns, ..NetworkResult::default() })
}

/// Gives back whatever an attachment has. Nothing but the network's name and its data directory matters.
///
/// # Errors
///
/// When a lease cannot be removed.
pub(crate) fn del(net: &NetConf, root: &Root, key: &Key) -> Result<(), Failure> {
    let Some(mut store) = Store::open(&conf::location(net, root)).map_err(io)? else { return Ok(()) };
    let released = store
        .leases_of(key)
        .map(|leases| leases.iter().filter_map(|lease| store.release(lease).err()).collect());
    let finished = store.finish();
    problems(released.map_err(io)?)?;
    finished.map_err(io)
}

/// Looks for an attachment's lease.
///
/// # Errors
///
/// When there is none.
pub(crate) fn check(net: &NetConf, root: &Root, key: &Key) -> Result<(), Failure> {
    let missing = || {
        let msg = format!("host-local: Failed to find address added by container {}", key.container());
        Failure::text(Code::Internal, msg)
    };
    let mut store = Store::open(&conf::location(net, root)).map_err(io)?.ok_or_else(missing)?;
    let leases = store.leases_of(key);
    store.finish().map_err(io)?;
    if leases.map_err(io)?.is_empty() { Err(missing()) } else { Ok(()) }
}

/// Gives back every lease whose attachment is not valid any more.
///
/// A lease without an interface's name is kept for any valid attachment of its container, and a file whose
/// content cannot be an attachment's is not touched.
///
/// # Errors
///
/// Code 7 when nobody said which attachments are valid; else when a lease cannot be removed.
pub(crate) fn gc(net: &NetConf, root: &Root) -> Result<(), Failure> {
    let valid = net.required_valid_attachments()?;
    let keys: HashSet<Key> = valid.iter().map(|one| Key::new(&one.container_id, &one.ifname)).collect();
    let containers: HashSet<&str> = valid.iter().map(|one| one.container_id.as_str()).collect();
    let keep = |key: &Key| match key.ifname() {
        Some(_) => keys.contains(key),
        None => containers.contains(key.container()),
    };
    let Some(mut store) = Store::open(&conf::location(net, root)).map_err(io)? else { return Ok(()) };
    let collected = collect(&mut store, keep);
    let finished = store.finish();
    problems(collected.map_err(io)?)?;
    finished.map_err(io)
}

fn collect(store: &mut Store, keep: impl Fn(&Key) -> bool) -> Result<Vec<StateError>, StateError> {
    store.refresh()?;
    let mut problems = Vec::new();
    for lease in store.leases()? {
        match store.holder(lease.address) {
            Ok(Some(key)) if key.is_attachment() && !keep(&key) => {
                problems.extend(store.release(&lease).err())
            }
            Ok(_) => {}
            Err(error) => problems.push(error),
        }
    }
    Ok(problems)
}

/// Says whether an ADD would find an address.
///
/// # Errors
///
/// Code 7 when the configuration makes no sense, 50 when a range set is used up.
pub(crate) fn status(net: &NetConf, root: &Root) -> Result<(), Failure> {
    let settings = Settings::new(net, "", root)?;
    let Some(mut store) = Store::open(&settings.location).map_err(io)? else { return Ok(()) };
    let available = lease::available(&settings, &mut store);
    store.finish().map_err(io)?;
    available
}

fn io(error: StateError) -> Failure {
    Failure::new(Code::Io, error)
}

/// Reports everything that went wrong in a verb that does not stop.
fn problems(errors: Vec<StateError>) -> Result<(), Failure> {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if texts.is_empty() { Ok(()) } else { Err(Failure::text(Code::Io, texts.join("; "))) }
}

#[cfg(test)]
mod tests;
