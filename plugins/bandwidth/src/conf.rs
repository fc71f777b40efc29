//! The configuration as written, then as meant.

use ipnetwork::IpNetwork;
use serde::Deserialize;
use weft_cni::{Code, Failure, NetworkResult};
use weft_model::IfName;
use weft_plan::{Rate, Share};
use weft_plugin::Call;

/// How long a packet may wait in the bucket's queue, in thousandths of a second, as the reference plugin has it.
const PATIENCE: u128 = 25;

/// The bandwidth configuration exactly as it appears in a conflist, and `runtimeConfig.bandwidth`: bits a second, and bits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    /// What the container receives.
    pub ingress_rate: u64,
    /// How much of it may come at once.
    pub ingress_burst: u64,
    /// What it sends.
    pub egress_rate: u64,
    /// How much of it may go at once.
    pub egress_burst: u64,
    /// Whom it talks to at any rate.
    pub unshaped_subnets: Vec<String>,
    /// Whom alone it talks to at that rate.
    pub shaped_subnets: Vec<String>,
}

/// What the plugin will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How fast the container receives.
    pub ingress: Option<Rate>,
    /// How fast it sends.
    pub egress: Option<Rate>,
    /// What of it is shaped.
    pub traffic: Share,
    /// The interfaces of the previous result that are in the host; unknown without a result.
    pub candidates: Option<Vec<String>>,
    /// The host's end of the container's pair, once it was found.
    pub host_end: Option<IfName>,
    /// Whether things are taken apart.
    pub dismantles: bool,
}

/// Why a configuration is not legal. The texts are those of the reference plugin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The plugin is not behind another one.
    #[error("must be called as chained plugin")]
    NotChained,
    /// A rate without a burst.
    #[error("if rate is set, burst must also be set")]
    NoBurst,
    /// A burst without a rate.
    #[error("if burst is set, rate must also be set")]
    NoRate,
    /// A burst that the kernel cannot count.
    #[error("burst cannot be more than 4GB")]
    Burst,
    /// Both lists of subnets.
    #[error("unshapedSubnets and shapedSubnets cannot be both specified, one of them should be discarded")]
    BothSubnets,
    /// A subnet that is none.
    #[error("bad subnet {0:?} provided, details {1}")]
    Subnet(String, String),
    /// The previous result has no interface.
    #[error("no interfaces provided")]
    NoInterfaces,
    /// No interface of the previous result is the other end of the container's.
    #[error("no veth peer of container interface found in host ns")]
    NoPeer,
}

/// What is not in the plugin's own keys and yet decides about it.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The runtime's wishes.
    pub runtime: Conf,
    /// What the plugins before this one made.
    pub previous: Option<NetworkResult>,
    /// Whether a container is being connected or looked at, which needs the previous result.
    pub connects: bool,
}

impl Conf {
    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// If a value is not legal.
    pub fn settle(self, around: Surroundings) -> Result<Settings, ConfError> {
        if around.connects && around.previous.is_none() {
            return Err(ConfError::NotChained);
        }
        // CNI: the configuration's rates beat the runtime's, all or none of them.
        let told = around.runtime;
        let speed = if self.is_silent() { &told } else { &self };
        let traffic = share(
            first(&self.unshaped_subnets, &told.unshaped_subnets),
            first(&self.shaped_subnets, &told.shaped_subnets),
        )?;
        let in_host = |result: NetworkResult| {
            let outside = |one: &weft_cni::Interface| one.sandbox.as_deref().unwrap_or_default().is_empty();
            let list = result.interfaces.into_iter().filter(outside).map(|one| one.name);
            list.collect()
        };
        Ok(Settings {
            ingress: rate(speed.ingress_rate, speed.ingress_burst)?,
            egress: rate(speed.egress_rate, speed.egress_burst)?,
            traffic,
            candidates: around.previous.map(in_host),
            host_end: None,
            dismantles: false,
        })
    }

    /// Returns whether no rate is given.
    fn is_silent(&self) -> bool {
        [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst] == [0; 4]
    }
}

fn first<'a>(own: &'a [String], told: &'a [String]) -> &'a [String] {
    if own.is_empty() { told } else { own }
}

fn rate(rate: u64, burst: u64) -> Result<Option<Rate>, ConfError> {
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (0, _) => return Err(ConfError::NoRate),
        (_, 0) => return Err(ConfError::NoBurst),
        _ => {}
    }
    let burst = u32::try_from(burst / 8).ok().filter(|burst| *burst < u32::MAX).ok_or(ConfError::Burst)?;
    // KERNEL: a rate of 0 is none, and less than a byte a second nobody means.
    let bytes = (rate / 8).max(1);
    let waiting = u128::from(bytes) * PATIENCE / 1000 + u128::from(burst);
    Ok(Some(Rate { rate: bytes, burst, limit: u32::try_from(waiting).unwrap_or(u32::MAX) }))
}

