//! Which networks a person means by `--filter`.

pub mod time;

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::Error;
use crate::network::Network;
use crate::predefined;

/// The keys that choose what to list.
pub const FOR_LIST: &[&str] =
    &["name", "id", "driver", "scope", "type", "label", "label!", "dangling", "until"];

/// The keys that choose what to prune.
pub const FOR_PRUNE: &[&str] = &["label", "label!", "until"];

/// Conditions on networks: those of one key are alternatives, except labels; keys add up.
///
/// DOCKER: labels of several filters must all be there, whatever its documentation says.
#[derive(Debug, Default)]
pub struct Filters {
    name: Vec<Regex>,
    id: Vec<String>,
    driver: Vec<String>,
    scope: Vec<String>,
    custom: Vec<bool>,
    label: Vec<(String, Option<String>)>,
    without: Vec<(String, Option<String>)>,
    dangling: Option<bool>,
    until: Option<i64>,
}

impl Filters {
    /// Reads filters of the form `key=value`.
    ///
    /// # Errors
    ///
    /// When one is not of that form, its key is none of `keys`, or its value makes no sense.
    pub fn parse(texts: &[String], keys: &[&str]) -> Result<Self, Error> {
        let mut filters = Self::default();
        for text in texts {
            let bad = |why: &str| Error::Filter(format!("{text:?}: {why}"));
            let (key, value) = text.split_once('=').ok_or_else(|| bad("key=value is expected"))?;
            // `label!=k` splits after the exclamation mark.
            if !keys.contains(&key) {
                return Err(Error::Filter(format!("{key:?}: the filters are {}", keys.join(", "))));
            }
            filters.add(key, value).map_err(|why| bad(&why))?;
        }
        Ok(filters)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "name" => self.name.push(Regex::new(value).map_err(|error| error.to_string())?),
            "id" => self.id.push(value.to_ascii_lowercase()),
            "driver" => self.driver.push(value.into()),
            "scope" => self.scope.push(value.into()),
            "type" => self.custom.push(match value {
                "custom" => true,
                "builtin" => false,
                _ => return Err("custom or builtin is expected".into()),
            }),
            "label" => self.label.push(label(value)),
            "label!" => self.without.push(label(value)),
            "dangling" if self.dangling.is_some() => {
                return Err("got more than one value for filter key \"dangling\"".into());
            }
            "dangling" => self.dangling = Some(boolean(value)?),
            _ if self.until.is_some() => return Err("more than one until filter specified".into()),
            _ => {
                let time = time::parse(value, time::now());
                self.until = Some(time.ok_or("a date, a duration or seconds since 1970 are expected")?);
            }
        }
        Ok(())
    }

    /// Returns whether it matters if containers are connected, which is costly to find out.
    pub fn asks_for_use(&self) -> bool {
        self.dangling.is_some()
    }

    /// Returns whether a network meets every condition.
    pub fn matches(&self, network: &Network, in_use: bool) -> bool {
        let about = &network.about;
        let custom = !predefined::is(&network.name);
        any(&self.name, |regex| regex.is_match(network.name.as_str()))
            && any(&self.id, |start| about.id.to_string().starts_with(start))
            && any(&self.driver, |driver| *driver == about.driver || *driver == shown_driver(&about.driver))
            && any(&self.scope, |scope| scope == "local")
            && any(&self.custom, |wanted| *wanted == custom)
            && self.label.iter().all(|wanted| has(&about.labels, wanted))
            && !self.without.iter().any(|unwanted| has(&about.labels, unwanted))
            && self.dangling.is_none_or(|wanted| wanted == (custom && !in_use))
            && self
                .until
                .is_none_or(|until| time::date(&about.created).is_some_and(|created| created < until))
    }
}

/// Returns a driver's name as docker shows it.
///
/// DOCKER: the driver of the network `none` is called `null`.
pub fn shown_driver(driver: &str) -> &str {
    if driver == predefined::PRIVATE { "null" } else { driver }
}

fn any<T>(alternatives: &[T], matches: impl Fn(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(matches)
}

fn label(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((key, value)) => (key.into(), Some(value.into())),
        None => (text.into(), None),
    }
}

fn has(labels: &BTreeMap<String, String>, (key, value): &(String, Option<String>)) -> bool {
    labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("true or false is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> Network {
        let mut network = predefined::network(&name.parse().unwrap());
        if !predefined::is(&network.name) {
            network.about.driver = "bridge".into();
            network.about.created = "2026-01-01T00:00:00Z".into();
            network.about.labels =
                [("env".to_string(), "test".to_string()), ("tier".to_string(), String::new())].into();
        }
        network
    }

    fn parse(texts: &[&str]) -> Result<Filters, Error> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).into()).collect();
        Filters::parse(&texts, FOR_LIST)
    }

    fn listed(texts: &[&str]) -> Vec<&'static str> {
        let filters = parse(texts).unwrap();
        ["bridge", "host", "none", "app-1", "db"]
            .into_iter()
            .filter(|name| filters.matches(&network(name), *name == "db"))
            .collect()
    }

    #[test]
    fn each_key_means_what_docker_means() {
        assert_eq!(listed(&[]).len(), 5);
        assert_eq!(listed(&["name=b"]), ["bridge", "db"]);
        assert_eq!(listed(&["name=^app", "name=^db$"]), ["app-1", "db"]);
        assert_eq!(listed(&["driver=bridge"]), ["bridge", "app-1", "db"]);
        assert_eq!(listed(&["driver=null"]), ["none"]);
        assert_eq!(listed(&["driver=none"]), ["none"]);
        assert_eq!(listed(&["type=custom"]), ["app-1", "db"]);
        assert_eq!(listed(&["type=builtin"]), ["bridge", "host", "none"]);
        assert_eq!(listed(&["type=builtin", "type=custom"]).len(), 5);
        assert_eq!(listed(&["scope=swarm"]).len(), 0);
        assert_eq!(listed(&["label=env=test", "label=tier"]), ["app-1", "db"]);
        assert_eq!(listed(&["label=env=test", "label=other"]).len(), 0);
        assert_eq!(listed(&["label!=env"]), ["bridge", "host", "none"]);
        assert_eq!(listed(&["dangling=true"]), ["app-1"]);
        assert_eq!(listed(&["dangling=0"]), ["bridge", "host", "none", "db"]);
        assert_eq!(listed(&["until=2026-01-02", "type=custom"]), ["app-1", "db"]);
        assert_eq!(listed(&["until=2025-01-02", "type=custom"]).len(), 0);
        let id = network("db").about.id.short();
        assert_eq!(listed(&[&format!("id={}", id.to_uppercase())]), ["db"]);
    }

    #[test]
    fn bad_filters_are_named() {
        for (text, why) in [
            ("name", "invalid filter \"name\": key=value is expected"),
            ("type=x", "invalid filter \"type=x\": custom or builtin is expected"),
            ("dangling=maybe", "invalid filter \"dangling=maybe\": true or false is expected"),
            (
                "until=soon",
                "invalid filter \"until=soon\": a date, a duration or seconds since 1970 are expected",
            ),
        ] {
            assert_eq!(parse(&[text]).unwrap_err().to_string(), why);
        }
        assert!(
            parse(&["colour=red"])
                .unwrap_err()
                .to_string()
                .starts_with("invalid filter \"colour\": the filters are ")
        );
        assert!(parse(&["until=1", "until=2"]).is_err());
        assert!(parse(&["name=("]).is_err());
    }
}
