//! Where etcd is and how we show who we are.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use serde::{Deserialize, Serialize};

use crate::StoreError;

/// Where etcd is and how we show who we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSettings {
    /// The servers: `https://192.0.2.1:2379`. Without TLS only on this host: `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// The certificates of who may sign the servers' certificates, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This host's certificate, in PEM; its common name is the user etcd knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Seconds that a request may take; 5 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Seconds after which a watch asks for the server's progress; 60 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u64>,
    /// Seconds of silence after which a watch is begun again; 90 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u64>,
}

/// How etcd is named and trusted, whole.
const WHOLE: &str = "weft overlay join --etcd https://ADDRESS:2379 --ca FILE --cert FILE --key FILE";
/// How to see what a file is.
const LOOK: &str = "ls -l FILE; head -1 FILE tells what is in it, and docs/overlay.md how it is made";

/// Where the port begins and the scheme ends.
struct Endpoint<'a> {
    tls: bool,
    host: &'a str,
}

impl EtcdSettings {
    /// Returns the settings for servers without TLS, which have to be on this host.
    pub fn plain(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, ca: None, cert: None, key: None, timeout: None, progress: None, watchdog: None }
    }

    /// Returns how long a request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(5).max(1))
    }

    /// Returns after how long a watch asks for the server's progress.
    ///
    /// etcd 3.4 tells it every ten minutes, and cannot be told otherwise: a watch that asks itself resumes from a revision that is
    /// not compacted yet.
    pub fn progress(&self) -> Duration {
        Duration::from_secs(self.progress.unwrap_or(60).max(1))
    }

    /// Returns after how long a server that says nothing is gone, whatever TCP thinks: one that lives has been asked by then.
    pub fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog.unwrap_or(90).max(1))
    }

    /// Says whether the settings can be right, files included.
    ///
    /// # Errors
    ///
    /// Names the setting and what is wrong with it.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.endpoints.is_empty() {
            return Err(wrong("endpoints", "there is none: https://ADDRESS:2379 is expected", WHOLE));
        }
        let mut tls = Vec::new();
        for text in &self.endpoints {
            let endpoint = endpoint(text)?;
            if !endpoint.tls && !is_own(endpoint.host) {
                return Err(wrong(text, "without TLS only on this host", WHOLE));
            }
            tls.push(endpoint.tls);
        }
        if tls.iter().any(|tls| *tls != tls_of(&self.endpoints)) {
            return Err(wrong("endpoints", "some are https:// and some http://", WHOLE));
        }
        self.options().map(drop)
    }

    /// As [`EtcdSettings::check`], for whoever gives them now: refuses files that nothing would be done with, too. Hosts that have
    /// joined with such are members as before.
    ///
    /// # Errors
    ///
    /// Names the setting and what is wrong with it.
    pub fn check_given(&self) -> Result<(), StoreError> {
        self.check()?;
        match self.endpoints.first() {
            Some(text)
                if !self.has_tls() && [&self.ca, &self.cert, &self.key].into_iter().any(Option::is_some) =>
            {
                Err(wrong(text, "http:// is without TLS, and --ca, --cert and --key are for it", WHOLE))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether servers are greeted with TLS.
    pub(super) fn has_tls(&self) -> bool {
        tls_of(&self.endpoints)
    }

    /// Returns the client library's options, with the certificates as they are now.
    pub(super) fn options(&self) -> Result<ConnectOptions, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(3))
            .with_timeout(self.timeout())
            .with_keep_alive(Duration::from_secs(5), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        Ok(match self.tls()? {
            Some(tls) => options.with_tls(tls),
            None => options,
        })
    }

    fn tls(&self) -> Result<Option<TlsOptions>, StoreError> {
        if !tls_of(&self.endpoints) {
            return Ok(None);
        }
        let missing = || {
            let why = "https:// needs the certificate of who signs the servers' certificates";
            wrong("--ca", why, WHOLE)
        };
        let ca = self.ca.as_deref().ok_or_else(missing)?;
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(ca, "CERTIFICATE")?));
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (pem(cert, "CERTIFICATE")?, pem(key, "PRIVATE KEY")?);
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            (None, None) => {}
            _ => return Err(wrong("--cert and --key", "either both or none", WHOLE)),
        }
        Ok(Some(tls))
    }
}

