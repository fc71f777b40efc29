//! What passed a network, frame by frame.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
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
    heard: Receiver<Heard>,
}

/// What was heard up to the mark.
#[derive(Debug, Default)]
struct Heard {
    frames: Vec<Vec<u8>>,
    /// How many frames the kernel had no room for.
    lost: u32,
}

impl Capture {
    /// Starts to listen in the calling thread's namespace. `own` is an address of it.
    pub(crate) fn start(own: IpAddr) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let mark = format!("the end of capture {} ", STARTED.fetch_add(1, Ordering::Relaxed));
        let socket = open(ROOM).unwrap_or_else(|error| panic!("no capture: {error}"));
        let (send, heard) = channel();
        let end = mark.clone();
        // Nobody waits any more if the test has failed.
        thread::spawn(move || listen(&socket, end.as_bytes()).map(|heard| send.send(heard).ok()));
        Self { own, mark, heard }
    }

    /// Ends it and returns all frames, each from its Ethernet header on. A frame is there once for each link that it
    /// passed.
    ///
    /// A packet that the namespace sends to itself comes after all that, so nothing has to be waited for.
    ///
    /// # Panics
    ///
    /// When that packet is not heard, or the kernel has dropped a frame: what is sought may have been in it.
    #[track_caller]
    pub fn stop(self) -> Vec<Vec<u8>> {
        say(self.own, &self.mark);
        let heard = self.heard.recv_timeout(PATIENCE);
        heard.unwrap_or_else(|error| panic!("the mark was not heard: {error}")).whole()
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

impl Heard {
    /// Returns the frames, all that passed.
    #[track_caller]
    fn whole(self) -> Vec<Vec<u8>> {
        assert_eq!(self.lost, 0, "frames were dropped beside the {} that were kept", self.frames.len());
        self.frames
    }
}

/// Sends a packet that passes the namespace's own loopback link.
fn say(own: IpAddr, text: &str) {
    UdpSocket::bind(SocketAddr::new(own, 0))
        .and_then(|socket| socket.send_to(text.as_bytes(), SocketAddr::new(own, DISCARD)))
        .unwrap_or_else(|error| panic!("the capture cannot be marked: {error}"));
}

fn open(room: usize) -> nix::Result<OwnedFd> {
    let all = SockProtocol::EthAll;
    let heard = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
    setsockopt(&heard, sockopt::RcvBufForce, &room)?;
    setsockopt(&heard, sockopt::ReceiveTimeout, &TimeVal::seconds(60))?;
    setsockopt(&heard, sockopt::RxqOvfl, &1)?;
    Ok(heard)
}

/// Reads everything up to the mark; nothing if that does not come.
fn listen(socket: &OwnedFd, mark: &[u8]) -> Option<Heard> {
    let mut heard = Heard::default();
    let mut frame = vec![0; LONGEST];
    let mut beside = cmsg_space!(u32);
    loop {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::empty();
        let received = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut beside), flags) {
            Err(Errno::EINTR) => continue,
            received => received.ok()?,
        };
        // KERNEL: with each frame comes what PACKET_STATISTICS counts as dropped, as of when it was queued (packet_rcv,
        // net/packet/af_packet.c; sock_recv_drops).
        for message in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::RxqOvfl(lost) = message {
                heard.lost = lost;
            }
        }
        let length = received.bytes;
        let frame = &frame[..length];
        if contains(frame, mark) {
            return Some(heard);
        }
        heard.frames.push(frame.to_vec());
    }
}

fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::Lab;

    /// What is sought may be in what was not kept.
    #[test]
    fn a_capture_that_has_lost_a_frame_proves_nothing() {
        let lab = Lab::new();
        lab.ip("link set lo up");
        let own = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mark = "the end of this test";
        let heard = |room: usize| {
            let socket = open(room).unwrap();
            // Nobody reads meanwhile. A link to oneself is passed twice, and nobody takes them there: answers pass as well.
            (0..50).for_each(|_| say(own, "a frame"));
            let mut frame = vec![0; LONGEST];
            if room < ROOM {
                // Room for the mark.
                recvmsg::<()>(
                    socket.as_raw_fd(),
                    &mut [IoSliceMut::new(&mut frame)],
                    None,
                    MsgFlags::empty(),
                )
                .unwrap();
            }
            say(own, mark);
            listen(&socket, mark.as_bytes()).unwrap()
        };
        assert_eq!(heard(ROOM).whole().len(), 200);
        let lossy = heard(4096);
        assert!(lossy.lost > 0 && lossy.frames.len() < 200, "{lossy:?}");
        assert!(std::panic::catch_unwind(|| lossy.whole()).is_err());
    }
}
