//! The administrator's settings, `weft.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use weft_runtime::exec::TIMEOUT;
use weft_state::Root;

use crate::Error;
use crate::pools::{self, Pool};

/// The environment variable that says where plugins are, as a list with colons.
pub const PLUGIN_PATH: &str = "WEFT_PLUGIN_PATH";

/// Where distributions and installers put CNI plugins.
const USUAL_PATHS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Directories of programs for people. A `weft` installed there has other programs as neighbours, and
/// some have the name of a plugin: iproute2's `bridge`.
const PROGRAM_PATHS: [&str; 6] =
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// The settings, complete: whatever the file leaves out has its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The driver of networks that name none.
    pub driver: String,
    /// Where subnets come from, in this order.
    pub pools: Vec<Pool>,
    /// Who masquerades instead of us, where a driver lets one choose: `nftables` or `iptables`.
    pub firewall: Option<String>,
    /// Where plugins are.
    pub plugin_path: Vec<PathBuf>,
    /// How long one call of a plugin may take.
    pub timeout: Duration,
}

/// The settings as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    driver: Option<String>,
    firewall: Option<String>,
    plugin_path: Vec<PathBuf>,
    /// In seconds.
    timeout: Option<u32>,
    pool: Vec<Pool>,
}

impl Config {
    /// Reads the settings below `root`; without a file, all are defaults.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is no TOML, has an unknown key, a pool that makes no sense or a firewall
    /// that does not exist.
    pub fn load(root: &Root) -> Result<Self, Error> {
        let path = root.config();
        let text = match weft_state::file::read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::Config { path, why: format!("cannot read it: {error}") }),
        };
        Self::parse(&text).map_err(|why| Error::Config { path, why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| one_line(&error))?;
        for pool in &written.pool {
            pool.checked().map_err(|error| error.to_string())?;
        }
        let pools = match written.pool.iter().any(|pool| pool.base.is_ipv4()) {
            true => written.pool,
            false => written.pool.into_iter().chain(pools::defaults()).collect(),
        };
        let firewall = match written.firewall.as_deref() {
            None | Some("weft") => None,
            Some("nftables" | "iptables") => written.firewall,
            Some(other) => {
                return Err(format!(
                    "firewall: {other:?} is neither \"weft\" nor \"nftables\" nor \"iptables\""
                ));
            }
        };
        let timeout = match written.timeout {
            None => TIMEOUT,
            Some(0) => return Err("timeout: a plugin needs at least a second".into()),
            Some(seconds) => Duration::from_secs(seconds.into()),
        };
        Ok(Self {
            driver: written.driver.unwrap_or_else(|| "bridge".into()),
            pools,
            firewall,
            plugin_path: search_path(written.plugin_path),
            timeout,
        })
    }
}

/// TOML errors draw pictures and speak of types; one line for people has to do.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.message().replace('\n', " ");
    let number = |text: String, kind: &str, most: u64| {
        text.replace(&format!("expected {kind}"), &format!("expected a number from 0 to {most}"))
    };
    number(number(text, "u8", u8::MAX.into()), "u32", u32::MAX.into())
}

/// Returns the environment's path, then the file's, then the directory we run from, then the usual ones.
fn search_path(written: Vec<PathBuf>) -> Vec<PathBuf> {
    let given = std::env::var_os(PLUGIN_PATH).unwrap_or_default();
    let mut paths: Vec<PathBuf> =
        std::env::split_paths(&given).filter(|path| path.is_absolute()).chain(written).collect();
    paths.extend(own_directory());
    paths.extend(USUAL_PATHS.map(PathBuf::from));
    let mut seen = Vec::new();
    paths.retain(|path| {
        !seen.contains(path) && {
            seen.push(path.clone());
            true
        }
    });
    paths
}

/// Returns the directory we run from, unless it is one of programs for people.
pub(crate) fn own_directory() -> Option<PathBuf> {
    let dir = std::env::current_exe().ok()?.parent()?.to_path_buf();
    (!PROGRAM_PATHS.iter().any(|path| Path::new(path) == dir)).then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_default() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.driver, "bridge");
        assert_eq!(config.pools, pools::defaults());
        assert_eq!(config.timeout, TIMEOUT);
        assert!(config.plugin_path.ends_with(&USUAL_PATHS.map(PathBuf::from)));
    }

    #[test]
    fn the_file_decides() {
        let text = "driver = \"macvlan\"\ntimeout = 5\nfirewall = \"iptables\"\nplugin_path = [\"/x\"]\n\
                    [[pool]]\nbase = \"10.200.0.0/16\"\nsize = 26\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.driver, "macvlan");
        assert_eq!(config.firewall.as_deref(), Some("iptables"));
        assert_eq!(config.timeout, Duration::from_secs(5));
        assert_eq!(config.pools, [Pool { base: "10.200.0.0/16".parse().unwrap(), size: 26 }]);
        assert!(config.plugin_path.contains(&"/x".into()));

        assert_eq!(Config::parse("firewall = \"weft\"").unwrap().firewall, None);

        let v6 = Config::parse("[[pool]]\nbase = \"fd00:1::/32\"\nsize = 64\n").unwrap();
        assert_eq!(v6.pools.len(), pools::defaults().len() + 1);
    }

    #[test]
    fn mistakes_are_one_line_each() {
        for (text, part) in [
            ("drivr = \"x\"", "drivr"),
            ("[[pool]]\nbase = \"10.0.0.0/33\"\nsize = 24", "invalid"),
            ("[[pool]]\nbase = \"10.0.0.0/24\"\nsize = 16", "cannot be cut"),
            ("firewall = \"pf\"", "firewall: \"pf\" is neither \"weft\""),
            ("timeout = 0", "timeout"),
            ("[[pool]]\nbase = \"10.0.0.0/8\"\nsize = 300", "expected a number from 0 to 255"),
            ("= 1", ""),
        ] {
            let why = Config::parse(text).unwrap_err();
            assert!(why.contains(part) && !why.contains('\n'), "{why}");
        }
    }
}
