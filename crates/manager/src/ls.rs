//! `weft network ls`.

use std::collections::BTreeSet;

use weft_model::NetworkName;

use crate::filter::{FOR_LIST, Filters};
use crate::network::Network;
use crate::{Error, Manager, order, predefined};

/// The networks asked for, and what is wrong with those that could not be read.
#[derive(Debug, Default)]
pub struct Listed {
    /// The networks, in natural order of their names.
    pub networks: Vec<Network>,
    /// The files that could not be read.
    pub errors: Vec<Error>,
}

impl Manager {
    /// Lists the networks that meet all filters.
    ///
    /// # Errors
    ///
    /// When a filter makes no sense, or asks for what must not be read.
    pub fn ls(&self, filters: &[String]) -> Result<Listed, Error> {
        let filters = Filters::parse(filters, FOR_LIST)?;
        let (stored, errors) = self.store.all();
        let mut networks: Vec<Network> = stored.into_iter().map(|stored| stored.network).collect();
        for name in predefined::NAMES.iter().filter_map(|name| name.parse().ok()) {
            if !networks.iter().any(|network| network.name == name) {
                networks.push(self.imagined(&name));
            }
        }
        let used: BTreeSet<NetworkName> = match filters.asks_for_use() {
            true => self.records.list()?.into_iter().map(|record| record.endpoint.network).collect(),
            false => BTreeSet::new(),
        };
        networks.retain(|network| filters.matches(network, used.contains(&network.name)));
        networks.sort_by(|a, b| order::natural(a.name.as_str(), b.name.as_str()));
        Ok(Listed { networks, errors })
    }
}
