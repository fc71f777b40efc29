//! Which addresses: as written in four places, then as meant.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use weft_cni::address::{deserialize_optional_ip, parse_cidr, parse_ip};
use weft_cni::{Code, Dns, Failure, IpConfig, Route};
use weft_plugin::Call;

/// The `ipam` object exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    address: String,
    #[serde(deserialize_with = "deserialize_optional_ip")]
    gateway: Option<IpAddr>,
}

/// What the plugin gives.
#[derive(Debug, PartialEq)]
pub struct Settings {
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes, several to one destination included.
    pub routes: Vec<Route>,
    /// The name service.
    pub dns: Dns,
}

/// Why a text is not an address to give. The texts are the reference implementation's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// In `ipam.addresses`.
    #[error("the 'address' field is expected to be in CIDR notation, got: '{0}'")]
    Address(String),
    /// In `IP` of `CNI_ARGS`.
    #[error("the 'ip' field is expected to be in CIDR notation, got: '{0}'")]
    Ip(String),
    /// In `GATEWAY` of `CNI_ARGS`.
    #[error("invalid gateway address: {0}")]
    Gateway(String),
    /// In `args.cni.ips` or `runtimeConfig.ips`.
    #[error("an entry in the 'ips' field is NOT in CIDR notation, got: '{0}'")]
    Entry(String),
}

impl From<ConfError> for Failure {
    fn from(error: ConfError) -> Self {
        let code = match error {
            ConfError::Address(_) | ConfError::Entry(_) => Code::InvalidConfig,
            ConfError::Ip(_) | ConfError::Gateway(_) => Code::InvalidEnvironment,
        };
        Self::new(code, error)
    }
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// CNI: `CNI_ARGS` adds to the configuration; `args` replaces both and the runtime's `ips` all three. Their
    /// entries have no gateway.
    ///
    /// # Errors
    ///
    /// When a text is not an address with a prefix length, or there are more addresses than the version can hold.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let conf: Conf = call.conf.ipam()?;
        let mut ips = Vec::with_capacity(conf.addresses.len());
        for Address { address, gateway } in conf.addresses {
            ips.push(IpConfig { address: cidr(&address, ConfError::Address)?, gateway, interface: None });
        }
        add_from_environment(call, &mut ips)?;
        let replacements = [call.conf.cni_arg::<Vec<String>>("ips")?, call.conf.capability("ips")?];
        for entries in replacements.into_iter().flatten().filter(|entries| !entries.is_empty()) {
            let parse = |entry: &String| cidr(entry, ConfError::Entry).map(bare);
            ips = entries.iter().map(parse).collect::<Result<_, _>>()?;
        }
        call.conf.allows_addresses(ips.iter().map(|ip| ip.address))?;
        Ok(Self { ips, routes: conf.routes, dns: conf.dns })
    }

    /// Returns the first address that was not given, or with another gateway.
    ///
    /// The reference implementation lets an address that was not given pass.
    pub(crate) fn check(&self, given: &[IpConfig]) -> Result<(), IpAddr> {
        let is_given = |wanted: &&IpConfig| {
            given.iter().any(|ip| {
                ip.address == wanted.address && (wanted.gateway.is_none() || wanted.gateway == ip.gateway)
            })
        };
        match self.ips.iter().find(|wanted| !is_given(wanted)) {
            Some(lost) => Err(lost.address.ip()),
            None => Ok(()),
        }
    }
}

