//! The `host-local` IPAM plugin: addresses from ranges, one file for each lease.
//!
//! The directory of leases is the CNI reference plugin's, byte for byte and under the same lock, so that
//! both can serve one network in turn or at once. Beside it, an index makes each operation cost the same
//! with 60,000 leases as with none ([`index`]).

mod about;
pub mod conf;
pub mod cursor;
pub mod index;
pub mod key;
pub mod lease;
mod resolv;
mod scan;
pub mod store;
mod table;
mod verb;

use weft_cni::{Failure, NetworkResult};
use weft_plugin::{About, Attachment, Call, Plugin};

use crate::key::Key;

/// The plugin.
#[derive(Clone, Copy, Debug)]
pub struct HostLocal;

/// The plugin.
pub static PLUGIN: HostLocal = HostLocal;

impl Plugin for HostLocal {
    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        verb::add(&attachment.conf, &attachment.args, &attachment.root, &key(attachment))
    }

    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        verb::check(&attachment.conf, &attachment.root, &key(attachment))
    }

    fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        verb::del(&attachment.conf, &attachment.root, &key(attachment))
    }

    fn gc(&self, call: &Call) -> Result<(), Failure> {
        verb::gc(&call.conf, &call.root)
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        verb::status(&call.conf, &call.root)
    }
}

fn key(attachment: &Attachment) -> Key {
    Key::new(attachment.endpoint.container.as_str(), attachment.endpoint.ifname.as_str())
}
