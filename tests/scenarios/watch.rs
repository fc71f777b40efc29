//! `weftd watch` puts back what others take away, and keeps out of the rest.

use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use weft_testkit::{Background, Container, Lab, Output, Program, skip_unless, staged, staged_folder};

/// Much longer than a repair takes: a test that waits for so long tells that none was made.
const DEADLINE: Duration = Duration::from_secs(20);
/// The host, as the outside knows it.
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const PORT: u16 = 8080;

/// A running daemon, and the socket it reports to.
pub(crate) struct Daemon {
    program: Background,
    _reports: UnixDatagram,
}

impl Daemon {
    /// Starts it, beside the firewalld of a bus if there is one, and returns when it has looked once and listens.
    pub(crate) fn start(lab: &Lab, bus: &str) -> Self {
        let path = lab.path("run/notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let program = Program::new(staged("weftd")).args(["watch"]).env("NOTIFY_SOCKET", &path);
        let program = program.env("WEFT_ROOT", lab.root()).env("CNI_PATH", staged_folder());
        let program = if bus.is_empty() { program } else { program.env("DBUS_SYSTEM_BUS_ADDRESS", bus) };
        let program = program.background();
        let mut state = [0; 256];
        let length = socket.recv(&mut state).unwrap();
        let state = String::from_utf8_lossy(&state[..length]);
        assert!(state.starts_with("READY=1\n"), "{state}");
        Self { program, _reports: socket }
    }
}

/// A host with a container that serves the outside through a published port, in both families.
struct Stage {
    lab: Lab,
    outside: Container,
    red: Container,
}

impl Stage {
    fn set(options: &[&str]) -> Self {
        let lab = Lab::new();
        let outside = lab.uplink();
        let create = ["network", "create", "--ipv6", "--subnet", "10.90.0.0/24", "--subnet", "fd00:90::/64"];
        lab.weft(create.into_iter().chain(options.iter().copied()).chain(["blue"])).expect_ok();
        let red = lab.container("red");
        lab.weft(["network", "connect", "-p", "8080:80", "blue", "red"]).expect_ok();
        Self { lab, outside, red }
    }

    /// Whether the outside is served through the published port, in each family.
    fn served(&self) -> [bool; 2] {
        HOST.map(|host| self.outside.call_tcp(host.parse::<IpAddr>().unwrap(), PORT).is_ok())
    }

    fn weftd(&self) -> Daemon {
        Daemon::start(&self.lab, "")
    }

    #[track_caller]
    fn eventually(&self, what: &str, there: impl Fn() -> bool) {
        let start = Instant::now();
        while !there() {
            assert!(start.elapsed() < DEADLINE, "{what}: not after {DEADLINE:?}:\n{}", self.lab.ruleset());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn sh(&self, line: &str) {
        self.lab.sh(line).expect_ok();
    }
}

/// What the daemon has said, once it was told to end and ended well.
#[track_caller]
fn said(daemon: Daemon) -> String {
    let Output { code, stderr, .. } = daemon.program.end();
    assert_eq!(code, 0, "{stderr}");
    stderr
}

/// Takes something away without a daemon, which stays away, and with one, which comes back.
#[track_caller]
fn is_put_back(options: &[&str], line: &str) {
    let stage = Stage::set(options);
    let _service = stage.red.serve_tcp(80);
    assert_eq!(stage.served(), [true; 2]);
    let whole = stage.lab.ruleset();

    stage.sh(line);
    let broken = stage.lab.ruleset();
    assert_ne!(broken, whole, "{line} took nothing away");
    assert_ne!(stage.served(), [true; 2], "{line} broke nothing");
    assert_eq!(stage.lab.ruleset(), broken, "without a daemon nobody mends anything");

    let daemon = stage.weftd();
    assert_eq!(stage.served(), [true; 2], "a daemon that starts looks for what is missing");
    stage.sh(line);
    stage.eventually("traffic through the published port", || stage.served() == [true; 2]);
    let said = said(daemon);
    assert!(said.contains("weftd: mended: ") && !said.contains("not mended"), "{said}");
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    is_put_back(&[], "nft flush ruleset");
}

#[test]
fn a_deleted_table_is_put_back() {
    is_put_back(&[], "nft delete table inet weft");
}

#[test]
fn flushed_chains_are_put_back() {
    is_put_back(&[], "nft flush table inet weft");
}

#[test]
fn what_iptables_flushed_is_put_back() {
    let version = Program::new("iptables").args(["--version"]).run();
    skip_unless!(version.stdout.contains("nf_tables"), "iptables in its nf_tables flavour");
    let flush = ["iptables", "ip6tables"].map(|tool| format!("{tool} -F; {tool} -t nat -F"));
    is_put_back(&["-o", "masquerade-backend=iptables"], &flush.join("; "));
}

#[test]
fn what_others_have_stays() {
    let stage = Stage::set(&[]);
    let theirs = "table ip theirs {\n\tchain theirs {\n\t}\n}\n";
    stage.sh("nft add table ip theirs; nft add chain ip theirs theirs");
    let daemon = stage.weftd();
    let whole = stage.lab.ruleset();
    assert!(whole.contains(theirs), "{whole}");
    stage.sh("nft delete table inet weft");
    stage.eventually("the table", || stage.lab.ruleset().contains("table inet weft"));
    assert!(stage.lab.ruleset().contains(theirs));
    stage.sh("nft delete table ip theirs");
    let said = said(daemon);
    assert!(
        !stage.lab.ruleset().contains("theirs"),
        "what others took of their own is not our business: {said}"
    );
}

#[test]
fn who_takes_it_away_again_and_again_does_not_win() {
    let stage = Stage::set(&[]);
    let there = || stage.lab.ruleset().contains("table inet weft");
    let daemon = stage.weftd();
    for _ in 0..7 {
        stage.eventually("the table", there);
        stage.sh("nft delete table inet weft");
    }
    stage.eventually("the table, in the end", there);
    let said = said(daemon);
    // How much slower it gets is a matter of the clock: daemon/src/schedule.rs has the tests of that.
    assert!((1..=8).contains(&said.matches("weftd: mended: ").count()), "{said}");
}

#[test]
fn a_change_that_was_announced_in_vain_is_seen() {
    let stage = Stage::set(&[]);
    let daemon = stage.weftd();
    let id = daemon.program.id();
    // While the daemon sleeps, its socket is filled with what is no change, until the kernel drops the rest.
    stage.sh(&format!("kill -STOP {id}"));
    let numbers: Vec<String> = (0..60_000u32).map(|number| number.to_string()).collect();
    let flood = format!(
        "table ip flood {{ set numbers {{ type mark; }}; }}; add element ip flood numbers {{ {} }}",
        numbers.join(", ")
    );
    stage.sh("nft add table ip flood; nft 'add set ip flood numbers { type mark; }'");
    Program::new("nft").args(["-f", "-"]).stdin(flood).run().expect_ok();
    stage.sh("nft delete table inet weft");
    assert!(!stage.lab.ruleset().contains("table inet weft"), "the daemon is asleep");
    stage.sh(&format!("kill -CONT {id}"));
    stage.eventually("the table", || stage.lab.ruleset().contains("table inet weft"));
    said(daemon);
}

#[test]
fn who_may_not_listen_is_told() {
    let lab = Lab::new();
    let weftd = staged("weftd");
    let words = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", weftd.to_str().unwrap(), "watch"];
    let output = Program::new("setpriv").args(words).env("WEFT_ROOT", lab.root()).run();
    output.expect_failure(1, &["weftd: cannot listen to changes of the ruleset", "hint: ", "root"]);
}
