//! Which containers are connected, and whether they still are there.

use std::path::Path;

use serde_json::{Value, json};
use weft_cni::json::get;
use weft_cni::{Conflist, NetworkResult, Version};
use weft_model::{ContainerId, Endpoint, NetworkName};
use weft_runtime::{Attachment, Problem};
use weft_state::attachment::{Record, State};

use crate::locks::{Mine, Shared};
use crate::namespace::{Identity, identity};
use crate::{Error, Manager};

/// What can be said about an attachment without touching the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The container's namespace is the one that was connected.
    Up,
    /// The container's namespace is gone, or another one took its place.
    Gone,
    /// Connecting was begun and not finished: it is being done, or its process was killed.
    Incomplete,
}

impl Liveness {
    /// Returns the word people see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Gone => "gone",
            Self::Incomplete => "incomplete",
        }
    }

    /// Tells how an attachment is.
    pub fn of(record: &Record) -> Self {
        let here = record.netns.as_deref().and_then(identity);
        Self::given(record, here.as_ref())
    }

    /// Tells how an attachment is, given the namespace that is at its path now.
    pub(crate) fn given(record: &Record, here: Option<&Identity>) -> Self {
        let then = get(&record.attach, "namespace").and_then(Value::as_str);
        match here {
            None => Self::Gone,
            Some(here) if then.is_some_and(|then| then != here) => Self::Gone,
            Some(_) if record.state == State::Intent => Self::Incomplete,
            Some(_) => Self::Up,
        }
    }
}

/// Returns the name a container was connected under; its id if it has none.
pub(crate) fn name_of(record: &Record) -> &str {
    let name = get(&record.attach, "name").and_then(Value::as_str).filter(|name| !name.is_empty());
    name.unwrap_or(record.endpoint.container.as_str())
}

impl Manager {
    /// Disconnects one attachment, however much of it is left, and forgets it. Returns what went wrong; then
    /// it is not forgotten, unless `force`d.
    pub(crate) fn detach(
        &self,
        mine: &Mine,
        _network: &Shared,
        record: &Record,
        force: bool,
    ) -> Result<Vec<Problem>, Error> {
        let endpoint = &record.endpoint;
        debug_assert_eq!(mine.container(), &endpoint.container);
        self.save_ports(record)?;
        // A successor of the container's namespace must not lose an interface that was never this one's.
        let netns = match Liveness::of(record) {
            Liveness::Gone => None,
            Liveness::Up | Liveness::Incomplete => record.netns.clone(),
        };
        let mut attachment = Attachment::new(endpoint.container.clone(), netns, endpoint.ifname.clone());
        attachment.conf_args.insert("weft".into(), record.attach.clone());
        // Other people's port plugins remove what they are told, and know nothing otherwise.
        attachment.capability_args = self.runtime.cache().capability_args(endpoint);
        let problems = self.runtime.del(&self.list_for(record), &attachment);
        if problems.is_empty() || force {
            // Our drivers have done this already; other people's know nothing of it.
            self.records.remove(endpoint)?;
            if let Ok(name) = name_of(record).parse() {
                self.claims.release(&endpoint.network, &name, &endpoint.container);
            }
        }
        Ok(problems)
    }

    /// Notes the ports of an attachment that goes, if the container has another one that can publish them: the
    /// caller does that next.
    fn save_ports(&self, record: &Record) -> Result<(), Error> {
        let endpoint = &record.endpoint;
        let ports = self.asked_at(endpoint);
        if ports.is_empty() {
            return Ok(());
        }
        let others = self.records.of_container(&endpoint.container);
        let stays = |other: &Record| other.endpoint != *endpoint && Liveness::of(other) == Liveness::Up;
        if others.iter().any(stays) {
            self.books.set_out(&endpoint.container, &ports)?;
        }
        Ok(())
    }

    /// Returns the conflist to disconnect with.
    ///
    /// Where the network's file is gone or damaged, its copy has to do, and without one the driver alone: it
    /// works from its records, but knows of no lease.
    fn list_for(&self, record: &Record) -> Conflist {
        let name = &record.endpoint.network;
        match self.store.load(name) {
            Ok(Some(stored)) => stored.list,
            _ => self.store.recall(name).map_or_else(|| bare(name, &record.kind), |stored| stored.list),
        }
    }

    /// Returns the container's attachments that are as they were made, after disconnecting what is left of
    /// the others.
    pub(crate) fn heal(&self, mine: &Mine, here: Option<&Identity>) -> Result<Vec<Record>, Error> {
        let mut live = Vec::new();
        for record in self.attachments_of(mine.container())? {
            match Liveness::given(&record, here) {
                Liveness::Up => live.push(record),
                Liveness::Gone | Liveness::Incomplete => {
                    let network = self.locks.shared(&record.endpoint.network)?;
                    let problems = self.detach(mine, &network, &record, false)?;
                    if !problems.is_empty() {
                        return Err(Error::Problems(problems));
                    }
                }
            }
        }
        // What does not work is told by `weft doctor`; it is no reason not to do what was asked for.
        self.finish_moving(mine, &live)?;
        Ok(live)
    }

    /// Returns a container's attachments, with a record even for those whose own is cut off.
    pub(crate) fn attachments_of(&self, container: &ContainerId) -> Result<Vec<Record>, Error> {
        let mut records = self.records.of_container(container);
        records.extend(self.presumed(container)?);
        Ok(records)
    }

