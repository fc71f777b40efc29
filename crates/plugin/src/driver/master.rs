//! The link that containers' links are on.

use serde_json::{Value, json};
use weft_cni::{Code, Failure};
use weft_model::{IfName, Mtu};
use weft_plan::{Kernel, Kind, Link, Over, Place};

/// What the configuration says of that link, and of the MTU of those on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name; absent means the link that the default route leaves by, until somebody has looked.
    pub name: Option<IfName>,
    /// Where it is.
    pub place: Place,
    /// The MTU of the links on it, as written; 0 means its own.
    pub mtu: i64,
}

impl Master {
    /// Reads the keys `master`, `linkInContainer` and `mtu`.
    ///
    /// # Errors
    ///
    /// If the link's name is none.
    pub fn of(name: Option<&str>, link_in_container: bool, mtu: i64) -> Result<Self, Failure> {
        let name = name.filter(|name| !name.is_empty()).map(|name| {
            let refused = |error| Failure::text(Code::InvalidConfig, format!("master {name:?}: {error}"));
            name.parse().map_err(|error: weft_model::IfNameError| refused(error))
        });
        let place = if link_in_container { Place::Container } else { Place::Host };
        Ok(Self { name: name.transpose()?, place, mtu })
    }

    /// Looks for the link, and for its MTU if another one is wanted. Where there is no container, nothing is known of
    /// a link in it.
    ///
    /// # Errors
    ///
    /// Code 7 with the reference plugins' words if there is no such link, or if the MTU is more than it carries.
    pub fn survey(&mut self, kernel: &mut Kernel) -> Result<(), Failure> {
        if self.place == Place::Container && !kernel.has_container() {
            return Ok(());
        }
        let refuse = |text: String| Failure::text(Code::InvalidConfig, text);
        let name = match self.name.take() {
            Some(name) => name,
            None => kernel.default_link(self.place).map_err(super::kernel_says)?.ok_or_else(|| {
                let hint = "name the link: \"master\"";
                refuse("no default route interface found".into()).with_hint(Some(hint.into()))
            })?,
        };
        let found = kernel.mtu_of(self.place, &name).map_err(super::kernel_says)?;
        let Some(most) = found else {
            let hint = format!("ip link shows the links of the {}", self.place);
            let text = format!("failed to lookup master \"{name}\": Link not found");
            return Err(refuse(text).with_hint(Some(hint)));
        };
        if self.mtu < 0 || self.mtu > i64::from(most) {
            return Err(refuse(format!("invalid MTU {}, must be [0, master MTU({most})]", self.mtu)));
        }
        self.mtu().map(|_| self.name = Some(name))
    }

    /// Returns the link's name for [`Driver::remember`](super::Driver::remember).
    pub fn remember(&self) -> Value {
        json!({"master": self.name})
    }

    /// Takes the link's name from what was remembered, if none is written.
    pub fn recall(&mut self, memory: &Value) {
        let known = || memory["master"].as_str().and_then(|name| name.parse().ok());
        self.name = self.name.take().or_else(known);
    }

    /// Returns the MTU of the links on it; absent means its own.
    ///
    /// # Errors
    ///
    /// Code 7 if no link can have it.
    pub fn mtu(&self) -> Result<Option<Mtu>, Failure> {
        Mtu::written(self.mtu).map_err(|error| Failure::new(Code::InvalidConfig, error))
    }

    /// Returns a link on it, for a plan. What it is on is not in the plan if nobody has looked.
    pub fn link(&self, name: &IfName, kind: Kind) -> Link {
        let over = self.name.clone().map(|name| Over { place: self.place, name });
        Link::made(name, kind, over).mtu(self.mtu().ok().flatten())
    }
}