fn tls_of(endpoints: &[String]) -> bool {
    endpoints.first().is_some_and(|first| first.starts_with("https://"))
}

fn endpoint(text: &str) -> Result<Endpoint<'_>, StoreError> {
    let bad = || wrong(text, "https://ADDRESS:PORT is expected", WHOLE);
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(bad()),
    };
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    port.parse::<u16>().map_err(|_| bad())?;
    if host.is_empty() || host.contains(['/', '@', ' ']) { Err(bad()) } else { Ok(Endpoint { tls, host }) }
}

/// Returns an endpoint's host, a name or an address.
pub(super) fn host_of(text: &str) -> Result<&str, StoreError> {
    endpoint(text).map(|endpoint| endpoint.host)
}

fn is_own(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Reads a file in PEM that has to have such a part.
fn pem(path: &Path, part: &str) -> Result<Vec<u8>, StoreError> {
    let what = path.display().to_string();
    let bytes = weft_state::file::read(path).map_err(|error| wrong(&what, &error.to_string(), LOOK))?;
    let marker = format!("{part}-----");
    if String::from_utf8_lossy(&bytes).contains(&marker) {
        Ok(bytes)
    } else {
        Err(wrong(&what, &format!("there is no {part} in it; PEM is expected"), LOOK))
    }
}

fn wrong(what: &str, reason: &str, hint: &'static str) -> StoreError {
    StoreError::Setting { what: what.into(), reason: reason.into(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_without_tls_are_on_this_host() {
        let plain =
            |endpoint: &str| EtcdSettings::plain([endpoint]).check().map_err(|error| error.to_string());
        for good in ["http://127.0.0.1:2379", "http://[::1]:2379", "http://localhost:2379/"] {
            assert_eq!(plain(good), Ok(()), "{good}");
        }
        for (bad, words) in [
            ("http://192.0.2.1:2379", "http://192.0.2.1:2379: without TLS only on this host"),
            ("192.0.2.1:2379", "https://ADDRESS:PORT is expected"),
            ("https://192.0.2.1", "https://ADDRESS:PORT is expected"),
            ("https://:2379", "https://ADDRESS:PORT is expected"),
            ("https://192.0.2.1:99999", "https://ADDRESS:PORT is expected"),
            ("https://192.0.2.1:2379", "--ca: https:// needs the certificate of who signs"),
        ] {
            let error = plain(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
        let trusting =
            EtcdSettings { ca: Some("ca".into()), ..EtcdSettings::plain(["http://127.0.0.1:2379"]) };
        assert!(trusting.check_given().unwrap_err().to_string().contains("http:// is without TLS"));
        trusting.check().unwrap();
        EtcdSettings::plain(["http://127.0.0.1:2379"]).check_given().unwrap();
        assert!(EtcdSettings::plain(["http://192.0.2.1:2379"]).check_given().is_err());
        assert!(EtcdSettings::plain([""; 0]).check().is_err());
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
            Some(path)
        };
        let good = file("good", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
        let settings = EtcdSettings {
            ca: good.clone(),
            ..EtcdSettings::plain(["https://192.0.2.1:2379", "https://192.0.2.2:2379"])
        };
        for (ca, cert, key, words) in [
            (file("empty", ""), None, None, "there is no CERTIFICATE in it"),
            (Some(dir.path().join("absent")), None, None, "No such file"),
            (good.clone(), good.clone(), None, "either both or none"),
            (good.clone(), good.clone(), good.clone(), "there is no PRIVATE KEY in it"),
        ] {
            let error = EtcdSettings { ca, cert, key, ..settings.clone() }.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mixed = EtcdSettings::plain(["http://127.0.0.1:1", "https://127.0.0.1:1"]);
        assert!(mixed.check().unwrap_err().to_string().contains("some are https:// and some http://"));
    }
}