    /// Returns records in the place of those that are cut off, as far as the results of the plugins tell which
    /// network they are about.
    fn presumed(&self, container: &ContainerId) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        for ifname in self.records.damaged(container) {
            for cached in self.runtime.cache().of_interface(container, &ifname) {
                let Ok(network) = cached.network.parse() else { continue };
                let (container, ifname) = (container.clone(), ifname.clone());
                let endpoint = Endpoint { network, container, ifname };
                records.push(Record::intent(endpoint, cached.netns, &self.config.driver)?);
            }
        }
        Ok(records)
    }

    /// Disconnects what is left of a network's containers that are gone or were never wholly connected.
    /// Returns the other attachments, and what went wrong.
    pub(crate) fn sweep(&self, network: &NetworkName) -> (Vec<Record>, Vec<Error>) {
        let (mut live, mut errors) = (Vec::new(), Vec::new());
        for record in self.records.of_network(network) {
            match Liveness::of(&record) {
                Liveness::Up => live.push(record),
                Liveness::Gone | Liveness::Incomplete => match self.sweep_one(&record.endpoint) {
                    Ok(None) => {}
                    Ok(Some(again)) => live.push(again),
                    Err(error) => errors.push(error),
                },
            }
        }
        (live, errors)
    }

    /// Looks again once nobody else works on the container: an attachment that was incomplete a moment ago
    /// may have been finished.
    fn sweep_one(&self, endpoint: &Endpoint) -> Result<Option<Record>, Error> {
        let mine = self.locks.container(&endpoint.container)?;
        let network = self.locks.shared(&endpoint.network)?;
        let Some(record) = self.records.get(&endpoint.container, &endpoint.ifname) else { return Ok(None) };
        if record.endpoint != *endpoint || Liveness::of(&record) == Liveness::Up {
            return Ok(Some(record).filter(|record| record.endpoint == *endpoint));
        }
        let problems = self.detach(&mine, &network, &record, false)?;
        drop(network);
        let mut live = self.records.of_container(&endpoint.container);
        live.retain(|other| Liveness::of(other) == Liveness::Up);
        self.finish_moving(&mine, &live)?;
        self.let_go(mine)?;
        if problems.is_empty() { Ok(None) } else { Err(Error::Problems(problems)) }
    }

    /// Lets go of a container, and of its lock's file if it is connected to nothing.
    pub(crate) fn let_go(&self, mine: Mine) -> Result<(), Error> {
        if self.records.of_container(mine.container()).is_empty() {
            self.books.note_moving(mine.container(), Vec::new())?;
            mine.finish()?;
        }
        Ok(())
    }

    /// Writes down what a driver that is not ours connected, so that it is listed and found again.
    pub(crate) fn record(
        &self,
        endpoint: &Endpoint,
        netns: &Path,
        list: &Conflist,
        attach: &Value,
        result: &Value,
    ) -> Result<Record, Error> {
        if let Some(record) = self.records.get(&endpoint.container, &endpoint.ifname)
            && record.endpoint == *endpoint
        {
            return Ok(record);
        }
        let kind = list.plugins.first().and_then(|plugin| get(plugin, "type")?.as_str()).unwrap_or_default();
        let mut record = Record::intent(endpoint.clone(), Some(netns.into()), kind)?;
        let result_of = NetworkResult::from_value(result, list.version).unwrap_or_default();
        record.state = State::Done;
        record.addresses = result_of.ips.iter().map(|ip| ip.address).collect();
        record.attach = attach.clone();
        record.result = Some(result.clone());
        self.records.write(&record)?;
        Ok(record)
    }

    /// Returns the containers connected to a network, with their names.
    pub(crate) fn holders(records: &[Record]) -> Vec<(ContainerId, String)> {
        records.iter().map(|record| (record.endpoint.container.clone(), name_of(record).into())).collect()
    }
}

/// Returns a conflist of one plugin without configuration.
fn bare(name: &NetworkName, kind: &str) -> Conflist {
    let plugins = vec![json!({"type": kind})];
    Conflist {
        name: name.clone(),
        version: Version::V1_1_0,
        disable_check: false,
        disable_gc: false,
        load_only_inlined_plugins: true,
        raw: json!({"cniVersion": Version::V1_1_0.as_str(), "name": name, "plugins": plugins}),
        plugins,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(attach: Value, state: State) -> Record {
        let endpoint = Endpoint {
            network: "n1".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut record = Record::intent(endpoint, Some("/proc/self/ns/net".into()), "bridge").unwrap();
        record.attach = attach;
        record.state = state;
        record
    }

    #[test]
    fn a_successor_at_the_same_path_is_not_the_container() {
        let here = identity(Path::new("/proc/self/ns/net")).unwrap();
        for (attach, state, expected) in [
            (json!({"namespace": here}), State::Done, Liveness::Up),
            (json!({"namespace": here}), State::Intent, Liveness::Incomplete),
            (json!({"namespace": "4026531840@start-1"}), State::Done, Liveness::Gone),
            (json!({}), State::Done, Liveness::Up),
            (Value::Null, State::Done, Liveness::Up),
        ] {
            assert_eq!(Liveness::of(&record(attach, state)), expected);
        }
        let mut gone = record(Value::Null, State::Done);
        gone.netns = Some("/nonexistent".into());
        assert_eq!(Liveness::of(&gone), Liveness::Gone);
        gone.netns = None;
        assert_eq!(Liveness::of(&gone), Liveness::Gone);
    }

    #[test]
    fn a_container_without_a_name_is_called_by_its_id() {
        assert_eq!(name_of(&record(Value::Null, State::Done)), "c1");
        assert_eq!(name_of(&record(json!({"name": ""}), State::Done)), "c1");
        assert_eq!(name_of(&record(json!({"name": "web"}), State::Done)), "web");
    }
}
