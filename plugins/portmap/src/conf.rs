//! The configuration as written, then as meant.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use weft_cni::address::parse_ip;
use weft_firewall::{Backend, is_chain_name};
use weft_model::Gateways;
use weft_model::port::PublishSpec;
use weft_state::ports::Mark;

use crate::mapping::{Mapping, MappingError};

/// The portmap configuration exactly as it appears in a conflist, with what the runtime adds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Vec<String>,
    gateway_mode: Gateways,
    #[serde(rename = "defaultHostIP", deserialize_with = "one_or_several")]
    default_host_ip: Vec<String>,
    #[serde(rename = "allowForeignHostIP")]
    allow_foreign_host_ip: bool,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<Mapping>,
}

/// One address needs no list.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::One(text) => vec![text],
        Written::Several(texts) => texts,
    })
}

/// What the plugin will do, but for what depends on the container's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who carries the rules.
    pub backend: Backend,
    /// Whether connections from the container's own subnets and from loopback addresses get the host's address.
    pub snat: bool,
    /// Whether all connections to the published ports do.
    pub masquerade_all: bool,
    /// How iptables knows which.
    pub mark: Mark,
    /// Further matches for IPv4, in the backend's language.
    pub conditions_v4: Vec<String>,
    /// The same for IPv6.
    pub conditions_v6: Vec<String>,
    /// The network's gateway modes.
    pub gateways: Gateways,
    /// Where ports are published for which no address was named. Empty means on all of the host's.
    pub default_hosts: Vec<IpAddr>,
    /// Whether ports of addresses that are not the host's may be published.
    pub foreign_hosts: bool,
    /// What is to be published.
    pub specs: Vec<PublishSpec>,
}

/// Why a configuration is not legal. The texts are those of the reference plugin where it has them; its users
/// and tests search for them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The backend is unknown.
    #[error("unrecognized backend {0:?}")]
    Backend(String),
    /// An option goes with another backend.
    #[error("{asked} backend was requested but configuration contains {other}-specific options [{}]", .options.join(" "))]
    WrongBackend {
        /// The backend.
        asked: Backend,
        /// The backend the options are for.
        other: Backend,
        /// The options.
        options: Vec<&'static str>,
    },
    /// Two ways to mark packets.
    #[error("Cannot specify externalSetMarkChain and markMasqBit")]
    TwoMarks,
    /// The chain that marks can have no such name.
    #[error("externalSetMarkChain {0:?} is no name of a chain")]
    MarkChain(String),
    /// A condition that would end the rule it is for.
    #[error("{option} has {word:?}, which is more than a condition")]
    Condition {
        /// The option.
        option: &'static str,
        /// The word.
        word: String,
    },
    /// The mark has 32 bits.
    #[error("MasqMarkBit must be between 0 and 31")]
    MarkBit,
    /// A default address is no address.
    #[error("invalid defaultHostIP {0:?}")]
    DefaultHost(String),
    /// Two default addresses of a family.
    #[error("defaultHostIP has two addresses of one family: {0} and {1}")]
    DefaultHosts(IpAddr, IpAddr),
    /// An entry of `portMappings`.
    #[error("{0}")]
    Mapping(#[from] MappingError),
}

impl Conf {
    /// Says what was meant. The backend without a name is asked for with `usual`.
    ///
    /// # Errors
    ///
    /// If a value or a combination of values is not legal.
    pub fn settle(self, usual: impl FnOnce() -> Backend) -> Result<Rules, ConfError> {
        let mark = self.mark()?;
        let snat = self.snat.unwrap_or(true);
        let backend = self.backend(usual)?;
        self.check_conditions(backend)?;
        let default_hosts = self.default_hosts()?;
        let specs = self.runtime_config.port_mappings.into_iter().map(Mapping::settle);
        Ok(Rules {
            backend,
            snat,
            masquerade_all: self.masq_all && snat,
            mark,
            gateways: self.gateway_mode,
            default_hosts,
            foreign_hosts: self.allow_foreign_host_ip,
            specs: specs.collect::<Result<_, _>>()?,
            conditions_v4: self.conditions_v4,
            conditions_v6: self.conditions_v6,
        })
    }

    fn mark(&self) -> Result<Mark, ConfError> {
        match (self.mark_masq_bit, &self.external_set_mark_chain) {
            (Some(_), Some(_)) => Err(ConfError::TwoMarks),
            (None, Some(chain)) if is_chain_name(chain) => Ok(Mark::Chain(chain.clone())),
            (None, Some(chain)) => Err(ConfError::MarkChain(chain.clone())),
            (None, None) => Ok(Mark::default()),
            (Some(bit), None) => {
                u8::try_from(bit).ok().filter(|bit| *bit < 32).map(Mark::Bit).ok_or(ConfError::MarkBit)
            }
        }
    }

