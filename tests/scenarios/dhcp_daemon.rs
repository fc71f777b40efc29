//! What `dhcp daemon` is told by its flags, and what its networks tell a server and ask it for.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;
use weft_testkit::{Container, PluginCall, Program, staged, until};

use crate::dhcp_plugin::{Net, address, network};

macro_rules! net {
    ($($word:expr),*) => {
        match Net::new(&[$($word),*]) {
            Some(net) => net,
            None => return,
        }
    };
}

/// What a client said to whoever is a server (RFC 2131, section 2).
struct Said(Vec<u8>);

impl Said {
    /// Which question it is: a random number, the same when the question is said again.
    fn transaction(&self) -> [u8; 4] {
        self.0[4..8].try_into().unwrap()
    }

    /// Whether it wants answers to be sent to everybody.
    fn wants_broadcast(&self) -> bool {
        self.0[10] & 0x80 != 0
    }

    /// Returns the value of an option; nothing if it is not there.
    fn option(&self, code: u8) -> Option<&[u8]> {
        let mut rest = &self.0[240..];
        while let [there, length, tail @ ..] = rest {
            match there {
                0 => rest = &rest[1..],
                255 => return None,
                _ if *there == code => return Some(&tail[..usize::from(*length)]),
                _ => rest = &tail[usize::from(*length)..],
            }
        }
        None
    }
}

/// Somebody in the server's place who hears everything and answers nothing.
struct Listener(UdpSocket);

