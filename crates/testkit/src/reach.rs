//! Whom a container reaches, and whom it does not.

use std::net::IpAddr;

use crate::Container;

/// A new bridge probes its link-local address for a second or two, and without that the host asks for no
/// IPv6 neighbour: the first packets may be lost.
const TRIES: usize = 5;

/// Asserts that each address answers the container.
#[track_caller]
pub fn reaches(from: &Container, to: impl IntoIterator<Item = impl AsRef<str>>) {
    for address in to {
        let address = address.as_ref();
        assert!((0..TRIES).any(|_| from.ping(address)), "{} does not reach {address}", from.name());
    }
}

/// Asserts that no address answers the container. Its twin is [`reaches`], before or after.
#[track_caller]
pub fn does_not_reach(from: &Container, to: impl IntoIterator<Item = impl AsRef<str>>) {
    for address in to {
        let address = address.as_ref();
        assert!(!answers(from, address), "{} reaches {address}", from.name());
    }
}

/// Waits until no address answers the container, and asserts that it stays so.
///
/// KERNEL: an element of a set that is told to expire matches until the next jiffy, 10 ms at most.
#[track_caller]
pub fn stops_reaching(from: &Container, to: impl IntoIterator<Item = impl AsRef<str>>) {
    for address in to {
        let address = address.as_ref();
        let stopped = (0..20).any(|_| !answers(from, address));
        assert!(stopped && !answers(from, address), "{} still reaches {address}", from.name());
    }
}

/// Tells whether nobody answers at a TCP port any more.
///
/// KERNEL: an element of a map that is told to expire matches until the next jiffy, 10 ms at most.
#[must_use]
pub fn falls_silent(from: &Container, address: &str, port: u16) -> bool {
    let address: IpAddr = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
    (0..50).any(|_| from.ask_tcp(address, port).is_err())
}

fn answers(from: &Container, address: &str) -> bool {
    from.run("ping", &format!("-n -c 1 -W 0.3 {address}")).code == 0
}