    /// Without a name, the backend is the one whose language the options speak.
    fn backend(&self, usual: impl FnOnce() -> Backend) -> Result<Backend, ConfError> {
        let options = self.languages();
        let of = |backend| -> Vec<&'static str> {
            options.iter().filter(|(language, _)| *language == backend).map(|(_, option)| *option).collect()
        };
        let (iptables, nftables) = (of(Backend::Iptables), of(Backend::UpstreamNftables));
        let asked = match self.backend.as_deref() {
            None | Some("") if !iptables.is_empty() => Backend::Iptables,
            None | Some("") if !nftables.is_empty() => Backend::UpstreamNftables,
            None | Some("") => usual(),
            Some("weft") => Backend::Weft,
            Some("iptables") => Backend::Iptables,
            Some("nftables") => Backend::UpstreamNftables,
            Some(name) => return Err(ConfError::Backend(name.into())),
        };
        let languages = [(Backend::Iptables, iptables), (Backend::UpstreamNftables, nftables)];
        let wrong = languages.into_iter().find(|(language, used)| *language != asked && !used.is_empty());
        match wrong {
            Some((other, options)) => Err(ConfError::WrongBackend { asked, other, options }),
            None => Ok(asked),
        }
    }

    /// The options that go with one backend only, each with that backend.
    fn languages(&self) -> Vec<(Backend, &'static str)> {
        let chain = self.external_set_mark_chain.as_ref().map(|_| Backend::Iptables);
        [
            (chain, "externalSetMarkChain"),
            (language(&self.conditions_v4), "conditionsV4"),
            (language(&self.conditions_v6), "conditionsV6"),
        ]
        .into_iter()
        .filter_map(|(backend, option)| Some((backend?, option)))
        .collect()
    }

    /// A condition is words of one rule. In nft's language a semicolon ends the rule, and a hash sign what is read of it.
    fn check_conditions(&self, backend: Backend) -> Result<(), ConfError> {
        let ends = |c: char| c.is_control() || backend == Backend::UpstreamNftables && matches!(c, ';' | '#');
        for (option, words) in [("conditionsV4", &self.conditions_v4), ("conditionsV6", &self.conditions_v6)]
        {
            if let Some(word) = words.iter().find(|word| word.contains(ends)) {
                return Err(ConfError::Condition { option, word: word.clone() });
            }
        }
        Ok(())
    }

    fn default_hosts(&self) -> Result<Vec<IpAddr>, ConfError> {
        let mut hosts: Vec<IpAddr> = Vec::new();
        for text in self.default_host_ip.iter().filter(|text| !text.is_empty()) {
            let host = parse_ip(text).map_err(|_| ConfError::DefaultHost(text.clone()))?.to_canonical();
            if let Some(other) = hosts.iter().find(|other| other.is_ipv4() == host.is_ipv4()) {
                return Err(ConfError::DefaultHosts(*other, host));
            }
            hosts.push(host);
        }
        Ok(hosts)
    }
}

