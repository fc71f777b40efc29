//! The `dhcp` plugin and its daemon, beside a real server.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};
use weft_testkit::{
    Background, Container, DhcpServer, Lab, Output, PluginCall, Program, skip_unless, staged, until,
};

/// How the daemon is started, patient enough for a busy machine.
const DAEMON: [&str; 4] = ["daemon", "-timeout=3s", "-resendmax=1s", "-resendtimeout=20s"];

/// A host whose bridge leads to a DHCP server.
pub(crate) struct Net {
    pub(crate) server: DhcpServer,
    pub(crate) daemon: Option<Background>,
    pub(crate) lab: Lab,
}

impl Net {
    /// Starts server and daemon; nothing when there is no server on this machine.
    pub(crate) fn new(further: &[&str]) -> Option<Self> {
        let lab = Lab::new();
        let server = DhcpServer::start(&lab, further)?;
        let mut net = Self { server, daemon: None, lab };
        net.start(&[]);
        Some(net)
    }

    pub(crate) fn start(&mut self, further: &[&str]) {
        let program = Program::new(staged("dhcp")).args(DAEMON).args(further);
        self.daemon = Some(program.env("WEFT_ROOT", self.lab.root()).background());
        let socket = self.socket();
        until("the daemon's start", || UnixStream::connect(&socket).is_ok());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.lab.path("run/cni/dhcp.sock")
    }

    /// The daemon as a service manager starts it: these many of its descriptors from 3 on are `listener`, and `who` is
    /// the process that they are for.
    fn handed(&self, listener: &UnixListener, count: u8, who: &str) -> Program {
        fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let fds: Vec<_> = (3..3 + count).map(|fd| format!("{fd}<&{}", listener.as_raw_fd())).collect();
        let (dhcp, words, fds) = (staged("dhcp").display().to_string(), DAEMON.join(" "), fds.join(" "));
        let line = format!("LISTEN_FDS={count} LISTEN_PID={who} exec {dhcp} {words} {fds}");
        Program::new("/bin/sh").args(["-c", &line]).env("WEFT_ROOT", self.lab.root())
    }

    pub(crate) fn bridge(&self, ipam: &Value) -> PluginCall<'_> {
        self.lab.plugin("bridge").json(&network(ipam))
    }
}

/// A network on the bridge, with these settings of its addresses.
pub(crate) fn network(ipam: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0"});
    conf["ipam"] = json!({"type": "dhcp"});
    for (key, value) in ipam.as_object().into_iter().flatten() {
        conf["ipam"][key] = value.clone();
    }
    conf
}

pub(crate) fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_string()
}

macro_rules! net {
    ($($word:expr),*) => {
        match Net::new(&[$($word),*]) {
            Some(net) => net,
            None => return,
        }
    };
}

