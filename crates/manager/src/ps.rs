//! `weft ps`.

use weft_state::attachment::Record;

use crate::attachments::name_of;
use crate::inspect::mac_of;
use crate::{Error, Liveness, Manager, Port, order};

/// An attachment as it is listed.
#[derive(Clone, Debug)]
pub struct Attached {
    /// What was written down about it.
    pub record: Record,
    /// The container's name on the network; its id if it has none.
    pub name: String,
    /// Whether the container still is there.
    pub liveness: Liveness,
    /// The host's ports that lead there.
    pub ports: Vec<Port>,
}

impl Manager {
    /// Lists every attachment of this boot, in natural order of containers and interfaces.
    ///
    /// # Errors
    ///
    /// When a record must not be read.
    pub fn ps(&self) -> Result<Vec<Attached>, Error> {
        let mut ports = self.ports_by_endpoint()?;
        let attached = |record: Record| Attached {
            name: name_of(&record).into(),
            liveness: Liveness::of(&record),
            ports: ports.remove(&record.endpoint).unwrap_or_default(),
            record,
        };
        let mut all: Vec<Attached> = self.records.list()?.into_iter().map(attached).collect();
        let key = |attached: &Attached| {
            let endpoint = &attached.record.endpoint;
            (endpoint.container.to_string(), endpoint.ifname.to_string())
        };
        all.sort_by(|a, b| {
            let ((a, a_if), (b, b_if)) = (key(a), key(b));
            order::natural(&a, &b).then_with(|| order::natural(&a_if, &b_if))
        });
        Ok(all)
    }
}

impl Attached {
    /// Returns the MAC address of the container's interface, as the plugins reported it.
    pub fn mac(&self) -> Option<&str> {
        mac_of(&self.record)
    }
}
