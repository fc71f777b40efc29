//! What a plugin says about itself when asked to `describe`.

use serde::Serialize;
use weft_cni::Version;

/// A plugin's description of itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct About {
    /// The plugin's name: the `type` of its configurations.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// One line on what it does.
    pub summary: &'static str,
    /// The spec versions it speaks.
    pub versions: &'static [Version],
    /// The options of a network made with it.
    pub options: &'static [OptionAbout],
    /// What the manager must know to make networks with it. `None` for plugins that make none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverAbout>,
}

/// An option of a network.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OptionAbout {
    /// The option's name.
    pub name: &'static str,
    /// Other names it is known by, docker's among them.
    pub aliases: &'static [&'static str],
    /// What kind of value it takes, such as `BYTES`.
    pub value: &'static str,
    /// What happens without it.
    pub default: &'static str,
    /// One line on what it does.
    pub help: &'static str,
}

impl OptionAbout {
    /// Returns an option that is known by one name.
    pub const fn new(
        name: &'static str,
        value: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, aliases: &[], value, default, help }
    }
}

/// What the manager must know of a network driver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DriverAbout {
    /// Whether its networks have subnets.
    pub addressing: bool,
    /// Whether containers can be connected and disconnected while they run.
    pub attachable: bool,
    /// Whether its networks are those of all hosts of a cluster, on a host that has joined one.
    pub clustered: bool,
    /// How many networks of its kind there may be. `None` for any number.
    pub instances: Option<u32>,
    /// Why the manager refuses to connect a container, if it does.
    pub refusal: Option<&'static str>,
    /// What to do instead.
    pub hint: Option<&'static str>,
}
