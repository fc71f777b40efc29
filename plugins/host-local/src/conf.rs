//! What was written, then what was meant.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weft_cni::address::{parse_cidr, parse_ip};
use weft_cni::{CniArgs, Code, Failure, NetConf, Route, json};
use weft_ipam::{Policy, Pool, Range, RangeSet, Requestable, SetError};
use weft_state::Root;

use crate::store::Location;

/// The `ipam` object exactly as it appears in a configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    ranges: Vec<Vec<RangeConf>>,
    routes: Vec<Route>,
    data_dir: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
    reserved: Vec<String>,
    avoid: Vec<String>,
    requestable: Option<String>,
    sync: bool,
}

/// One range as it appears in a configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RangeConf {
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
}

/// What the plugin will do.
#[derive(Debug, PartialEq)]
pub struct Settings {
    /// The addresses there are.
    pub pool: Pool,
    /// What holds besides.
    pub policy: Policy,
    /// The addresses asked for, each once, in the order of the requests.
    pub requested: Vec<IpAddr>,
    /// The routes of the result.
    pub routes: Vec<Route>,
    /// The file that the result's name service is read from.
    pub resolv_conf: Option<PathBuf>,
    /// Where the leases are.
    pub location: Location,
}

/// Why the ranges are refused.
#[derive(Debug, thiserror::Error)]
enum ConfError {
    #[error("range set {set}, range {range}: {reason}")]
    Range { set: usize, range: usize, reason: String },
    #[error("cannot understand ip: {0}")]
    Request(String),
    #[error("ipam.{list}[{index}]: {reason}")]
    List { list: &'static str, index: usize, reason: String },
    #[error("ipam.requestable is {0:?}, and only \"range\" and \"subnet\" are known")]
    Requestable(String),
}

impl Settings {
    /// Returns what a configuration and `CNI_ARGS` mean.
    ///
    /// # Errors
    ///
    /// Code 7 when the configuration makes no sense, 4 when `CNI_ARGS` does not.
    pub fn new(net: &NetConf, args: &str, root: &Root) -> Result<Self, Failure> {
        let conf: Conf = net.ipam()?;
        let requested = requested(net, args)?;
        let pool = pool(net, &conf)?;
        let subnets = pool.sets().iter().filter_map(|set| set.ranges().first()).map(Range::subnet);
        net.allows_addresses(subnets)?;
        let policy = Policy {
            reserved: addresses("reserved", &conf.reserved)?,
            avoid: addresses("avoid", &conf.avoid)?,
            requestable: requestable(conf.requestable.as_deref())?,
        };
        Ok(Self {
            pool,
            policy,
            requested,
            routes: conf.routes,
            resolv_conf: conf.resolv_conf.filter(|path| !path.as_os_str().is_empty()),
            location: locate(net, root, conf.data_dir.as_deref(), conf.sync),
        })
    }
}

/// Returns where a network's leases are, whatever else is wrong with its configuration: a DEL must find
/// what an ADD of better days has made.
pub fn location(net: &NetConf, root: &Root) -> Location {
    let key = |name| json::get(net.ipam.as_ref()?, name);
    let data_dir = key("dataDir").and_then(|value| value.as_str()).map(Path::new);
    let sync = key("sync").and_then(|value| value.as_bool()).unwrap_or(false);
    locate(net, root, data_dir, sync)
}

fn locate(net: &NetConf, root: &Root, data_dir: Option<&Path>, sync: bool) -> Location {
    let given = data_dir.filter(|path| !path.as_os_str().is_empty());
    Location::new(&given.map_or_else(|| root.cni_networks_dir(), Path::to_path_buf), &net.name, sync)
}

/// Returns the ranges in the order of the reference plugin: the runtime's, then the old single one, then
/// the list.
fn pool(net: &NetConf, conf: &Conf) -> Result<Pool, Failure> {
    let runtime: Vec<Vec<RangeConf>> = net.capability("ipRanges")?.unwrap_or_default();
    let single = conf.subnet.as_ref().filter(|subnet| !subnet.is_empty()).map(|subnet| {
        vec![RangeConf {
            subnet: Some(subnet.clone()),
            range_start: conf.range_start.clone(),
            range_end: conf.range_end.clone(),
            gateway: conf.gateway.clone(),
        }]
    });
    let mut sets: Vec<Result<RangeSet, SetError>> = Vec::new();
    for (number, set) in runtime.iter().chain(&single).chain(&conf.ranges).enumerate() {
        let mut ranges = Vec::new();
        for (position, range) in set.iter().enumerate() {
            let refuse = |reason| invalid(ConfError::Range { set: number, range: position, reason });
            ranges.push(range.read().map_err(refuse)?);
        }
        let ranges: Result<Vec<Range>, _> = ranges.into_iter().collect();
        sets.push(ranges.map_err(SetError::from).and_then(RangeSet::new));
    }
    Pool::new(sets).map_err(invalid)
}

impl RangeConf {
    /// Reads the texts; whether the range makes sense is in the inner result.
    fn read(&self) -> Result<Result<Range, weft_ipam::RangeError>, String> {
        let subnet = self.subnet.as_deref().filter(|subnet| !subnet.is_empty()).ok_or("it has no subnet")?;
        let subnet = parse_cidr(subnet).map_err(|error| error.to_string())?;
        let ip = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(parse_ip).transpose().map_err(|error| error.to_string())
        };
        Ok(Range::new(subnet, ip(&self.range_start)?, ip(&self.range_end)?, ip(&self.gateway)?))
    }
}

/// Returns the addresses asked for: `IP` in `CNI_ARGS`, `args.cni.ips` and `runtimeConfig.ips` together.
fn requested(net: &NetConf, args: &str) -> Result<Vec<IpAddr>, Failure> {
    let args = CniArgs::parse(args, &["IP"])?;
    let mut texts: Vec<String> = args.get("IP").map(String::from).into_iter().collect();
    texts.extend(net.cni_arg::<Vec<String>>("ips")?.unwrap_or_default());
    texts.extend(net.capability::<Vec<String>>("ips")?.unwrap_or_default());
    let mut requested = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let parsed = if text.contains('/') { parse_cidr(text).map(|cidr| cidr.ip()) } else { parse_ip(text) };
        let ip = parsed.map_err(|error| invalid(ConfError::Request(error.to_string())))?;
        if !requested.contains(&ip) {
            requested.push(ip);
        }
    }
    Ok(requested)
}

fn addresses(list: &'static str, texts: &[String]) -> Result<BTreeSet<IpAddr>, Failure> {
    let read = |(index, text): (usize, &String)| {
        parse_ip(text).map_err(|error| invalid(ConfError::List { list, index, reason: error.to_string() }))
    };
    texts.iter().enumerate().map(read).collect()
}

fn requestable(text: Option<&str>) -> Result<Requestable, Failure> {
    match text.unwrap_or_default() {
        "" | "range" => Ok(Requestable::Range),
        "subnet" => Ok(Requestable::Subnet),
        other => Err(invalid(ConfError::Requestable(other.into()))),
    }
}

fn invalid(error: impl std::error::Error) -> Failure {
    Failure::new(Code::InvalidConfig, error)
}

#[cfg(test)]
mod tests;