/// Every condition of iptables begins with a hyphen or an exclamation mark, and none of nft's does.
fn language(conditions: &[String]) -> Option<Backend> {
    let first = conditions.first()?.chars().next()?;
    Some(if matches!(first, '-' | '!') { Backend::Iptables } else { Backend::UpstreamNftables })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settle(conf: Value) -> Result<Rules, String> {
        let conf: Conf = weft_cni::json::from_value(&conf).unwrap();
        conf.settle(|| Backend::Weft).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_value() {
        let rules = settle(json!({})).unwrap();
        let expected = Rules {
            backend: Backend::Weft,
            snat: true,
            masquerade_all: false,
            mark: Mark::Bit(13),
            conditions_v4: Vec::new(),
            conditions_v6: Vec::new(),
            gateways: Gateways::default(),
            default_hosts: Vec::new(),
            foreign_hosts: false,
            specs: Vec::new(),
        };
        assert_eq!(rules, expected);
        assert_eq!(
            settle(json!({"snat": null, "markMasqBit": null, "conditionsV4": null})).unwrap(),
            expected
        );
    }

    #[test]
    fn keys_are_read_in_any_case() {
        let rules = settle(json!({
            "SNAT": true, "masqall": true, "MarkMasqBit": 0, "gatewaymode": {"IPv6": "routed"},
            "DefaultHostIP": ["127.0.0.1", "::1"], "allowforeignhostip": true,
            "RuntimeConfig": {"PortMappings": [{"HostPort": 8080, "ContainerPort": 80, "HostIP": "10.0.0.1"}]},
        }))
        .unwrap();
        assert!(rules.snat && rules.masquerade_all && rules.foreign_hosts);
        assert_eq!(rules.mark, Mark::Bit(0));
        assert_eq!(rules.gateways.to_string(), "nat for IPv4, routed for IPv6");
        assert_eq!(rules.default_hosts.len(), 2);
        assert_eq!(rules.specs[0].to_string(), "10.0.0.1:8080:80/tcp");
        let neither = settle(json!({"snat": false, "masqAll": true})).unwrap();
        assert!(!neither.snat && !neither.masquerade_all, "as the reference plugin has it");
        let one = settle(json!({"defaultHostIP": "127.0.0.1"})).unwrap();
        assert_eq!(one.default_hosts, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_backend_is_chosen_by_name_or_by_language() {
        let table = [
            (json!({"backend": "weft"}), Backend::Weft),
            (json!({"backend": "iptables"}), Backend::Iptables),
            (json!({"backend": "nftables"}), Backend::UpstreamNftables),
            (json!({"backend": ""}), Backend::Weft),
            (json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), Backend::Iptables),
            (json!({"conditionsV4": ["!", "-s", "10.0.0.0/8"]}), Backend::Iptables),
            (json!({"conditionsV6": ["-i", "eth0"]}), Backend::Iptables),
            (json!({"conditionsV4": ["ip", "saddr", "10.0.0.0/8"]}), Backend::UpstreamNftables),
            (json!({"conditionsV4": [""], "conditionsV6": []}), Backend::Weft),
            (json!({"backend": "nftables", "conditionsV6": ["iifname", "eth0"]}), Backend::UpstreamNftables),
        ];
        for (conf, backend) in table {
            assert_eq!(settle(conf.clone()).unwrap().backend, backend, "{conf}");
        }
    }

    #[test]
    fn what_is_not_legal_says_which_key() {
        let table = [
            (json!({"backend": "ebpf"}), "unrecognized backend \"ebpf\""),
            (
                json!({"backend": "iptables", "conditionsV4": ["aaa", "bbbb"], "conditionsV6": ["ccc"]}),
                "iptables backend was requested but configuration contains nftables-specific options [conditionsV4 conditionsV6]",
            ),
            (
                json!({"backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ",
                    "conditionsV4": ["-a", "b"], "conditionsV6": ["-c", "d"]}),
                "nftables backend was requested but configuration contains iptables-specific options [externalSetMarkChain conditionsV4 conditionsV6]",
            ),
            (
                json!({"conditionsV4": ["-a"], "conditionsV6": ["b"]}),
                "iptables backend was requested but configuration contains nftables-specific options [conditionsV6]",
            ),
            (
                json!({"backend": "weft", "conditionsV4": ["-a"]}),
                "weft backend was requested but configuration contains iptables-specific options [conditionsV4]",
            ),
            (
                json!({"markMasqBit": 5, "externalSetMarkChain": "X"}),
                "Cannot specify externalSetMarkChain and markMasqBit",
            ),
            (
                json!({"externalSetMarkChain": "KEEP\n-F VICTIM"}),
                "externalSetMarkChain \"KEEP\\n-F VICTIM\" is no name of a chain",
            ),
            (json!({"externalSetMarkChain": ""}), "externalSetMarkChain \"\" is no name of a chain"),
            (
                json!({"conditionsV4": ["-s", "10.0.0.0/8\n-F"]}),
                "conditionsV4 has \"10.0.0.0/8\\n-F\", which is more than a condition",
            ),
            (
                json!({"conditionsV6": ["iifname", "up0; flush ruleset"]}),
                "conditionsV6 has \"up0; flush ruleset\", which is more than a condition",
            ),
            (json!({"markMasqBit": 32}), "MasqMarkBit must be between 0 and 31"),
            (json!({"markMasqBit": -1}), "MasqMarkBit must be between 0 and 31"),
            (json!({"defaultHostIP": ["all"]}), "invalid defaultHostIP \"all\""),
            (
                json!({"defaultHostIP": ["127.0.0.1", "127.0.0.2"]}),
                "defaultHostIP has two addresses of one family: 127.0.0.1 and 127.0.0.2",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}}),
                "Invalid host port number: 0",
            ),
        ];
        for (conf, why) in table {
            assert_eq!(settle(conf.clone()).unwrap_err(), why, "{conf}");
        }
    }
}
