//! firewalld, asked over D-Bus.
//!
//! CNI: plugins/meta/firewall/firewalld.go. Sources and interfaces are put into a zone at run time: what
//! firewalld has on disk stays as the administrator wrote it, and a reload of firewalld forgets ours.

use std::env;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use zbus::{Connection, Error};

use crate::FirewallError;

const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONE: &str = "org.fedoraproject.FirewallD1.zone";
/// What firewalld has on disk.
const CONFIG_PATH: &str = "/org/fedoraproject/FirewallD1/config";
const CONFIG: &str = "org.fedoraproject.FirewallD1.config";
const CONFIG_ZONE: &str = "org.fedoraproject.FirewallD1.config.zone";
/// The zone of upstream's plugin, whose packets firewalld accepts.
pub const TRUSTED: &str = "trusted";
/// Where the system's bus listens unless `DBUS_SYSTEM_BUS_ADDRESS` says otherwise.
const SOCKETS: [&str; 2] = ["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"];
/// firewalld answers after it has changed the kernel's rules, which takes it up to some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running firewalld.
#[derive(Debug)]
pub(crate) struct Firewalld {
    bus: Connection,
}

/// Something that can be in a zone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member<'a> {
    /// Packets from this address.
    Source(IpAddr),
    /// Packets by way of this interface.
    Interface(&'a IfName),
}

impl Member<'_> {
    /// The part of the method's name that says what it is about.
    fn kind(self) -> &'static str {
        match self {
            Self::Source(_) => "Source",
            Self::Interface(_) => "Interface",
        }
    }

    fn text(self) -> String {
        match self {
            Self::Source(addr) => IpNetwork::from(addr).to_string(),
            Self::Interface(name) => name.to_string(),
        }
    }
}

/// Returns whether firewalld is running: whether its name on the system's bus is taken.
pub(crate) fn is_running() -> bool {
    Firewalld::connect().is_ok_and(|found| found.is_some())
}

impl Firewalld {
    /// Returns firewalld, or `None` where it is not running.
    pub(crate) fn connect() -> Result<Option<Self>, FirewallError> {
        if !has_bus() {
            return Ok(None);
        }
        zruntime::block_on(async {
            let Ok(bus) = zbus::connection::Builder::system().method_timeout(PATIENCE).build().await else {
                // A socket that nobody listens at is as good as none.
                return Ok(None);
            };
            let firewalld = Self { bus };
            Ok(firewalld.is_there().await.map_err(refused)?.then_some(firewalld))
        })
    }

    /// Returns firewalld, which has to be running.
    pub(crate) fn required() -> Result<Self, FirewallError> {
        Self::connect()?.ok_or(FirewallError::NoFirewalld)
    }

    /// Puts a member into a zone, where it may be already.
    pub(crate) fn add(&self, zone: &str, member: Member<'_>) -> Result<(), FirewallError> {
        match self.call(&format!("add{}", member.kind()), zone, member) {
            Err(error) if says(&error, &["ZONE_ALREADY_SET", "ALREADY_ENABLED"]) => Ok(()),
            outcome => outcome.map(drop).map_err(refused),
        }
    }

    /// Takes a member out of a zone, where it need not be.
    pub(crate) fn remove(&self, zone: &str, member: Member<'_>) -> Result<(), FirewallError> {
        let absent = ["UNKNOWN_SOURCE", "UNKNOWN_INTERFACE", "NOT_ENABLED", "ZONE_CONFLICT", "INVALID_ZONE"];
        match self.call(&format!("remove{}", member.kind()), zone, member) {
            Err(error) if says(&error, &absent) => Ok(()),
            outcome => outcome.map(drop).map_err(refused),
        }
    }

    /// Returns whether a member is in a zone.
    pub(crate) fn has(&self, zone: &str, member: Member<'_>) -> Result<bool, FirewallError> {
        let reply = self.call(&format!("query{}", member.kind()), zone, member).map_err(refused)?;
        reply.body().deserialize().map_err(refused)
    }

    /// Takes a source out of the zone that it is in, unless an administrator has written it down as one of that zone.
    pub(crate) fn expel(&self, source: IpAddr) -> Result<(), FirewallError> {
        let member = Member::Source(source);
        let reply = self.ask(PATH, ZONE, "getZoneOfSource", &member.text()).map_err(refused)?;
        let zone: String = reply.body().deserialize().map_err(refused)?;
        if zone.is_empty() || self.is_permanent(&zone, member).map_err(refused)? {
            return Ok(());
        }
        self.remove(&zone, member)
    }

    /// Returns whether a member is one of the zone on disk as well.
    fn is_permanent(&self, zone: &str, member: Member<'_>) -> Result<bool, Error> {
        let path = match self.ask(CONFIG_PATH, CONFIG, "getZoneByName", zone) {
            // Made at run time, and written nowhere.
            Err(error) if says(&error, &["INVALID_ZONE"]) => return Ok(false),
            outcome => outcome?,
        };
        let path: zbus::OwnedObjectPath = path.body().deserialize()?;
        let method = format!("query{}", member.kind());
        self.ask(path.as_str(), CONFIG_ZONE, &method, &member.text())?.body().deserialize()
    }

    fn call(&self, method: &str, zone: &str, member: Member<'_>) -> Result<zbus::Message, Error> {
        let arguments = (zone, member.text());
        zruntime::block_on(self.bus.call_method(Some(NAME), PATH, Some(ZONE), method, &arguments))
    }

    fn ask(&self, path: &str, interface: &str, method: &str, text: &str) -> Result<zbus::Message, Error> {
        zruntime::block_on(self.bus.call_method(Some(NAME), path, Some(interface), method, &text))
    }

    async fn is_there(&self) -> Result<bool, Error> {
        let bus = "org.freedesktop.DBus";
        let reply = self
            .bus
            .call_method(Some(bus), "/org/freedesktop/DBus", Some(bus), "NameHasOwner", &NAME)
            .await?;
        reply.body().deserialize()
    }
}

/// Returns whether there is anything to connect to, which spares most hosts the attempt.
fn has_bus() -> bool {
    env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_some() || SOCKETS.iter().any(|path| Path::new(path).exists())
}

/// firewalld has one error for everything; its text begins with what went wrong.
fn says(error: &Error, codes: &[&str]) -> bool {
    let Error::MethodError(_, Some(text), _) = error else { return false };
    codes.iter().any(|code| text.starts_with(code))
}

fn refused(error: Error) -> FirewallError {
    let problem = match error {
        Error::MethodError(_, Some(text), _) => text,
        other => other.to_string(),
    };
    FirewallError::Firewalld { problem }
}
