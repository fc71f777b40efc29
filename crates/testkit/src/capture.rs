//! What passed a network, frame by frame.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The discard port (RFC 863): where the mark goes.
const DISCARD: u16 = 9;
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for frames that the thread has not read yet, in bytes.
const ROOM: usize = 64 << 20;
/// The longest frame: links pass on what a sender leaves to them to cut into pieces.
const LONGEST: usize = 1 << 16;

/// Keeps every frame that passes a namespace. For a test's few packets, not for a load.
#[derive(Debug)]
pub struct Capture {
    own: IpAddr,
    mark: String,
    frames: Receiver<Vec<Vec<u8>>>,
}

impl Capture {
    /// Starts to listen in the calling thread's namespace. `own` is an address of it.
    pub(crate) fn start(own: IpAddr) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let mark = format!("the end of capture {} ", STARTED.fetch_add(1, Ordering::Relaxed));
        let heard = open().unwrap_or_else(|error| panic!("no capture: {error}"));
        let (send, frames) = channel();
        let end = mark.clone();
        thread::spawn(move || listen(&heard, end.as_bytes(), &send));
        Self { own, mark, frames }
    }

    /// Ends it and returns all frames, each from its Ethernet header on. A frame is there once for each link that it
    /// passed.
    ///
    /// A packet that the namespace sends to itself comes after all that, so nothing has to be waited for.
    ///
    /// # Panics
    ///
    /// When that packet is not heard.
    pub fn stop(self) -> Vec<Vec<u8>> {
        UdpSocket::bind(SocketAddr::new(self.own, 0))
            .and_then(|socket| socket.send_to(self.mark.as_bytes(), SocketAddr::new(self.own, DISCARD)))
            .unwrap_or_else(|error| panic!("the capture cannot be marked: {error}"));
        self.frames.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("the mark was not heard: {error}"))
    }

    /// Ends it and returns how many frames contain these bytes.
    ///
    /// # Panics
    ///
    /// As [`Capture::stop`].
    pub fn stop_and_count(self, bytes: &[u8]) -> usize {
        self.stop().iter().filter(|frame| contains(frame, bytes)).count()
    }
}

fn open() -> nix::Result<OwnedFd> {
    let all = SockProtocol::EthAll;
    let heard = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
    setsockopt(&heard, sockopt::RcvBufForce, &ROOM)?;
    setsockopt(&heard, sockopt::ReceiveTimeout, &TimeVal::seconds(60))?;
    Ok(heard)
}

fn listen(heard: &OwnedFd, mark: &[u8], send: &Sender<Vec<Vec<u8>>>) {
    let mut frames = Vec::new();
    let mut frame = vec![0; LONGEST];
    loop {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let received = recvmsg::<()>(heard.as_raw_fd(), &mut parts, None, MsgFlags::empty());
        let Ok(length) = received.map(|received| received.bytes) else { return };
        let frame = &frame[..length];
        if contains(frame, mark) {
            // Nobody waits any more if the test has failed.
            send.send(frames).ok();
            return;
        }
        frames.push(frame.to_vec());
    }
}

fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}
