//! The configuration as written, then as meant.

use weft_cni::{Code, Failure};
use weft_plugin::Call;

/// What the plugin will do. There is nothing to choose.
#[derive(Debug, PartialEq)]
pub struct Settings;

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration asks for addresses: there is no interface to put them on.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        match call.conf.ipam_type() {
            None => Ok(Self),
            Some(ipam) => {
                let text = format!("the none driver gives no addresses, but ipam.type is {ipam:?}");
                Err(Failure::text(Code::InvalidConfig, text).with_hint(Some("remove \"ipam\"".into())))
            }
        }
    }
}