fn add_from_environment(call: &Call, ips: &mut Vec<IpConfig>) -> Result<(), Failure> {
    let args = call.cni_args(&["IP", "GATEWAY"])?;
    for entry in entries(args.get("IP")) {
        ips.push(bare(cidr(entry, ConfError::Ip)?));
    }
    for entry in entries(args.get("GATEWAY")) {
        let gateway = parse_ip(entry).map_err(|_| ConfError::Gateway(entry.into()))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(())
}

/// Returns the parts of a list with commas; an empty value is an empty list.
fn entries(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.filter(|list| !list.is_empty()).into_iter().flat_map(|list| list.split(',')).map(str::trim)
}

fn cidr(text: &str, error: fn(String) -> ConfError) -> Result<IpNetwork, ConfError> {
    parse_cidr(text).map_err(|_| error(text.into()))
}

fn bare(address: IpNetwork) -> IpConfig {
    IpConfig { address, gateway: None, interface: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_cni::{NetConf, Verb};

    use super::*;

    fn call(mut conf: Value, args: &str) -> Call {
        let object = conf.as_object_mut().unwrap();
        object.entry("cniVersion").or_insert("1.0.0".into());
        object.insert("name".into(), "n".into());
        let stdin = conf.to_string().into_bytes();
        Call {
            verb: Verb::Add,
            conf: NetConf::parse(&stdin).unwrap(),
            stdin,
            paths: Vec::new(),
            root: weft_state::Root::new(None),
            args: args.into(),
            linked: weft_plugin::Linked::default(),
        }
    }

    /// Returns the addresses and gateways as text.
    fn ips(conf: Value, args: &str) -> Result<Vec<String>, (u32, String)> {
        let settings =
            Settings::of(&call(conf, args)).map_err(|failure| (failure.code.number(), failure.msg))?;
        let gateway = |ip: &IpConfig| ip.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        Ok(settings.ips.iter().map(|ip| format!("{}{}", ip.address, gateway(ip))).collect())
    }

    fn configured() -> Value {
        json!({ "addresses": [
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "3ffe:ffff:0:1FF::1/64", "gateway": "3ffe:ffff:0::1" },
        ] })
    }

    #[test]
    fn the_configuration_is_given_as_it_is() {
        let expected = ["10.10.0.1/24 via 10.10.0.254", "3ffe:ffff:0:1ff::1/64 via 3ffe:ffff::1"];
        assert_eq!(ips(json!({ "ipam": configured() }), "").unwrap(), expected);
        let keys = json!({ "IPAM": { "Addresses": [{ "ADDRESS": "10.0.0.1/8", "Gateway": "" }] } });
        assert_eq!(ips(keys, "").unwrap(), ["10.0.0.1/8"]);
        assert!(ips(json!({ "ipam": {} }), "").unwrap().is_empty());

        let routes = json!([
            { "dst": "0.0.0.0/0", "gw": "10.0.0.1" }, { "dst": "0.0.0.0/0", "gw": "10.0.0.2" }, { "dst": "::/0" },
        ]);
        let dns = json!({ "nameservers": ["8.8.8.8"] });
        let settings = Settings::of(&call(json!({ "ipam": { "routes": routes, "dns": dns } }), "")).unwrap();
        let gateways: Vec<_> =
            settings.routes.iter().map(|route| route.gw.map(|gw| gw.to_string())).collect();
        assert_eq!(gateways, [Some("10.0.0.1".into()), Some("10.0.0.2".into()), None]);
        assert_eq!(settings.dns.nameservers.unwrap(), ["8.8.8.8"]);
    }

    #[test]
    fn the_environment_adds_addresses_and_sets_gateways() {
        let args = "IP=10.10.0.2/24, 11.11.0.1/24;GATEWAY=10.10.0.9,11.11.0.254,12.0.0.1";
        let expected = [
            "10.10.0.1/24 via 10.10.0.9",
            "3ffe:ffff:0:1ff::1/64 via 3ffe:ffff::1",
            "10.10.0.2/24 via 10.10.0.9",
            "11.11.0.1/24 via 11.11.0.254",
        ];
        assert_eq!(ips(json!({ "ipam": configured() }), args).unwrap(), expected);
        assert_eq!(ips(json!({ "ipam": {} }), "IP=10.0.0.1/8;IgnoreUnknown=1;A=b").unwrap(), ["10.0.0.1/8"]);
        assert!(ips(json!({ "ipam": {} }), "IP=;GATEWAY=").unwrap().is_empty());
    }

    #[test]
    fn args_replace_the_configuration_and_the_runtime_replaces_args() {
        let args = json!({ "cni": { "ips": ["10.10.0.3/24"] } });
        let runtime = json!({ "IPs": ["10.10.0.4/24", "3ffe::4/64"] });
        let env = "IP=10.10.0.2/24;GATEWAY=10.10.0.9";
        let with = |args: Value, runtime: Value| {
            ips(json!({ "ipam": configured(), "args": args, "runtimeConfig": runtime }), env).unwrap()
        };
        assert_eq!(with(args.clone(), json!(null)), ["10.10.0.3/24"]);
        assert_eq!(with(args.clone(), runtime.clone()), ["10.10.0.4/24", "3ffe::4/64"]);
        assert_eq!(with(json!(null), runtime), ["10.10.0.4/24", "3ffe::4/64"]);
        assert_eq!(with(args, json!({ "ips": [] })), ["10.10.0.3/24"]);
        assert_eq!(with(json!({ "cni": { "ips": [] } }), json!({})).len(), 3);
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        let ipam = |value: Value| json!({ "ipam": value });
        let address = |text: &str| ipam(json!({ "addresses": [{ "address": text }] }));
        let with = |key: &str, value: Value| {
            let mut conf = ipam(json!({}));
            conf[key] = value;
            conf
        };
        let field = |what: &str, got: &str| {
            format!("the '{what}' field is expected to be in CIDR notation, got: '{got}'")
        };
        let entry = |got: &str| format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{got}'");
        for (conf, args, code, msg) in [
            (json!({}), "", 7, "IPAM config missing 'ipam' key".into()),
            (json!({ "ipam": null }), "IP=10.0.0.1/8", 7, "IPAM config missing 'ipam' key".into()),
            (address("10.10.0.1"), "", 7, field("address", "10.10.0.1")),
            (address("10.10.0.1/33"), "", 7, field("address", "10.10.0.1/33")),
            (address(""), "", 7, field("address", "")),
            (ipam(json!({})), "IP=10.10.0.1", 4, field("ip", "10.10.0.1")),
            (ipam(json!({})), "IP=10.0.0.1/8,x", 4, field("ip", "x")),
            (ipam(json!({})), "IP=10.0.0.1/8;GATEWAY=x", 4, "invalid gateway address: x".into()),
            (ipam(json!({})), "MAC=x", 4, r#"ARGS: unknown args ["MAC=x"]"#.into()),
            (with("args", json!({ "cni": { "ips": ["10.0.0.1"] } })), "", 7, entry("10.0.0.1")),
            (with("runtimeConfig", json!({ "ips": ["x/8"] })), "", 7, entry("x/8")),
            (
                with("runtimeConfig", json!({ "ips": 1 })),
                "",
                7,
                "runtimeConfig.ips: invalid type: integer `1`, expected a sequence".into(),
            ),
            (
                ipam(json!({ "addresses": [{ "address": "10.0.0.1/8", "gateway": "x" }] })),
                "",
                7,
                "ipam.addresses[0].gateway: invalid IP address: x".into(),
            ),
            (
                ipam(json!({ "routes": [{ "dst": "0.0.0.0/0" }, { "gw": "10.0.0.1" }] })),
                "",
                7,
                "ipam.routes[1]: missing field `dst`".into(),
            ),
        ] {
            assert_eq!(ips(conf.clone(), args), Err((code, msg)), "{conf} {args}");
        }
    }

    #[test]
    fn old_versions_have_room_for_one_address_of_each_family() {
        for version in ["0.1.0", "0.2.0"] {
            assert_eq!(ips(json!({ "cniVersion": version, "ipam": configured() }), "").unwrap().len(), 2);
            let failure =
                ips(json!({ "cniVersion": version, "ipam": configured() }), "IP=10.0.0.1/8").unwrap_err();
            assert_eq!(
                failure.1,
                format!("CNI version {version} does not support more than 1 address per family")
            );
        }
    }

    #[test]
    fn a_check_finds_what_was_not_given() {
        let settings = Settings::of(&call(json!({ "ipam": configured() }), "IP=10.0.0.5/8")).unwrap();
        let mut given = settings.ips.clone();
        assert_eq!(settings.check(&given), Ok(()));
        given[2].gateway = Some("10.0.0.1".parse().unwrap());
        assert_eq!(settings.check(&given), Ok(()), "nobody asked for a gateway");
        given[0].gateway = None;
        assert_eq!(settings.check(&given), Err("10.10.0.1".parse().unwrap()));
        assert_eq!(settings.check(&settings.ips[..2]), Err("10.0.0.5".parse().unwrap()));
    }
}
