//! Networks whose containers are straight on a link of the host: the options that their drivers share.

use serde_json::{Map, Value, json};
use weft_cni::{ComposeRequest, Failure};
use weft_model::{IfName, Mtu};

use super::{Options, bad_option, default_routes, host_local};
use crate::OptionAbout;

/// The link.
pub const PARENT: OptionAbout = OptionAbout::new(
    "parent",
    "NAME",
    "the link of the default route",
    "the host's link that containers are on",
);

/// The MTU.
pub const MTU: OptionAbout = OptionAbout {
    aliases: &["com.docker.network.driver.mtu"],
    ..OptionAbout::new("mtu", "BYTES", "the parent's", "the MTU of the containers' links")
};

/// The metric of the default routes.
pub const METRIC: OptionAbout =
    OptionAbout::new("metric", "NUMBER", "none", "the metric of the default routes");

/// Whether there are none.
pub const NO_DEFAULT_ROUTE: OptionAbout = OptionAbout::new(
    "no_default_route",
    "BOOL",
    "false",
    "whether containers have no default route to the network's gateway",
);

/// Returns the plugin of such a network without what is the driver's own.
///
/// # Errors
///
/// Code 7 if one has a bad value.
pub fn compose(
    kind: &str,
    options: &Options<'_>,
    request: &ComposeRequest,
) -> Result<Map<String, Value>, Failure> {
    let mut conf = Map::new();
    conf.insert("type".into(), json!(kind));
    if let Some(parent) = options.get(PARENT.name).filter(|parent| !parent.is_empty()) {
        let parent: IfName = parent.parse().map_err(|error| bad_option(PARENT.name, parent, &error))?;
        conf.insert("master".into(), json!(parent));
    }
    if let Some(mtu) = options.number::<Mtu>(MTU.name)? {
        conf.insert("mtu".into(), json!(mtu));
    }
    let metric = options.number::<u32>(METRIC.name)?;
    let mut ipam = host_local(request);
    if !request.internal && !options.flag(NO_DEFAULT_ROUTE.name, false)? {
        ipam["routes"] = default_routes(request, metric);
    }
    if !request.dns.is_empty() {
        conf.insert("dns".into(), json!(request.dns));
    }
    conf.insert("ipam".into(), ipam);
    Ok(conf)
}
