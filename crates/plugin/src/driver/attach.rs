//! What the manager says of one container, in the request's `args.weft`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use weft_cni::{Code, Failure, json};
use weft_model::IfName;
use weft_plan::{Plan, Sysctl};

use super::Leases;
use crate::Call;

/// The keys of `args.weft` that every driver honours. The whole object goes into the record.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerRequest {
    /// The metric of default routes that have none.
    gateway_metric: Option<u32>,
    /// Settings below `net/` of the container; `IFNAME` stands for the interface's name.
    sysctl: BTreeMap<String, String>,
}

impl ContainerRequest {
    /// Reads `args.weft`.
    ///
    /// # Errors
    ///
    /// If a value has the wrong type, or a sysctl is none of the container's network settings.
    pub fn of(call: &Call) -> Result<(Self, Value), Failure> {
        let Some(written) = json::get(&call.conf.args, "weft") else {
            return Ok((Self::default(), Value::Null));
        };
        let request: Self = json::from_value(written)
            .map_err(|error| Failure::new(Code::InvalidConfig, error.under("weft").under("args")))?;
        for key in request.sysctl.keys() {
            check_key(key)?;
        }
        Ok((request, written.clone()))
    }

    /// Gives default routes without a metric the one asked for.
    pub fn adjust(&self, leases: &mut Leases) {
        let is_default = |route: &&mut weft_cni::Route| route.dst.prefix() == 0 && route.priority.is_none();
        for route in leases.routes.iter_mut().filter(is_default) {
            route.priority = self.gateway_metric;
        }
    }

    /// Adds the sysctls to a plan.
    pub fn configure(&self, plan: &mut Plan, ifname: &IfName) {
        for (key, value) in &self.sysctl {
            let path = key.replace('.', "/").replacen("IFNAME", ifname.as_str(), 1);
            plan.container(Sysctl::set(path, value));
        }
    }
}

fn check_key(key: &str) -> Result<(), Failure> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    let inside = key.starts_with("net.") || key.starts_with("net/");
    if inside && key.chars().all(ok) && !key.contains("..") {
        return Ok(());
    }
    let text = format!("invalid net sysctl key: {key:?}");
    Err(Failure::text(Code::InvalidConfig, text).with_hint(Some("keys start with `net.`".into())))
}
