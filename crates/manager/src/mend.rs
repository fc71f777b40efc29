//! `weft network reload` and `weft doctor`: what others took away is put back, or told.
//!
//! The manager asks each plugin that is one of weft's about all its networks at once. What the networks share, and
//! what was published by other runtimes, is known to the plugins by their own books.

mod again;
mod told;

use std::collections::BTreeMap;

use serde_json::Value;
use weft_cni::json::get;
use weft_cni::{Finding, MendRequest};
use weft_model::{ContainerId, NetworkName};
use weft_runtime::configuration;
use weft_runtime::find::find;
use weft_state::attachment::Record;
use weft_state::ports::Moving;
use weft_state::{StateError, leftovers};

use crate::store::Stored;
use crate::{Error, Liveness, Manager};
use told::Failed;

impl Manager {
    /// Writes the rules and settings of every network again, or of one and of what all share. Connections stay
    /// open. Returns what could not be put back.
    ///
    /// # Errors
    ///
    /// When there is no such network, or the networks cannot be read.
    pub fn reload(&self, reference: Option<&str>) -> Result<Vec<Error>, Error> {
        let networks = match reference {
            None => self.store.known()?,
            Some(reference) => {
                let name = self.store.find(reference)?;
                // A predefined network that nobody has used has no rules.
                self.store.load(&name)?.into_iter().collect()
            }
        };
        let mut errors = Vec::new();
        errors.extend(leftovers::collect(&self.root).err().map(Error::from));
        for (container, _) in self.books.damaged_moving() {
            errors.extend(self.books.discard_moving(&container).err().map(Error::from));
        }
        for moving in self.stranded()? {
            match self.mend_moving(&moving.container) {
                Ok(warnings) => errors.extend(warnings.into_iter().map(Error::Stranded)),
                Err(error) => errors.push(error),
            }
        }
        let (asked, mut failed) = self.mended(&networks);
        for (kind, request) in &asked {
            let each = told::each(kind, request, |request| self.drivers.reload(kind, request));
            failed.extend(each.into_iter().filter_map(Result::err));
        }
        let failures = told::findings(failed).into_iter();
        errors.extend(failures.map(|finding| Error::Unmended(self.name_file(finding, &networks))));
        Ok(errors)
    }

    /// Says what is out of step, why, and the command that mends it. With `fix` it is mended first, as far as that
    /// takes no decision. What a plugin does not tell is a finding, too.
    ///
    /// # Errors
    ///
    /// When the records or the networks cannot be read.
    pub fn doctor(&self, fix: bool) -> Result<Vec<Finding>, Error> {
        let found = self.examine()?;
        if !fix || found.is_empty() {
            return Ok(found);
        }
        // What cannot be mended shows when we look again, with the reason.
        self.reload(None)?;
        for network in self.networks_in_use()? {
            self.sweep(&network);
        }
        self.examine()
    }

    fn examine(&self) -> Result<Vec<Finding>, Error> {
        let (stored, errors) = self.store.all();
        let mut found: Vec<Finding> = errors.iter().map(unreadable).collect();
        for stored in &stored {
            found.extend(self.missing_plugins(stored));
        }
        let records = self.records.list()?;
        found.extend(records.iter().filter_map(|record| self.stale(record)));
        found.extend(self.stranded()?.iter().map(on_its_way));
        found.extend(self.books.damaged_moving().into_iter().map(lost));
        let networks = self.store.known()?;
        for finding in self.told(&networks) {
            let finding = self.name_file(finding, &networks);
            found.push(match records.iter().find(|record| finding.is_renewed(&record.endpoint)) {
                Some(record) => Finding { mend: self.again(record), ..finding },
                None => finding,
            });
        }
        // Plugins that share something name it twice.
        let mut once: Vec<Finding> = Vec::new();
        for finding in found {
            if !once.contains(&finding) {
                once.push(finding);
            }
        }
        Ok(once)
    }

    /// Returns what the plugins find, and which of them could not be asked.
    fn told(&self, networks: &[Stored]) -> Vec<Finding> {
        let (asked, mut failed) = self.mended(networks);
        let mut found = Vec::new();
        for (kind, request) in &asked {
            for outcome in told::each(kind, request, |request| self.drivers.doctor(kind, request)) {
                match outcome {
                    Ok(findings) => found.extend(findings),
                    Err(failure) => failed.push(failure),
                }
            }
        }
        found.extend(told::findings(failed));
        found
    }

