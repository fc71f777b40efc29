//! Ports on their way from one attachment of a container to another.
//!
//! Two attachments cannot have a port at once, so that there is a moment when neither has it. What is meant is
//! written down before, or a process that is killed then would lose it.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_model::ContainerId;
use weft_model::port::{HostPorts, Publication, is_same_family};

use super::{Books, remove_file};
use crate::atomic::{self, Durability};
use crate::{StateError, boot, document};

const ENDING: &str = ".json";

/// A publication with what was asked of the host's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// What is published.
    pub publication: Publication,
    /// The host's ports: those of the publication, unless any would do and none was needed.
    pub host_ports: HostPorts,
}

impl From<Publication> for Asked {
    fn from(publication: Publication) -> Self {
        let host_ports = HostPorts::These(publication.host_ports);
        Self { publication, host_ports }
    }
}

impl Asked {
    /// Tells whether this is what another attachment of the container publishes, at an address of its own.
    pub fn is_met_by(&self, other: &Publication) -> bool {
        let own = &self.publication;
        let same_host = own.host_ports == other.host_ports || !matches!(self.host_ports, HostPorts::These(_));
        same_host
            && is_same_family(own.target, other.target)
            && (own.protocol, own.host, own.target_ports, &own.from)
                == (other.protocol, other.host, other.target_ports, &other.from)
    }
}

/// What is on its way within one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moving {
    schema: u64,
    boot: String,
    /// The container.
    pub container: ContainerId,
    /// The ports, with the address each led to.
    pub ports: Vec<Asked>,
}

impl Books {
    /// Notes which ports of a container are about to move. Those that are on their way already stay noted.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn set_out(&self, container: &ContainerId, ports: &[Asked]) -> Result<(), StateError> {
        let mut all = self.moving(container)?;
        all.extend(ports.iter().filter(|one| !all.contains(one)).cloned().collect::<Vec<_>>());
        self.note_moving(container, all)
    }

    /// Returns the ports of a container that are on their way.
    ///
    /// # Errors
    ///
    /// When the file is from a newer version or cannot be read. One that is damaged says nothing.
    pub fn moving(&self, container: &ContainerId) -> Result<Vec<Asked>, StateError> {
        match document::read::<Moving>(&self.moving_file(container)) {
            Err(StateError::Damaged { .. }) | Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(Some(found)) => Ok(if found.boot == boot::id()? { found.ports } else { Vec::new() }),
        }
    }

    /// Notes which ports of a container are still on their way: none when all have arrived.
    ///
    /// # Errors
    ///
    /// When the file cannot be written or removed.
    pub fn note_moving(&self, container: &ContainerId, ports: Vec<Asked>) -> Result<(), StateError> {
        let path = self.moving_file(container);
        if ports.is_empty() {
            return remove_file(&path);
        }
        let moving =
            Moving { schema: document::SCHEMA, boot: boot::id()?, container: container.clone(), ports };
        document::write(&path, &moving, Durability::Boot)
    }

    /// Returns every container that has ports on their way, in order.
    ///
    /// # Errors
    ///
    /// When the directory or a file cannot be read.
    pub fn all_moving(&self) -> Result<Vec<Moving>, StateError> {
        let mut all = Vec::new();
        for container in self.moving_containers()? {
            let ports = self.moving(&container)?;
            if !ports.is_empty() {
                all.push(Moving { schema: document::SCHEMA, boot: boot::id()?, container, ports });
            }
        }
        all.sort_by(|one, other| one.container.cmp(&other.container));
        Ok(all)
    }

    /// Returns the containers whose list of ports on their way cannot be read, with what is wrong: what was on its way is lost.
    pub fn damaged_moving(&self) -> Vec<(ContainerId, StateError)> {
        let mut damaged: Vec<_> = self
            .moving_containers()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|container| {
                let error = document::read::<Moving>(&self.moving_file(&container)).err()?;
                matches!(error, StateError::Damaged { .. }).then_some((container, error))
            })
            .collect();
        damaged.sort_by(|(one, _), (other, _)| one.cmp(other));
        damaged
    }

    /// Removes a list that cannot be read.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn discard_moving(&self, container: &ContainerId) -> Result<(), StateError> {
        match document::read::<Moving>(&self.moving_file(container)) {
            Err(StateError::Damaged { .. }) => remove_file(&self.moving_file(container)),
            _ => Ok(()),
        }
    }

    /// Returns the containers that have such a file, in whatever state it is.
    fn moving_containers(&self) -> Result<Vec<ContainerId>, StateError> {
        let dir = self.dir.join("moving");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StateError::io("read", &dir)(error)),
        };
        let mut containers = Vec::new();
        for entry in entries {
            let name = entry.map_err(StateError::io("read", &dir))?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(atomic::TEMPORARY) {
                continue;
            }
            containers.extend(name.strip_suffix(ENDING).and_then(|name| name.parse().ok()));
        }
        Ok(containers)
    }

    fn moving_file(&self, container: &ContainerId) -> PathBuf {
        self.dir.join("moving").join(format!("{container}{ENDING}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::Root;

    use super::*;

    fn asked(host: &str) -> Asked {
        let text = serde_json::json!({"protocol": "tcp", "host": host, "hostPorts": "8080",
            "target": "10.1.0.2", "targetPorts": "80"});
        Asked::from(serde_json::from_value::<Publication>(text).unwrap())
    }

    #[test]
    fn what_is_on_its_way_is_noted_until_it_has_arrived() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::new(&Root::new(Some(dir.path().into())));
        let red: ContainerId = "red".parse().unwrap();
        let (one, mut two) = (asked("0.0.0.0"), asked("192.0.2.1"));
        two.host_ports = HostPorts::FirstOf("8000-8100".parse().unwrap());
        assert_eq!(books.all_moving().unwrap(), []);
        books.set_out(&red, std::slice::from_ref(&one)).unwrap();
        books.set_out(&red, &[one.clone(), two.clone()]).unwrap();
        assert_eq!(books.moving(&red).unwrap(), [one.clone(), two.clone()]);
        assert_eq!(books.all_moving().unwrap()[0].container, red);
        assert!(books.owners().is_empty(), "it is nobody's yet");
        books.note_moving(&red, Vec::new()).unwrap();
        assert_eq!((books.moving(&red).unwrap(), books.all_moving().unwrap()), (vec![], vec![]));
        let mut elsewhere = two.publication.clone();
        elsewhere.target = "10.2.0.9".parse().unwrap();
        assert!(two.is_met_by(&elsewhere) && !one.is_met_by(&elsewhere));
    }

    #[test]
    fn a_damaged_list_is_told_and_can_be_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::new(&Root::new(Some(dir.path().into())));
        let [red, blue]: [ContainerId; 2] = ["red", "blue"].map(|name| name.parse().unwrap());
        for container in [&red, &blue] {
            books.set_out(container, &[asked("0.0.0.0")]).unwrap();
        }
        assert!(books.damaged_moving().is_empty());
        atomic::write(&books.moving_file(&red), b"{\"schema\": 1, \"boot", Durability::Boot, 0o600).unwrap();
        let damaged = books.damaged_moving();
        assert_eq!(damaged.iter().map(|(container, _)| container).collect::<Vec<_>>(), [&red]);
        assert!(damaged[0].1.to_string().contains("red.json"), "{}", damaged[0].1);
        for container in [&red, &blue] {
            books.discard_moving(container).unwrap();
        }
        assert!(books.damaged_moving().is_empty());
        assert_eq!(books.all_moving().unwrap().len(), 1, "what can be read stays");
    }
}
