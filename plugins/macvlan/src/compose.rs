//! The conflist of a network of the manager.

use serde_json::{Value, json};
use weft_cni::Failure;
use weft_plan::macvlan::Mode;
use weft_plugin::{ComposeRequest, OptionAbout, Options, bad_option, on_parent};

/// The options of `weft network create -d macvlan`, with docker's and podman's names for them.
pub(crate) const OPTIONS: &[OptionAbout] = &[
    on_parent::PARENT,
    OptionAbout {
        name: "macvlan_mode",
        aliases: &["mode"],
        value: "bridge|private|vepa|passthru",
        default: "bridge",
        help: "whether containers on one parent reach each other",
    },
    OptionAbout::new("bclim", "NUMBER", "1", "from how many receivers on broadcasts wait; -1 for never"),
    on_parent::MTU,
    on_parent::METRIC,
    on_parent::NO_DEFAULT_ROUTE,
];

/// Returns the plugins of the network's conflist.
pub(crate) fn compose(request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
    let options = Options { about: &crate::ABOUT, given: &request.options };
    options.refuse_unknown()?;
    let mut conf = on_parent::compose("macvlan", &options, request)?;
    conf.insert("capabilities".into(), json!({"ips": true, "mac": true}));
    if let Some(mode) = options.one_of("macvlan_mode", &Mode::ALL.map(Mode::as_str))? {
        conf.insert("mode".into(), json!(mode));
    }
    if let Some(limit) = options.get("bclim") {
        let limit: i32 = limit.parse().map_err(|error| bad_option("bclim", limit, &error))?;
        conf.insert("bclim".into(), json!(limit));
    }
    Ok(vec![Value::Object(conf)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(internal: bool, options: &Value) -> Result<Value, Failure> {
        let request = json!({
            "name": "wire", "id": "07".repeat(32), "internal": internal, "options": options,
            "subnets": [
                {"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}, {"subnet": "fd00::/64", "gateway": "fd00::1"},
            ],
        });
        let request: ComposeRequest = serde_json::from_value(request).unwrap();
        compose(&request).map(|mut plugins| plugins.remove(0))
    }

    #[test]
    fn a_network_on_a_link_of_the_host() {
        let options = json!({"parent": "eth0", "macvlan_mode": "private", "mtu": "1400", "metric": "99", "bclim": "-1"});
        let conf = composed(false, &options).unwrap();
        assert_eq!((&conf["type"], &conf["master"]), (&json!("macvlan"), &json!("eth0")));
        assert_eq!(
            (&conf["mode"], &conf["mtu"], &conf["bclim"]),
            (&json!("private"), &json!(1400), &json!(-1))
        );
        let routes = json!([{"dst": "0.0.0.0/0", "priority": 99}, {"dst": "::/0", "priority": 99}]);
        assert_eq!(conf["ipam"]["routes"], routes);
    }

    #[test]
    fn without_a_way_out_there_is_no_default_route() {
        let plain = composed(false, &json!({})).unwrap();
        assert_eq!(plain["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(plain.get("master"), None);
        assert_eq!(composed(true, &json!({})).unwrap()["ipam"].get("routes"), None);
        assert_eq!(composed(false, &json!({"no_default_route": ""})).unwrap()["ipam"].get("routes"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (options, text) in [
            (json!({"parent": "a/b"}), "option parent=a/b: "),
            (json!({"macvlan_mode": "l2"}), "option macvlan_mode=l2: no such value"),
            (json!({"mtu": "9"}), "option mtu=9: MTU 9 is not between 68 and 65535"),
            (json!({"metric": "-1"}), "option metric=-1: "),
            (json!({"bclim": "x"}), "option bclim=x: "),
            (json!({"icc": "true"}), "the macvlan driver has no option \"icc\""),
        ] {
            let failure = composed(false, &options).unwrap_err();
            assert!(failure.msg.starts_with(text), "{}", failure.msg);
        }
    }
}
