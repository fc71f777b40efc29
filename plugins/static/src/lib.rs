//! The `static` IPAM plugin: addresses that somebody else chose.
//!
//! It keeps no state: what it gives is what the configuration or the runtime says, so there is nothing to release.

mod conf;

use weft_cni::{Code, Failure, NetworkResult, Version};
use weft_plugin::{About, Attachment, Call, Plugin};

pub use conf::{ConfError, Settings};

/// The plugin.
pub struct Static;

/// The plugin.
pub static PLUGIN: Static = Static;

static ABOUT: About = About {
    kind: "static",
    summary: "addresses as configured, without any bookkeeping",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Plugin for Static {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        let Settings { ips, routes, dns } = Settings::of(attachment)?;
        Ok(NetworkResult { interfaces: Vec::new(), ips, routes, dns })
    }

    /// Compares what was given with what would be given now. Whether the interface has it is for the caller to see.
    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        let settings = Settings::of(attachment)?;
        let previous = attachment.required_prev_result()?;
        settings.check(&previous.ips).map_err(|address| {
            let ifname = &attachment.endpoint.ifname;
            let msg = format!("static: Failed to match addr {address} on interface {ifname}");
            Failure::text(Code::Internal, msg)
        })
    }

    /// Succeeds whatever the configuration: nothing was taken, so nothing is left.
    fn del(&self, _attachment: &Attachment) -> Result<(), Failure> {
        Ok(())
    }

    /// Has nothing to collect, and refuses all the same who does not say what stays.
    fn gc(&self, call: &Call) -> Result<(), Failure> {
        call.valid_attachments().map(drop)
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        Settings::of(call).map(drop).map_err(|failure| Failure { code: Code::NotAvailable, ..failure })
    }
}
