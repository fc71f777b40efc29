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
    /// Settings of the container's network, as sysctl(8) has their names; `IFNAME` stands for the interface's.
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
        let keyed = |(name, value)| Ok((key(name)?, value));
        let sysctl = request.sysctl.into_iter().map(keyed).collect::<Result<_, Failure>>()?;
        Ok((Self { sysctl, ..request }, written.clone()))
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
            plan.container(Sysctl::set_for(ifname, key, value));
        }
    }
}

fn key(name: String) -> Result<String, Failure> {
    Sysctl::key_of(&name).ok_or_else(|| {
        let text = format!("invalid net sysctl key: {name:?}");
        Failure::text(Code::InvalidConfig, text).with_hint(Some("keys start with `net.`".into()))
    })
}

#[cfg(test)]
mod tests {
    use weft_cni::Verb;

    use super::*;

    fn plan(sysctl: &Value) -> Result<String, String> {
        let conf = serde_json::json!({"name": "n", "args": {"weft": {"sysctl": sysctl}}});
        let call = Call::read(Verb::Add, conf.to_string().as_bytes()).unwrap();
        let (request, _) = ContainerRequest::of(&call).map_err(|failure| failure.msg)?;
        let mut plan = Plan::new();
        request.configure(&mut plan, &"eth0.5".parse().unwrap());
        Ok(plan.to_string())
    }

    #[test]
    fn a_dot_in_an_interfaces_name_is_no_separator() {
        for key in ["net.ipv4.conf.IFNAME.forwarding", "net/ipv4/conf/eth0.5/forwarding"] {
            let expected = "container  sysctl net/ipv4/conf/eth0.5/forwarding = 1\n";
            assert_eq!(plan(&serde_json::json!({ key: "1" })).unwrap(), expected);
        }
        for key in ["kernel.shmmax", "net/../kernel/shmmax", ""] {
            let told = plan(&serde_json::json!({ key: "1" })).unwrap_err();
            assert_eq!(told, format!("invalid net sysctl key: {key:?}"));
        }
    }
}
