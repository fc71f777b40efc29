//! What the configuration says of DHCP's options: which are asked for and which are told.

use serde::Deserialize;
use weft_cni::{CniArgs, Code, Failure, NetConf};

/// The options that are asked for unless all are chosen: subnet mask, routers, servers for names, domain, MTU, static
/// routes, domains to search in, classless static routes (RFC 2132, 3397, 3442).
const ASKED: [u8; 8] = [1, 3, 6, 15, 26, 33, 119, 121];

/// The option that tells who asks.
pub(crate) const CLIENT_ID: u8 = 61;
/// The option whose value is a list of texts, each with its length (RFC 3004).
const USER_CLASS: u8 = 77;

/// The `ipam` object exactly as it appears in a conflist.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Conf {
    /// The daemon's socket.
    pub(crate) daemon_socket_path: String,
    /// The metric of the routes.
    pub(crate) priority: Option<u32>,
    provide: Vec<Provide>,
    request: Vec<Request>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Provide {
    option: String,
    value: String,
    from_arg: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Request {
    option: String,
    skip_default: bool,
}

/// The options of a client's messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Codes that the server is asked for.
    pub(crate) asked: Vec<u8>,
    /// Codes and values that it is told.
    pub(crate) told: Vec<(u8, Vec<u8>)>,
}

impl Conf {
    /// Reads a network's configuration.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(crate) fn read(conf: &str) -> Result<Self, Failure> {
        NetConf::parse(conf.as_bytes())?.ipam()
    }

    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// Code 7 when an option is unknown, or its value is too long.
    pub(crate) fn options(&self, args: &str) -> Result<Options, Failure> {
        let mut options = Options::default();
        if !self.request.iter().any(|request| request.skip_default) {
            options.asked.extend(ASKED);
        }
        for request in &self.request {
            if request.option.is_empty() && request.skip_default {
                continue;
            }
            let code = code(&request.option)?;
            if !options.asked.contains(&code) {
                options.asked.push(code);
            }
        }
        for provide in &self.provide {
            let code = code(&provide.option)?;
            let from_args = argument(args, &provide.from_arg);
            let value = if provide.value.is_empty() { from_args.unwrap_or_default() } else { &provide.value };
            options.told.retain(|(other, _)| *other != code);
            options.told.push((code, encode(code, value)?));
        }
        Ok(options)
    }
}

/// CNI: the value of a pair may have further equals signs.
fn argument<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| !key.is_empty() && *name == key).map(|(_, value)| value).next()
}

fn code(option: &str) -> Result<u8, Failure> {
    match option {
        "dhcp-client-identifier" => Ok(CLIENT_ID),
        "subnet-mask" => Ok(1),
        "routers" => Ok(3),
        "host-name" => Ok(12),
        "user-class" => Ok(USER_CLASS),
        "vendor-class-identifier" => Ok(60),
        // 0 and 255 are no options: padding, and the end of all.
        number => number.parse().ok().filter(|code| !matches!(code, 0 | 255)).ok_or_else(|| {
            let text =
                format!("Can not parse option {option:?}: a name or a number from 1 to 254 is expected");
            Failure::text(Code::InvalidConfig, text)
        }),
    }
}

fn encode(code: u8, value: &str) -> Result<Vec<u8>, Failure> {
    let bytes = value.as_bytes();
    let limit = if code == USER_CLASS { 254 } else { 255 };
    if bytes.len() > limit {
        let text = format!("the value of option {code} has {} bytes, and {limit} fit", bytes.len());
        return Err(Failure::text(Code::InvalidConfig, text));
    }
    let length = u8::try_from(bytes.len()).unwrap_or_default();
    Ok(if code == USER_CLASS { [&[length], bytes].concat() } else { bytes.to_vec() })
}

/// Checks `CNI_ARGS` as every other plugin does.
///
/// # Errors
///
/// Code 4 for malformed pairs.
pub(crate) fn check_args(args: &str) -> Result<(), Failure> {
    // Which keys there are is not known here: `fromArg` names them.
    if args.is_empty() { Ok(()) } else { CniArgs::parse(&format!("IgnoreUnknown=1;{args}"), &[]).map(drop) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn args_are_pairs_or_nothing() {
        for args in ["", "A=b", "A=b;K8S_POD_NAME=web"] {
            assert_eq!(check_args(args), Ok(()), "{args:?}");
        }
        assert_eq!(check_args("A").unwrap_err().code, Code::InvalidEnvironment);
    }

    fn options(conf: &Value, args: &str) -> Result<Options, String> {
        let conf: Conf = weft_cni::json::from_value(conf).unwrap();
        conf.options(args).map_err(|failure| failure.msg)
    }

    #[test]
    fn options_have_names_or_numbers() {
        assert_eq!(options(&json!({}), "").unwrap(), Options { asked: ASKED.to_vec(), told: Vec::new() });
        let all = json!({
            "request": [{"skipDefault": true}, {"option": "subnet-mask"}, {"option": "routers"}, {"option": "42"}],
            "provide": [
                {"option": "host-name", "fromArg": "K8S_POD_NAME"},
                {"option": "vendor-class-identifier", "value": "weft"},
                {"option": "user-class", "value": "ab"},
                {"option": "host-name", "fromArg": "X"},
            ],
        });
        let read = options(&all, "K8S_POD_NAME=web;X=a=b").unwrap();
        assert_eq!(read.asked, [1, 3, 42]);
        let told: [(u8, &[u8]); 3] = [(60, b"weft"), (77, b"\x02ab"), (12, b"a=b")];
        assert_eq!(read.told, told.map(|(code, value)| (code, value.to_vec())));
    }

    #[test]
    fn each_bad_option_is_named() {
        let long = "x".repeat(256);
        for (conf, says) in [
            (json!({"request": [{"option": "nonsense"}]}), r#"Can not parse option "nonsense": "#),
            (json!({"request": [{"option": "256"}]}), r#"Can not parse option "256": "#),
            (json!({"provide": [{"option": "0", "value": "x"}]}), r#"Can not parse option "0": "#),
            (json!({"provide": [{"option": "12", "value": long}]}), "the value of option 12 has 256 bytes"),
        ] {
            let told = options(&conf, "").unwrap_err();
            assert!(told.contains(says), "{conf}: {told}");
        }
    }
}
