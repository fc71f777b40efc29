//! The `host` CNI plugin: a container that shares the host's namespace.
//!
//! It creates nothing, so it has no plan: ADD makes sure that the namespace is the host's and
//! reports what the host has. The own-namespace check that every other plugin begins with is
//! turned around here.

mod compose;
mod conf;

use serde_json::Value;
use weft_cni::{Code, Failure, Interface, IpConfig, NetworkResult, Version};
use weft_netlink::{Socket, address, link};
use weft_netns::Netns;
use weft_plugin::{About, Attachment, Call, ComposeRequest, DriverAbout, Plugin};
use weft_state::Root;
use weft_state::attachment::{Record, Records};

pub use conf::Settings;

/// The `host` plugin.
pub struct Host;

/// The plugin.
pub static PLUGIN: Host = Host;

/// DOCKER: the reason dockerd gives for refusing the same thing.
const REFUSAL: &str =
    "cannot connect container to host network - container must be created in host network mode";

static ABOUT: About = About {
    kind: "host",
    summary: "the host's own interfaces, shared",
    versions: &Version::ALL,
    options: &[],
    driver: Some(DriverAbout {
        addressing: false,
        attachable: false,
        clustered: false,
        instances: Some(1),
        refusal: Some(REFUSAL),
        hint: Some("a namespace cannot be turned into the host's: start the process in the host's namespace"),
    }),
};

impl Plugin for Host {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn shares_host_namespace(&self) -> bool {
        true
    }

    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure> {
        Settings::of(attachment)?;
        require_host(attachment)?;
        let records = Records::new(&attachment.root);
        refuse_second_network(&records, attachment)?;
        let result = host_as_result()?;

        let failed = |error| Failure::new(Code::Io, error);
        let record = Record::intent(attachment.endpoint.clone(), attachment.netns.clone(), ABOUT.kind)
            .map_err(failed)?;
        let shown = result.shown(attachment.conf.version)?;
        records.write(&record.done(Vec::new(), shown)).map_err(failed)?;
        Ok(result)
    }

    fn check(&self, attachment: &Attachment) -> Result<(), Failure> {
        Settings::of(attachment)?;
        require_host(attachment)
    }

    fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        Records::new(&attachment.root)
            .remove(&attachment.endpoint)
            .map_err(|error| Failure::new(Code::Io, error))
    }

    fn gc(&self, call: &Call) -> Result<(), Failure> {
        let valid = call.conf.required_valid_attachments()?;
        let records = Records::new(&call.root);
        let stale = records.of_network(&call.conf.name).into_iter().filter(|record| {
            let endpoint = &record.endpoint;
            let same = |id: &weft_cni::AttachmentId| {
                id.container_id == endpoint.container.as_str() && id.ifname == endpoint.ifname.as_str()
            };
            !valid.iter().any(same)
        });
        let problems = stale.filter_map(|record| records.remove(&record.endpoint).err());
        Failure::all(problems.map(|error| Failure::new(Code::Io, error)).collect())
    }

    fn status(&self, call: &Call) -> Result<(), Failure> {
        Settings::of(call).map(drop)
    }

    fn compose(&self, request: &ComposeRequest, _root: &Root) -> Result<Vec<Value>, Failure> {
        compose::compose(request)
    }
}

fn require_host(attachment: &Attachment) -> Result<(), Failure> {
    let path = attachment.required_netns()?;
    let failed = |error| Failure::new(Code::InvalidNetns, error);
    let given = Netns::open(path).map_err(failed)?;
    if given.same_as(&Netns::host().map_err(failed)?) {
        return Ok(());
    }
    let text = format!("{} is not the host's namespace, which the host driver shares", path.display());
    Err(Failure::text(Code::InvalidNetns, text).with_hint(Some("use the none or the bridge driver".into())))
}

/// DOCKER: a container in the host's namespace is on no other network.
fn refuse_second_network(records: &Records, attachment: &Attachment) -> Result<(), Failure> {
    let endpoint = &attachment.endpoint;
    let others = records.of_container(&endpoint.container);
    let Some(other) = others.iter().find(|record| record.endpoint != *endpoint) else { return Ok(()) };
    let text = format!(
        "container sharing network namespace with another container or host cannot be connected to any other \
         network: {} is on {}",
        endpoint.container, other.endpoint.network
    );
    Err(Failure::text(Code::InvalidConfig, text))
}

/// The host's interfaces and addresses, as they are now.
fn host_as_result() -> Result<NetworkResult, Failure> {
    let failed = |error| Failure::new(Code::Internal, error);
    let mut socket = Socket::open().map_err(failed)?;
    let links = link::all(&mut socket).map_err(failed)?;
    let mut result = NetworkResult::default();
    for (position, link) in links.iter().enumerate() {
        result.interfaces.push(Interface {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()),
            mtu: Some(link.mtu),
            ..Interface::default()
        });
        let addresses = address::of_link(&mut socket, link.index).map_err(failed)?;
        result.ips.extend(addresses.into_iter().map(|found| IpConfig {
            address: found.address,
            gateway: None,
            interface: Some(position),
        }));
    }
    Ok(result)
}