    /// Puts the file's name into what is said of a network's configuration.
    fn name_file(&self, finding: Finding, networks: &[Stored]) -> Finding {
        let names = networks.iter().map(|stored| &stored.network.name);
        match names.into_iter().find(|name| finding.is_misconfigured(name)) {
            Some(name) => {
                let file = self.store.path(name);
                let mend = format!("mend {}, then weft network reload {name}", file.display());
                Finding { mend, ..finding }
            }
            None => finding,
        }
    }

    /// Returns what to tell each plugin that is one of weft's, and which plugins do not say whether they are.
    fn mended(&self, networks: &[Stored]) -> (Vec<(String, MendRequest)>, Vec<Failed>) {
        let mut requests: BTreeMap<String, MendRequest> = BTreeMap::new();
        for stored in networks {
            for plugin in &stored.list.plugins {
                let networks = &mut requests.entry(kind_of(plugin).into()).or_default().networks;
                networks.push(configuration(&stored.list, plugin));
            }
        }
        // What networks share may be there without any: a file was removed, or another runtime has them.
        requests.entry(self.config.driver.clone()).or_default();
        let (mut ours, mut failed) = (Vec::new(), Vec::new());
        for (kind, mut request) in requests {
            request.root = Some(self.root.path().into());
            match self.drivers.describe(&kind) {
                Ok(Some(_)) => ours.push((kind, request)),
                // Nobody else's knows the question, and one that is missing is told where networks are looked at.
                Ok(None) | Err(Error::NoDriver { .. }) => {}
                Err(error) => failed.push(Failed { kind, network: None, error: Box::new(error) }),
            }
        }
        (ours, failed)
    }

    fn missing_plugins(&self, stored: &Stored) -> Vec<Finding> {
        let ipam = |plugin: &Value| get(plugin, "ipam").map(kind_of).unwrap_or_default().to_owned();
        let kinds = stored.list.plugins.iter().flat_map(|plugin| [kind_of(plugin).to_owned(), ipam(plugin)]);
        let missing = |kind: String| find(&kind, self.runtime.paths()).err();
        let finding = |why: weft_runtime::find::FindError| Finding {
            what: format!("network {}", stored.network.name),
            why: why.to_string(),
            mend: "weft plugin ls".into(),
        };
        kinds.filter(|kind| !kind.is_empty()).filter_map(missing).map(finding).collect()
    }

    /// Says what is wrong with an attachment without looking at the kernel.
    fn stale(&self, record: &Record) -> Option<Finding> {
        let endpoint = &record.endpoint;
        let why = match Liveness::of(record) {
            Liveness::Up => return None,
            Liveness::Gone => "the container's namespace is gone".to_owned(),
            Liveness::Incomplete if self.locks.is_busy(&endpoint.container) => return None,
            Liveness::Incomplete => "connecting was begun and not finished".to_owned(),
        };
        let mend = format!("weft network disconnect {} {}", endpoint.network, endpoint.container);
        Some(Finding { what: endpoint.to_string(), why, mend })
    }

    fn networks_in_use(&self) -> Result<Vec<NetworkName>, Error> {
        let mut networks: Vec<NetworkName> =
            self.records.list()?.into_iter().map(|record| record.endpoint.network).collect();
        networks.sort();
        networks.dedup();
        Ok(networks)
    }
}

fn kind_of(plugin: &Value) -> &str {
    get(plugin, "type").and_then(Value::as_str).unwrap_or_default()
}

fn on_its_way(moving: &Moving) -> Finding {
    let ports: Vec<String> = moving.ports.iter().map(|one| one.publication.to_string()).collect();
    Finding {
        what: format!("ports of {}", moving.container),
        why: format!("moving them to another network was begun and not finished: {}", ports.join(", ")),
        mend: "weft network reload".into(),
    }
}

fn lost((container, error): (ContainerId, StateError)) -> Finding {
    Finding {
        what: format!("ports of {container}"),
        why: format!(
            "{error}: which of them were being moved to another network is lost, and they have to be published again"
        ),
        mend: "weft network reload".into(),
    }
}

fn unreadable(error: &Error) -> Finding {
    let mend = error.hint().unwrap_or_else(|| "mend the file".into());
    Finding { what: "a network's file".into(), why: error.to_string(), mend }
}
