//! The network manager's use cases, one verb a file.
//!
//! A network is a CNI conflist, a container is a network namespace, and whatever happens to the kernel
//! happens in a CNI plugin: this crate finds plugins, asks them to describe themselves and to compose
//! conflists, and then speaks plain CNI. It knows no driver.

mod attachments;
pub mod claims;
pub mod config;
mod connect;
mod create;
mod disconnect;
pub mod drivers;
mod error;
mod exists;
pub mod filter;
pub mod host;
mod inspect;
mod leases;
mod locks;
mod ls;
mod mend;
pub mod namespace;
pub mod network;
mod node;
pub mod order;
pub mod overlay;
mod plugins;
pub mod pools;
mod ports;
pub mod predefined;
mod prune;
mod ps;
mod rm;
pub mod routes;
pub mod store;
pub mod subnets;
mod sweeps;

use weft_runtime::Runtime;
use weft_state::ports::Books;
use weft_state::{Records, Reservations, Root};

pub use attachments::Liveness;
use claims::Claims;
use config::Config;
pub use connect::{Connect, Connected};
pub use create::Create;
pub use disconnect::{Disconnect, Disconnected};
use drivers::Drivers;
pub use error::{Error, Kind};
pub use inspect::Inspected;
use locks::Locks;
pub use ls::Listed;
pub use plugins::Plugin;
pub use ports::{Port, Publish, Published};
pub use prune::Pruned;
pub use ps::Attached;
use store::Store;
use sweeps::Sweeps;

/// The networks and attachments of one host, or of one root directory.
#[derive(Debug)]
pub struct Manager {
    root: Root,
    config: Config,
    runtime: Runtime,
    drivers: Drivers,
    store: Store,
    records: Records,
    reservations: Reservations,
    books: Books,
    claims: Claims,
    locks: Locks,
    sweeps: Sweeps,
}

impl Manager {
    /// Returns the manager of everything below `root`.
    ///
    /// # Errors
    ///
    /// When the settings file is wrong.
    pub fn open(root: Root) -> Result<Self, Error> {
        let config = Config::load(&root)?;
        Ok(Self {
            runtime: Runtime::new(&root, config.plugin_path.clone()).with_timeout(config.timeout),
            drivers: Drivers::new(&root, config.plugin_path.clone()).with_timeout(config.timeout),
            store: Store::new(&root),
            records: Records::new(&root),
            reservations: Reservations::new(&root),
            books: Books::new(&root),
            claims: Claims::new(&root),
            locks: Locks::new(&root),
            sweeps: Sweeps::new(&root),
            config,
            root,
        })
    }
}
