//! The conflist of a network of the manager.

use serde_json::{Value, json};
use weft_cni::Failure;
use weft_plan::ipvlan::{Flag, Mode};
use weft_plugin::{ComposeRequest, OptionAbout, Options, on_parent};

/// The options of `weft network create -d ipvlan`, with docker's and podman's names for them.
pub(crate) const OPTIONS: &[OptionAbout] = &[
    on_parent::PARENT,
    OptionAbout {
        name: "ipvlan_mode",
        aliases: &["mode"],
        value: "l2|l3|l3s",
        default: "l2",
        help: "whether the parent passes on frames, packets, or packets that pass the host's firewall",
    },
    OptionAbout::new(
        "ipvlan_flag",
        "bridge|private|vepa",
        "bridge",
        "whether containers on one parent reach each other",
    ),
    on_parent::MTU,
    on_parent::METRIC,
    on_parent::NO_DEFAULT_ROUTE,
];

/// Returns the plugins of the network's conflist.
pub(crate) fn compose(request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
    let options = Options { about: &crate::ABOUT, given: &request.options };
    options.refuse_unknown()?;
    let mut conf = on_parent::compose("ipvlan", &options, request)?;
    conf.insert("capabilities".into(), json!({"ips": true}));
    if let Some(mode) = options.one_of("ipvlan_mode", &Mode::ALL.map(Mode::as_str))? {
        conf.insert("mode".into(), json!(mode));
    }
    if let Some(flag) = options.one_of("ipvlan_flag", &Flag::ALL.map(Flag::as_str))? {
        conf.insert("flag".into(), json!(flag));
    }
    Ok(vec![Value::Object(conf)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(options: &Value) -> Result<Value, Failure> {
        let request = json!({
            "name": "wire", "id": "07".repeat(32), "options": options,
            "subnets": [{"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}],
        });
        let request: ComposeRequest = serde_json::from_value(request).unwrap();
        compose(&request).map(|mut plugins| plugins.remove(0))
    }

    #[test]
    fn a_network_on_a_link_of_the_host() {
        let options = json!({"parent": "eth0", "ipvlan_mode": "l3", "ipvlan_flag": "vepa", "mtu": "1400"});
        let conf = composed(&options).unwrap();
        assert_eq!((&conf["type"], &conf["master"]), (&json!("ipvlan"), &json!("eth0")));
        assert_eq!(
            (&conf["mode"], &conf["flag"], &conf["mtu"]),
            (&json!("l3"), &json!("vepa"), &json!(1400))
        );
        assert_eq!(conf["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (options, text) in [
            (json!({"ipvlan_mode": "bridge"}), "option ipvlan_mode=bridge: no such value"),
            (json!({"ipvlan_flag": "l2"}), "option ipvlan_flag=l2: no such value"),
            (json!({"icc": "true"}), "the ipvlan driver has no option \"icc\""),
        ] {
            let failure = composed(&options).unwrap_err();
            assert!(failure.msg.starts_with(text), "{}", failure.msg);
        }
    }
}