impl Listener {
    fn new(net: &mut Net) -> Self {
        net.server.stop();
        let socket = net.server.place().inside(|| UdpSocket::bind("0.0.0.0:67")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    /// Waits for a client to say something.
    #[track_caller]
    fn hear(&self) -> Said {
        let mut bytes = vec![0; 2048];
        let length = self.0.recv(&mut bytes).unwrap_or_else(|error| panic!("nobody says anything: {error}"));
        bytes.truncate(length);
        Said(bytes)
    }

    /// Returns what a client has said that has given up.
    fn heard_from(&self, call: &PluginCall<'_>, red: &Container) -> Vec<Said> {
        call.add(red).expect_error(999);
        let mut said = vec![self.hear()];
        self.0.set_nonblocking(true).unwrap();
        let mut bytes = [0; 2048];
        while let Ok(length) = self.0.recv(&mut bytes) {
            said.push(Said(bytes[..length].to_vec()));
        }
        self.0.set_nonblocking(false).unwrap();
        said
    }
}

/// A daemon that soon gives up.
const IMPATIENT: [&str; 2] = ["-timeout=300ms", "-resendtimeout=1ms"];

impl Net {
    /// Puts a daemon that is told more in the place of the usual one.
    fn restart(&mut self, further: &[&str]) {
        self.daemon = None;
        self.start(further);
    }

    /// Starts a daemon of a socket that is not the usual one.
    fn start_elsewhere(&mut self, words: &[&str], socket: &Path) {
        self.daemon = None;
        let program =
            Program::new(staged("dhcp")).args(["daemon", "-timeout=3s", "-resendmax=1s"]).args(words);
        self.daemon = Some(program.env("WEFT_ROOT", self.lab.root()).background());
        until("the daemon's start", || UnixStream::connect(socket).is_ok());
    }
}

#[test]
fn the_number_of_the_process_is_in_the_pidfile() {
    let mut net = net!();
    let file = net.lab.path("run/dhcp.pid");
    let flag = format!("-pidfile={}", file.display());
    for _ in 0..2 {
        // A file that the one before has left is written anew.
        net.restart(&[&flag]);
        let number = net.daemon.as_ref().unwrap().id().to_string();
        // It is written once the daemon has its socket: nobody else's number is written over.
        until("the number", || fs::read_to_string(&file).is_ok_and(|written| written == number));
    }
}

#[test]
fn the_socket_may_be_elsewhere() {
    let mut net = net!();
    let socket = net.lab.path("run/elsewhere/leases.sock");
    net.start_elsewhere(&["-socketpath", socket.to_str().unwrap()], &socket);
    let red = net.lab.container("red");
    // The usual socket is as the first daemon has left it.
    net.bridge(&json!({})).add(&red).expect_error(999);
    net.bridge(&json!({})).status().expect_error(50);

    let call = net.bridge(&json!({"daemonSocketPath": socket}));
    call.status().expect_ok();
    let got = address(&call.add(&red).expect_json());
    assert_eq!(net.server.given(), [got]);
    call.gc(&[]).expect_ok();
    until("the release", || net.server.given().is_empty());
    call.add(&red).expect_ok();
    call.del(&red).expect_ok();
    until("the release", || net.server.given().is_empty());
}

/// As it is for a daemon in a container of its own: the host's files are below a folder.
#[test]
fn paths_of_the_host_are_below_the_prefix() {
    let mut net = net!();
    let prefix = net.lab.path("host");
    fs::create_dir_all(prefix.join("run/netns")).unwrap();
    let flags = [format!("-hostprefix={}", prefix.display()), "-socketpath=/run/dhcp.sock".into()];
    let socket = prefix.join("run/dhcp.sock");
    net.start_elsewhere(&flags.each_ref().map(String::as_str), &socket);
    assert!(!Path::new("/run/dhcp.sock").exists());
    let red = net.lab.container("red");
    let call = net.bridge(&json!({"daemonSocketPath": socket}));

    let refused = call.add(&red);
    let below = prefix.join("run/netns/red");
    assert!(refused.code != 0 && refused.stdout.contains(below.to_str().unwrap()), "{refused}");

    net.lab.sh(&format!("mount --rbind /run/netns {0}/run/netns", prefix.display())).expect_ok();
    let got = address(&call.add(&red).expect_json());
    assert_eq!(net.server.given(), [got]);
    call.del(&red).expect_ok();
    until("the release", || net.server.given().is_empty());
}

#[test]
fn answers_are_sent_to_everybody_when_asked_for() {
    let mut net = net!();
    let listener = Listener::new(&mut net);
    for (name, flag, wanted) in [("red", "-broadcast", true), ("green", "-broadcast=false", false)] {
        net.restart(&[IMPATIENT[0], IMPATIENT[1], flag]);
        let said = listener.heard_from(&net.bridge(&json!({})), &net.lab.container(name));
        assert!(said.iter().all(|said| said.wants_broadcast() == wanted), "{flag}");
    }
    drop(listener);
    // And the answers that a server sends so are heard.
    net.server.serve(&[]);
    net.restart(&["-broadcast"]);
    let blue = net.lab.container("blue");
    let got = address(&net.bridge(&json!({})).add(&blue).expect_json());
    assert_eq!(blue.addresses("eth0"), [format!("{got}/24")]);
}

#[test]
fn a_client_asks_as_long_and_as_often_as_it_is_told() {
    let mut net = net!();
    let listener = Listener::new(&mut net);
    // Who has no time for a second attempt has one question.
    net.restart(&IMPATIENT);
    let said = listener.heard_from(&net.bridge(&json!({})), &net.lab.container("red"));
    assert!(said.iter().all(|again| again.transaction() == said[0].transaction()));

    // The pauses between attempts do not grow beyond what was said: the usual ones soon last a minute, in which nothing is
    // heard. In an attempt the question is said again, as long as its answer is waited for. And the server that comes at last
    // is found.
    net.restart(&["-timeout=300ms", "-resendmax=100ms", "-resendtimeout=1h"]);
    let green = net.lab.container("green");
    let (lab, server) = (&net.lab, &mut net.server);
    let result = thread::scope(|scope| {
        let asking = scope.spawn(|| lab.plugin("bridge").json(&network(&json!({}))).add(&green));
        let mut attempts = BTreeSet::new();
        let mut again = false;
        while attempts.len() < 10 || !again {
            again |= !attempts.insert(listener.hear().transaction());
        }
        drop(listener);
        server.serve(&[]);
        asking.join().unwrap()
    });
    assert_eq!(net.server.given(), [address(&result.expect_json())]);
}

#[test]
fn a_server_is_told_and_asked_what_the_network_says() {
    let mut net = net!();
    let listener = Listener::new(&mut net);
    net.restart(&IMPATIENT);
    let ipam = json!({
        "request": [{"skipDefault": true}, {"option": "subnet-mask"}, {"option": "routers"}, {"option": "42"}],
        "provide": [
            {"option": "host-name", "fromArg": "K8S_POD_NAME"},
            {"option": "vendor-class-identifier", "value": "weft-test"},
            {"option": "user-class", "value": "alpha"},
            {"option": "dhcp-client-identifier", "value": "me"},
            {"option": "224", "value": "private"},
        ],
    });
    let call = net.bridge(&ipam).args("IgnoreUnknown=1;K8S_POD_NAME=webserver");
    for said in listener.heard_from(&call, &net.lab.container("red")) {
        let told: [(u8, &[u8]); 6] = [
            (55, &[1, 3, 42]),
            (12, b"webserver"),
            (60, b"weft-test"),
            // RFC 3004: a list of texts, each with its length; this is the only one.
            (77, b"\x05alpha"),
            // RFC 2132, section 9.14: of no kind of hardware.
            (61, b"\0me"),
            (224, b"private"),
        ];
        for (code, value) in told {
            assert_eq!(said.option(code), Some(value), "option {code}");
        }
    }

    let plain = listener
        .heard_from(&net.bridge(&json!({"request": [{"option": "42"}]})), &net.lab.container("green"));
    assert_eq!(plain[0].option(55), Some(&[1, 3, 6, 15, 26, 33, 119, 121, 42][..]), "the usual ones and it");
    assert_eq!(plain[0].option(61), Some(&b"\0green/net/eth0"[..]));
    for code in [12, 60, 77] {
        assert_eq!(plain[0].option(code), None, "option {code}");
    }
}

#[test]
fn a_server_decides_by_the_user_class() {
    let net = net!(
        "--dhcp-userclass=set:known,alpha",
        "--dhcp-option=tag:known,option:dns-server,10.70.0.99",
        "--dhcp-option=tag:!known,option:dns-server,10.70.0.98"
    );
    for (name, class, server) in [("red", "alpha", "10.70.0.99"), ("green", "beta", "10.70.0.98")] {
        let ipam = json!({"provide": [{"option": "user-class", "value": class}]});
        let result = net.bridge(&ipam).add(&net.lab.container(name)).expect_json();
        assert_eq!(result["dns"]["nameservers"], json!([server]), "{class}");
    }
}
