//! Labs for tests on the real kernel.
//!
//! A test is a story with a snapshot at both ends:
//!
//! ```no_run
//! use weft_testkit::Lab;
//!
//! let lab = Lab::new();
//! let red = lab.container("red");
//! let before = lab.snapshot();
//! let conf = r#"{"cniVersion": "1.1.0", "name": "n1", "type": "bridge"}"#;
//! lab.plugin("bridge").conf(conf).add(&red).expect_ok();
//! lab.plugin("bridge").conf(conf).del(&red).expect_ok();
//! lab.assert_restored(&before);
//! ```
//!
//! The lab is a host of its own: the calling thread gets private network and mount namespaces, a
//! fresh /run and an empty state folder (`WEFT_ROOT`). Nothing of the machine's own network can be
//! reached from it. Binaries come from the staged folder and nowhere else.
#![expect(
    clippy::disallowed_methods,
    reason = "a test's lab starts programs, enters namespaces and breaks files"
)]

mod capture;
mod cluster;
mod container;
mod conversation;
mod dhcp;
mod etcd;
mod fragments;
mod lab;
mod leftovers;
mod packets;
mod peer;
mod plugin;
mod program;
mod reach;
mod skip;
mod snapshot;
mod statics;
mod surroundings;
mod traffic;
mod underlay;
mod xtables;

pub use capture::Capture;
pub use cluster::Cluster;
pub use container::Container;
pub use conversation::Conversation;
pub use dhcp::DhcpServer;
pub use etcd::{Authority, Certificate, Etcd};
pub use fragments::{Fragment, send_fragment, udp_datagram};
pub use lab::Lab;
pub use packets::{Ear, Heard};
pub use peer::{peer, peer_program, unpacked, until, until_none};
pub use plugin::PluginCall;
pub use program::{Background, Output, Program, staged, staged_folder};
pub use reach::{does_not_reach, falls_silent, reaches, stops_reaching};
pub use skip::{SKIPS, skipped};
pub use snapshot::Snapshot;
pub use statics::StaticNetwork;
pub use surroundings::Surroundings;
pub use traffic::{Answer, Load, TcpServer, UdpClient, UdpServer};
pub use underlay::{Host, Underlay};
pub use xtables::{Xtables, on_each};