fn share(unshaped: &[String], shaped: &[String]) -> Result<Share, ConfError> {
    let read = |list: &[String]| list.iter().map(|text| subnet(text)).collect::<Result<Vec<_>, _>>();
    match (unshaped.is_empty(), shaped.is_empty()) {
        (true, true) => Ok(Share::All),
        (false, false) => Err(ConfError::BothSubnets),
        (false, true) => read(unshaped).map(Share::Except),
        (true, false) => read(shaped).map(Share::Only),
    }
}

fn subnet(text: &str) -> Result<IpNetwork, ConfError> {
    let bad = |why: String| ConfError::Subnet(text.into(), why);
    if !text.contains('/') {
        return Err(bad(format!("invalid CIDR address: {text}")));
    }
    text.parse().map_err(|error: ipnetwork::IpNetworkError| bad(error.to_string()))
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. Taken apart is whatever may have been made, by its name.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        if call.dismantles() {
            let any = Some(Rate { rate: 1, burst: 1, limit: 1 });
            return Ok(Self { ingress: any, egress: any, dismantles: true, ..Self::default() });
        }
        let connects = call.connects();
        let runtime = call.conf.capability("bandwidth")?.unwrap_or_default();
        let around = Surroundings { runtime, previous: call.conf.prev_result()?, connects };
        let refused = |error| Failure::new(Code::InvalidConfig, error);
        call.conf.conf::<Conf>()?.settle(around).map_err(refused)
    }

    /// Returns whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settle(conf: &Value) -> Result<Settings, String> {
        settle_with(conf, &json!({}))
    }

    fn settle_with(conf: &Value, runtime: &Value) -> Result<Settings, String> {
        let [conf, runtime] = [conf, runtime].map(|value| weft_cni::json::from_value::<Conf>(value).unwrap());
        conf.settle(Surroundings { runtime, ..Surroundings::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_bits_and_buckets_bytes() {
        let settings = settle(&json!({
            "IngressRate": 8_000_000, "ingressburst": 1_600_000, "egressRate": 80, "egressBurst": 80,
        }))
        .unwrap();
        assert_eq!(settings.ingress, Some(Rate { rate: 1_000_000, burst: 200_000, limit: 225_000 }));
        assert_eq!(settings.egress, Some(Rate { rate: 10, burst: 10, limit: 10 }));
        assert_eq!(settle(&json!({})).unwrap(), Settings::default());
    }

    #[test]
    fn the_configuration_beats_the_runtime_entirely() {
        let runtime = json!({"IngressRate": 16, "IngressBurst": 16, "egressRate": 16, "egressBurst": 16});
        let told = settle_with(&json!({}), &runtime).unwrap();
        assert!(told.ingress.is_some() && told.egress.is_some());
        let own = settle_with(&json!({"egressRate": 8, "egressBurst": 8}), &runtime).unwrap();
        assert_eq!((own.ingress, own.egress.map(|rate| rate.rate)), (None, Some(1)));
    }

    #[test]
    fn subnets_are_in_or_out() {
        let subnets =
            settle(&json!({"unshapedSubnets": ["10.0.0.0/8", "fd00:db8:abcd:1234:e000::/68"]})).unwrap();
        assert!(matches!(subnets.traffic, Share::Except(list) if list.len() == 2));
        let subnets = settle(&json!({"shapedSubnets": ["10.1.2.3/8"]})).unwrap();
        assert!(matches!(subnets.traffic, Share::Only(list) if list[0].network().to_string() == "10.0.0.0"));
    }

    #[test]
    fn each_bad_value_is_named() {
        let both = json!({"unshapedSubnets": ["10.0.0.0/8"], "shapedSubnets": ["10.0.0.0/8"]});
        for (conf, says) in [
            (json!({"ingressRate": 8}), "if rate is set, burst must also be set"),
            (json!({"egressBurst": 8}), "if burst is set, rate must also be set"),
            (json!({"egressRate": 8, "egressBurst": 34_359_738_360_u64}), "burst cannot be more than 4GB"),
            (both, "cannot be both specified"),
            (json!({"unshapedSubnets": ["10.0.0.0/8", "hello"]}), r#"bad subnet "hello" provided, details "#),
            (json!({"shapedSubnets": ["10.0.0.0/33"]}), r#"bad subnet "10.0.0.0/33" provided, details "#),
        ] {
            let told = settle(&conf).unwrap_err();
            assert!(told.contains(says), "{conf}: {told}");
        }
        let unchained = Surroundings { connects: true, ..Surroundings::default() };
        assert_eq!(Conf::default().settle(unchained), Err(ConfError::NotChained));
    }
}