#[test]
fn an_address_is_got_and_given_back() {
    let net = net!(
        "--dhcp-option=option:dns-server,10.70.0.53",
        "--dhcp-option=option:domain-name,a.test",
        "--dhcp-option=option:mtu,1400",
        "--dhcp-option=option:classless-static-route,10.71.0.0/16,10.70.0.7,0.0.0.0/0,10.70.0.1"
    );
    let red = net.lab.container("red");
    let before = net.lab.snapshot();
    let call = net.bridge(&json!({"priority": 50}));
    let result = call.add(&red).expect_json();
    let got = address(&result);
    assert!(got.starts_with("10.70.0.5") && net.server.given() == [got.clone()], "{result}");
    assert_eq!(red.addresses("eth0"), [format!("{got}/24")]);
    assert_eq!(result["ips"][0]["gateway"], "10.70.0.1");
    assert_eq!(
        (&result["dns"]["nameservers"], &result["dns"]["domain"]),
        (&json!(["10.70.0.53"]), &json!("a.test"))
    );
    let routes = red.ip("route show");
    assert!(routes.contains("10.71.0.0/16 via 10.70.0.7 dev eth0 metric 50 mtu 1400"), "{routes}");
    assert!(routes.contains("default via 10.70.0.1 dev eth0 metric 50"), "{routes}");
    assert!(red.ping("10.70.0.1"));
    call.status().expect_ok();
    net.bridge(&json!({})).prev_result(&result).check(&red).expect_ok();
    // The client says who it is as the reference daemon does.
    assert!(net.server.has_given_to("red/net/eth0"), "{}", net.server.leases());

    call.del(&red).expect_ok();
    until("the release", || net.server.given().is_empty());
    assert_eq!(net.server.said("DHCPRELEASE", &got), 1);
    call.del(&red).expect_ok();
    fs::remove_file(net.lab.path("served")).unwrap();
    fs::File::create(net.lab.path("served")).unwrap();
    let after = net.lab.snapshot();
    let left = before.difference(&after);
    // The server's own files.
    let others = [" log ", " served "];
    let left: Vec<_> = left.lines().filter(|line| !others.iter().any(|other| line.contains(other))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_lease_is_renewed_also_after_a_restart() {
    let mut net = net!("--dhcp-option=option:T1,4", "--dhcp-option=option:T2,60");
    let red = net.lab.container("red");
    let got = address(&net.bridge(&json!({})).add(&red).expect_json());
    let acks = net.server.said("DHCPACK", &got);
    until("a renewal", || net.server.said("DHCPACK", &got) > acks);
    net.daemon = None;
    let acks = net.server.said("DHCPACK", &got);
    net.start(&[]);
    until("a renewal after the restart", || net.server.said("DHCPACK", &got) > acks);
    assert_eq!(net.server.said("DHCPDISCOVER", ""), 0);
    // A second ADD of somebody else does not get red's address.
    let blue = net.lab.container("blue");
    assert_ne!(address(&net.bridge(&json!({})).add(&blue).expect_json()), got);
    net.bridge(&json!({})).del(&red).expect_ok();
    until("the release", || !net.server.given().contains(&got));
}

#[test]
fn options_are_asked_for_and_told() {
    let net = net!("--dhcp-option=option:dns-server,10.70.0.53");
    let red = net.lab.container("red");
    let ipam = json!({
        "request": [{"skipDefault": true}, {"option": "subnet-mask"}],
        "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}, {"option": "vendor-class-identifier", "value": "weft-test"}],
    });
    let call = net.bridge(&ipam).args("IgnoreUnknown=1;K8S_POD_NAME=webserver");
    let result = call.add(&red).expect_json();
    assert!(
        result["dns"].is_null() && result["routes"].is_null(),
        "what was not asked for is not there: {result}"
    );
    assert!(net.server.log().contains("vendor class: weft-test"));
    assert!(net.server.leases().contains(" webserver "));
    let bad = net.bridge(&json!({"request": [{"option": "nonsense"}]})).add(&net.lab.container("blue"));
    bad.expect_error(7);
    assert!(bad.stdout.contains(r#"Can not parse option \"nonsense\""#), "{bad}");
}

#[test]
fn without_a_server_nothing_is_left() {
    let mut net = net!();
    net.server.stop();
    net.daemon = None;
    net.start(&["-timeout=300ms", "-resendtimeout=1s"]);
    let red = net.lab.container("red");
    let before = net.lab.snapshot();
    let refused: Output = net.bridge(&json!({})).add(&red);
    assert!(
        refused.code != 0 && refused.stdout.contains("error calling DHCP.Allocate: no more tries"),
        "{refused}"
    );
    net.lab.assert_restored(&before);
    assert!(!red.has_link("eth0"));
    net.bridge(&json!({})).del(&red).expect_ok();
    net.lab.assert_restored(&before);
}

#[test]
fn without_a_daemon_del_gives_the_address_back() {
    let mut net = net!();
    let [red, blue] = ["red", "blue"].map(|name| net.lab.container(name));
    let got = address(&net.bridge(&json!({})).add(&red).expect_json());
    net.bridge(&json!({})).add(&blue).expect_ok();
    net.daemon = None;
    let refused = net.bridge(&json!({})).add(&net.lab.container("green"));
    assert!(
        refused.code != 0 && refused.stdout.contains("error dialing DHCP daemon: dial unix "),
        "{refused}"
    );
    net.bridge(&json!({})).status().expect_error(50);
    net.bridge(&json!({})).del(&red).expect_ok();
    assert!(!red.has_link("eth0") && !net.lab.path("run/weft/dhcp/red").exists());
    // With the interface gone before the lease, the server is told only by those who still have it.
    net.lab
        .plugin("dhcp")
        .conf(
            json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {"type": "dhcp"}})
                .to_string(),
        )
        .del(&blue)
        .expect_ok();
    until("the release", || net.server.given().len() < 2);
    assert!(net.server.given().contains(&got) || net.server.given().is_empty());
}

#[test]
fn gc_gives_back_what_nobody_lists() {
    let net = net!();
    let [red, blue] = ["red", "blue"].map(|name| net.lab.container(name));
    net.bridge(&json!({})).add(&red).expect_ok();
    net.bridge(&json!({})).add(&blue).expect_ok();
    assert_eq!(net.server.given().len(), 2);
    let red_address = red.addresses("eth0")[0].replace("/24", "");
    net.bridge(&json!({})).gc(&[("blue", "eth0")]).expect_ok();
    until("the release", || net.server.given().len() == 1);
    assert_eq!(
        net.server.said("DHCPRELEASE", &red_address),
        1,
        "the server is told before the interface goes"
    );
    assert!(!net.lab.path("run/weft/dhcp/red").exists() && net.lab.path("run/weft/dhcp/blue").exists());
    assert!(!red.has_link("eth0") && blue.has_link("eth0"));
}

#[test]
fn del_succeeds_in_every_bad_case() {
    let net = net!();
    type Case = fn(&Net, &Container, PluginCall<'_>);
    let cases: [(&str, Case); 4] = [
        ("gone", |_, red, call| {
            red.vanish();
            call.del(red).expect_ok();
        }),
        ("empty", |_, red, call| {
            call.netns("").del(red).expect_ok();
        }),
        ("nolink", |_, red, call| {
            red.ip("link delete eth0");
            call.del(red).expect_ok();
        }),
        ("broken", |net, red, _| {
            let conf = r#"{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0",
                "ipam": {"type": "dhcp", "request": 5}}"#;
            net.lab.plugin("bridge").conf(conf).del(red).expect_ok();
        }),
    ];
    for (name, case) in cases {
        let red = net.lab.container(name);
        net.bridge(&json!({})).add(&red).expect_ok();
        assert!(net.lab.path("run/weft/dhcp").join(name).exists());
        case(&net, &red, net.bridge(&json!({})));
        assert!(!net.lab.path("run/weft/dhcp").join(name).exists(), "{name}: the lease stayed");
    }
}

#[test]
fn the_daemon_survives_whatever_it_is_told() {
    let net = net!();
    let socket = net.socket();
    for text in [
        "",
        "\n",
        "{",
        "[]\n",
        "\"status\"\n",
        "{\"allocate\":5}\n",
        "{\"release\":{\"network\":\"..\"}}\n",
        "\0\u{fffd}\n",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("}\n"), "{text:?}: {answer:?}");
    }
    net.bridge(&json!({})).add(&net.lab.container("red")).expect_ok();
    // There is one daemon for a socket, and a word that is none ends it.
    let daemon =
        |words: &[&str]| Program::new(staged("dhcp")).args(words).env("WEFT_ROOT", net.lab.root()).run();
    daemon(&["daemon"]).expect_failure(1, &["another daemon listens on"]);
    daemon(&["daemon", "-nonsense"]).expect_failure(1, &["there is no option -nonsense"]);
}

#[test]
fn an_add_that_fails_later_gives_the_address_back() {
    // A way to a gateway that is on no link: the kernel refuses the route once the address is there.
    let net = net!("--dhcp-option=option:classless-static-route,10.71.0.0/16,192.0.2.1");
    let red = net.lab.container("red");
    let refused = net.bridge(&json!({})).add(&red);
    assert!(refused.code != 0 && refused.stdout.contains("10.71.0.0/16"), "{refused}");
    assert!(!refused.stdout.contains("left behind"), "{refused}");
    until("the release", || net.server.given().is_empty());
    assert!(net.server.log().contains("DHCPACK(eth0)") && net.server.log().contains("DHCPRELEASE(eth0)"));
    assert!(!red.has_link("eth0") && !net.lab.path("run/weft/dhcp/red").exists());
}

#[test]
fn the_service_managers_socket_is_taken_over() {
    let mut net = net!();
    net.daemon = None;
    fs::remove_file(net.socket()).unwrap();
    let listener = UnixListener::bind(net.socket()).unwrap();
    // It is for another process, so the daemon looks for a socket of its own, on whose path somebody answers.
    net.handed(&listener, 1, "1").run().expect_failure(1, &["another daemon listens on"]);
    net.handed(&listener, 2, "$$")
        .run()
        .expect_failure(1, &["2 sockets were handed over, and one is needed"]);
    net.daemon = Some(net.handed(&listener, 1, "$$").background());
    // From here on the daemon alone has it: no socket was made again.
    drop(listener);
    let red = net.lab.container("red");
    let got = address(&net.bridge(&json!({})).add(&red).expect_json());
    assert_eq!(net.server.given(), [got]);
    net.bridge(&json!({})).del(&red).expect_ok();
    until("the release", || net.server.given().is_empty());
}

/// The reference plugins, and the one of them that asks for addresses.
const DEBIAN: &str = "/usr/lib/cni";

impl Net {
    /// Puts the reference's daemon where ours was.
    fn start_reference(&mut self) {
        self.daemon = None;
        fs::remove_file(self.socket()).unwrap();
        let words = ["daemon".into(), "-socketpath".into(), self.socket().display().to_string()];
        self.daemon = Some(Program::new(Path::new(DEBIAN).join("dhcp")).args(words).background());
        let socket = self.socket();
        until("the start of the reference's daemon", || UnixStream::connect(&socket).is_ok());
    }

    /// Puts ours where another one was.
    fn start_ours(&mut self) {
        self.daemon = None;
        self.start(&[]);
    }

    fn conf(&self) -> Value {
        let ipam = json!({"type": "dhcp", "daemonSocketPath": self.socket()});
        json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": ipam})
    }

    fn bridge_in(&self, folder: &Path) -> PluginCall<'_> {
        self.lab.plugin_in(folder, "bridge").json(&self.conf())
    }

    /// Keeps what a container was told as the reference library does.
    fn remember(&self, container: &str, result: &Value) {
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [self.conf()]});
        let config = self.lab.sh(&format!("printf %s '{list}' | base64 -w0")).expect_ok().to_owned();
        let entry = json!({
            "kind": "cniCacheV1", "containerId": container, "ifName": "eth0", "networkName": "net",
            "config": config, "result": result,
        });
        let folder = self.lab.path("var/lib/cni/results");
        fs::create_dir_all(&folder).unwrap();
        let mut file = fs::File::create(folder.join(format!("net-{container}-eth0"))).unwrap();
        file.write_all(entry.to_string().as_bytes()).unwrap();
    }
}

