//! The stores that the suite is run on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_store::SharedStore;
use weft_store::etcd::{EtcdSettings, EtcdStore};
use weft_store::file::FileStore;
use weft_testkit::{Authority, Etcd, Lab, Program};

/// A client of etcd that writes what no host of ours would.
pub(crate) async fn raw(settings: &EtcdSettings) -> etcd_client::Client {
    let pem = |file: &Option<PathBuf>| std::fs::read(file.as_ref().unwrap()).unwrap();
    let tls = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(pem(&settings.ca)))
        .identity(etcd_client::Identity::from_pem(pem(&settings.cert), pem(&settings.key)));
    let options = etcd_client::ConnectOptions::new().with_tls(tls);
    etcd_client::Client::connect(&settings.endpoints, Some(options)).await.unwrap()
}

/// A store, and what is behind it.
pub(crate) enum Server {
    Files { dir: tempfile::TempDir },
    Etcd { etcd: Box<Etcd>, settings: EtcdSettings, authority: Authority, lab: Box<Lab> },
}

impl Server {
    pub(crate) fn files() -> Self {
        Self::Files { dir: tempfile::tempdir().unwrap() }
    }

    /// A real etcd in a namespace beside the test's, which asks for certificates.
    pub(crate) fn etcd() -> Self {
        let lab = Lab::new();
        let outside = lab.uplink_that_answers();
        let address: IpAddr = "192.0.2.2".parse().unwrap();
        let authority = Authority::new(&lab.path("tls"));
        let etcd = Etcd::start_with_tls(&outside, address, &lab.path("etcd"), &authority);
        let own = authority.certificate("host", &[]);
        let settings = EtcdSettings {
            endpoints: vec![etcd.url()],
            ca: Some(authority.file()),
            cert: Some(own.file),
            key: Some(own.key),
            timeout: Some(2),
            progress: None,
            watchdog: None,
        };
        Self::Etcd { etcd: Box::new(etcd), settings, authority, lab: Box::new(lab) }
    }

    /// Another client of the same store.
    pub(crate) async fn store(&self) -> SharedStore {
        match self {
            Self::Files { dir } => Arc::new(FileStore::open(&live(dir.path())).await.unwrap()),
            Self::Etcd { settings, .. } => Arc::new(EtcdStore::new(settings.clone()).unwrap()),
        }
    }

    /// Other clients, that wait for as long as it takes when many want something at once.
    pub(crate) async fn patient_stores(&self, count: usize) -> Vec<SharedStore> {
        let mut stores = Vec::new();
        for _ in 0..count {
            stores.push(match self {
                Self::Files { .. } => self.store().await,
                Self::Etcd { settings, .. } => {
                    let patient = EtcdSettings { timeout: Some(60), ..settings.clone() };
                    Arc::new(EtcdStore::new(patient).unwrap())
                }
            });
        }
        stores
    }

    /// Stops the server; `false` when there is none.
    pub(crate) fn stop(&mut self) -> bool {
        match self {
            Self::Files { .. } => false,
            Self::Etcd { etcd, .. } => {
                etcd.stop();
                true
            }
        }
    }

    pub(crate) fn go_on(&mut self) {
        if let Self::Etcd { etcd, .. } = self {
            etcd.go_on();
        }
    }

    pub(crate) fn back_up(&self) {
        match self {
            Self::Files { dir } => copy(&live(dir.path()), &dir.path().join("backup")),
            Self::Etcd { etcd, .. } => etcd.back_up("backup"),
        }
    }

    /// Puts the backup in place of what there is; a server stays stopped.
    pub(crate) fn restore(&mut self) {
        match self {
            Self::Files { dir } => {
                let (live, backup) = (live(dir.path()), dir.path().join("backup"));
                // As people do it: the files that are there are written over, what came later is removed. The header, by
                // which everything else is found, is the last.
                for folder in ["data", "log", "leases"] {
                    std::fs::remove_dir_all(live.join(folder)).unwrap();
                    copy(&backup.join(folder), &live.join(folder));
                }
                std::fs::copy(backup.join("store.json"), live.join("restored")).unwrap();
                std::fs::rename(live.join("restored"), live.join("store.json")).unwrap();
            }
            Self::Etcd { etcd, .. } => etcd.restore("backup"),
        }
    }

    /// Takes all data away; a server stays stopped.
    pub(crate) fn wipe(&mut self) {
        match self {
            Self::Files { dir } => std::fs::remove_dir_all(live(dir.path())).unwrap(),
            Self::Etcd { etcd, .. } => etcd.wipe(),
        }
    }
}

fn live(dir: &Path) -> PathBuf {
    dir.join("live")
}

fn copy(from: &Path, to: &Path) {
    Program::new("cp").args(["-a".as_ref(), from.as_os_str(), to.as_os_str()]).run().expect_ok();
}
