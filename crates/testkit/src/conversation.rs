//! Connections that stay open, whatever happens to the rules that let them begin.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection.
#[derive(Debug)]
pub struct Conversation {
    caller: TcpStream,
    called: TcpStream,
}

impl Conversation {
    /// Begins with the two ends of one connection.
    ///
    /// # Panics
    ///
    /// If they are none.
    pub fn between(caller: TcpStream, called: TcpStream) -> Self {
        for end in [&caller, &called] {
            end.set_read_timeout(Some(PATIENCE)).unwrap_or_else(|error| panic!("{error}"));
        }
        let mut this = Self { caller, called };
        this.goes_on();
        this
    }

    /// What each end says arrives at the other. When this returns, all that was said is acknowledged: a receipt that the kernel
    /// holds back for some milliseconds would arrive amid what the test does next, where the rules are gone, and be answered
    /// with a reset.
    ///
    /// # Panics
    ///
    /// If it does not arrive.
    #[track_caller]
    pub fn goes_on(&mut self) {
        let Self { caller, called } = &*self;
        for (mut from, mut to) in [(caller, called), (called, caller)] {
            let mut heard = [0; 4];
            let said = from.write_all(b"word").and_then(|()| to.read_exact(&mut heard));
            said.unwrap_or_else(|error| panic!("the connection does not go on: {error}"));
            assert_eq!(&heard, b"word");
            SockRef::from(to).set_tcp_quickack(true).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