#[test]
fn leases_of_the_references_daemon_are_taken_over() {
    skip_unless!(Path::new(DEBIAN).join("dhcp").exists(), "Debian's package containernetworking-plugins");
    let mut net = net!("--dhcp-option=option:T1,4", "--dhcp-option=option:T2,60");
    net.start_reference();
    let (ours, theirs) = (weft_testkit::staged_folder(), PathBuf::from(DEBIAN));
    let connect = |net: &Net, name: &str| {
        let container = net.lab.container(name);
        let result = net.bridge_in(&theirs).add(&container).expect_json();
        (container, address(&result), result)
    };
    let (red, got, result) = connect(&net, "red");
    let (green, unchecked, of_green) = connect(&net, "green");
    let (blue, alone, of_blue) = connect(&net, "blue");
    assert_eq!(net.server.given().len(), 3);

    // The reference's daemon is still there, and speaks another language.
    let refused = net.bridge_in(&ours).add(&net.lab.container("late"));
    assert!(refused.code != 0 && refused.stdout.contains("is not ours"), "{refused}");
    net.bridge_in(&ours).prev_result(&of_blue).del(&blue).expect_ok();
    until("the release", || !net.server.given().contains(&alone));
    assert_eq!(net.server.said("DHCPRELEASE", &alone), 1);

    // What the runtime keeps of an attachment is enough; where it keeps nothing, it asks whether all is well. From then
    // on the lease is renewed.
    net.remember("green", &of_green);
    net.start_ours();
    until("a lease is taken over", || net.lab.path("run/weft/dhcp/green").exists());
    assert!(!net.lab.path("run/weft/dhcp/red").exists());
    net.bridge_in(&ours).prev_result(&result).check(&red).expect_ok();
    assert!(net.lab.path("run/weft/dhcp/red").exists());
    let acks = net.server.said("DHCPACK", &got);
    until("a renewal", || net.server.said("DHCPACK", &got) > acks);
    for (container, address, result) in [(&red, &got, &result), (&green, &unchecked, &of_green)] {
        net.bridge_in(&ours).prev_result(result).del(container).expect_ok();
        until("the release", || !net.server.given().contains(address));
        assert_eq!(net.server.said("DHCPRELEASE", address), 1);
        assert!(!container.has_link("eth0"));
        net.bridge_in(&ours).prev_result(result).del(container).expect_ok();
    }
    assert!(net.server.given().is_empty());
}

#[test]
fn the_references_daemon_takes_leases_of_ours_over() {
    skip_unless!(Path::new(DEBIAN).join("dhcp").exists(), "Debian's package containernetworking-plugins");
    let mut net = net!();
    let red = net.lab.container("red");
    let result = net.bridge_in(&weft_testkit::staged_folder()).add(&red).expect_json();
    let got = address(&result);
    net.start_reference();
    let reference = net.bridge_in(Path::new(DEBIAN)).prev_result(&result);
    reference.check(&red).expect_ok();
    assert_eq!(net.server.given(), [got], "the same address again");
    // Release 1.1.1 tells no server, after its own ADD neither: it looks for the interface outside the container.
    reference.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
}
