//! The `dhcp` CNI plugin: IPv4 addresses from the network's DHCP server.
//!
//! The plugin asks a daemon, `dhcp daemon`, which is this binary as well: somebody has to renew the leases.

mod about;
mod client;
mod daemon;
mod exchange;
mod flags;
mod frame;
mod lease;
mod message;
mod options;
mod rpc;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use weft_cni::{Code, Failure, NetworkResult};
use weft_model::{IfName, Mac};
use weft_plugin::{About, Attachment, Call, Plugin};
use weft_state::Root;

use flags::Flags;
use lease::Leases;
use message::Client;
use options::{Conf, Options};
use rpc::{Allocation, Request, Unserved};

/// The `dhcp` plugin.
pub struct Dhcp;

/// The plugin.
pub static PLUGIN: Dhcp = Dhcp;

/// Returns whether a packet off the wire is an answer to a client, as one reads it that waits for the answer to its
/// question number 0.
pub fn is_answer(packet: &[u8]) -> bool {
    let (mac, id) = (Mac([2, 0, 0, 0, 0, 1]), String::from("red/n1/eth0"));
    let client = Client { mac, id, options: Options::default(), broadcast: false };
    frame::unwrap(packet).is_some_and(|message| client.read(message, 0).is_some())
}

/// Returns how many leases of this boot are on disk. What cannot be read is removed.
pub fn count_leases(root: &Root) -> usize {
    Leases::new(root).all().len()
}

fn socket(call: &Call, conf: &Conf) -> PathBuf {
    match conf.daemon_socket_path.as_str() {
        "" => call.root.dhcp_socket(),
        path => path.into(),
    }
}

fn conf(call: &Call) -> Result<Conf, Failure> {
    let conf: Conf = call.conf.ipam()?;
    options::check_args(&call.args)?;
    conf.options(&call.args)?;
    Ok(conf)
}

fn allocation(attachment: &Attachment, address: Option<Ipv4Addr>) -> Allocation {
    Allocation {
        endpoint: attachment.endpoint.clone(),
        netns: attachment.netns.clone().unwrap_or_default(),
        args: attachment.args.clone(),
        conf: String::from_utf8_lossy(&attachment.stdin).into_owned(),
        address,
    }
}

/// Returns the address that the interface has by the previous result. DEL does without.
fn address(attachment: &Attachment) -> Option<Ipv4Addr> {
    address_of(&attachment.conf.prev_result().ok().flatten()?, &attachment.endpoint.ifname)
}

fn address_of(result: &NetworkResult, ifname: &IfName) -> Option<Ipv4Addr> {
    let addresses = weft_plugin::Leases::of_result(result, ifname).addresses();
    addresses.into_iter().find_map(|address| match address.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

impl Plugin for Dhcp {
    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    /// A server is told from the interface.
    fn needs_link(&self) -> bool {
        true
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        let conf = conf(attachment)?;
        attachment.required_netns()?;
        let request = Request::Allocate(Box::new(allocation(attachment, None)));
        let result = rpc::call(&socket(attachment, &conf), &request)?;
        result.ok_or_else(|| Failure::text(Code::Internal, "error calling DHCP.Allocate: there is no result"))
    }

    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        let conf = conf(attachment)?;
        let request = Request::Check(Box::new(allocation(attachment, address(attachment))));
        rpc::call(&socket(attachment, &conf), &request)?;
        Ok(())
    }

    /// Without a daemon the address is given back from here: it keeps its leases where we find them.
    fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        let conf: Conf = attachment.conf.ipam().unwrap_or_default();
        let held = allocation(attachment, address(attachment));
        let request = Request::Release(Box::new(held.clone()));
        match rpc::call(&socket(attachment, &conf), &request) {
            Err(Unserved::NoDaemon(_)) => {
                exchange::disconnect(&Leases::new(&attachment.root), held, &Flags::default())
            }
            Err(Unserved::Refused(failure)) => Err(failure),
            Ok(_) => Ok(()),
        }
    }

    fn gc(&self, call: &Call) -> Result<(), Failure> {
        let valid = call.valid_attachments()?;
        let valid: Vec<_> = valid.iter().map(|one| (one.container_id.clone(), one.ifname.clone())).collect();
        let conf: Conf = call.conf.ipam().unwrap_or_default();
        let request = Request::Collect { network: call.conf.name.to_string(), valid: valid.clone() };
        match rpc::call(&socket(call, &conf), &request) {
            Err(Unserved::Refused(failure)) => Err(failure),
            Ok(_) => Ok(()),
            Err(Unserved::NoDaemon(_)) => {
                let leases = Leases::new(&call.root);
                let stale = leases.stale(call.conf.name.as_str(), &valid).into_iter();
                Failure::all(stale.filter_map(|one| exchange::give_back(&leases, &one).err()).collect())
            }
        }
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        let conf = conf(call)?;
        match rpc::call(&socket(call, &conf), &Request::Status) {
            Ok(_) => Ok(()),
            Err(unserved) => Err(Failure { code: Code::NotAvailable, ..unserved.into() }),
        }
    }

    fn command(&self, words: &[String], root: &Root) -> Option<i32> {
        let (first, flags) = words.split_first()?;
        if first != "daemon" {
            return None;
        }
        Some(match daemon::run(flags, root) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("dhcp: {error}");
                1
            }
        })
    }
}
