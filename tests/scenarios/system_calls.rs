//! What a call asks of the kernel: counted under strace(1), never timed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Program, peer, skipped, staged_folder};

/// One line of a trace: who called what, with which arguments.
struct Traced {
    process: String,
    text: String,
}

/// Returns where strace is, if it is there and may trace; says what is lacking otherwise.
fn strace() -> Option<PathBuf> {
    let strace = peer("/usr/bin/strace")?;
    let tried = Program::new(&strace).args(["-f", "-o", "/dev/null", "true"]).run();
    if tried.code != 0 {
        skipped(format_args!("strace that may trace (ptrace): {tried}"));
        return None;
    }
    Some(strace)
}

/// What a plugin's call and the processes it left did, in order.
struct Trace(Vec<Traced>);

impl Trace {
    /// Has `bridge` do something for a container.
    fn of(strace: &Path, lab: &Lab, verb: &str, red: &Container, conf: &Value) -> Self {
        let file = lab.path("trace");
        let bridge = Program::new(strace)
            .args(["-f", "-s", "512", "-o", file.to_str().unwrap()])
            .args([staged_folder().join("bridge")])
            .stdin(conf.to_string())
            .env("WEFT_ROOT", lab.root())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", red.name())
            .env("CNI_NETNS", red.netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", staged_folder());
        bridge.run().expect_ok();
        Self(whole_calls(&lab.read("trace")))
    }

    /// The process that was asked.
    fn plugin(&self) -> &str {
        &self.0[0].process
    }

    /// The calls of this name, of all processes.
    fn calls<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Traced> {
        let start = format!("{name}(");
        self.0.iter().filter(move |call| call.text.starts_with(&start))
    }

    /// The rtnetlink requests that change something, as they are sent: each with who sends it.
    fn changes(&self) -> Vec<(&Traced, Vec<u16>)> {
        let sent = self.calls("sendto").map(|call| (call, requests(&call.text)));
        sent.filter(|(_, requests)| requests.iter().any(|request| changes_something(*request))).collect()
    }
}

/// Puts the two halves of a call together that another process's call came between.
fn whole_calls(trace: &str) -> Vec<Traced> {
    let mut calls: Vec<Traced> = Vec::new();
    for line in trace.lines() {
        let (process, text) = line.split_once(' ').unwrap();
        let text = text.trim_start();
        match text.strip_prefix("<... ") {
            None => calls.push(Traced { process: process.into(), text: text.into() }),
            Some(rest) => {
                let unfinished = calls.iter_mut().rfind(|call| call.process == process).unwrap();
                unfinished.text += rest.split_once("resumed>").unwrap().1;
            }
        }
    }
    calls
}

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;

/// Returns the types of the rtnetlink messages in a call. A socket's first one has no name in a trace: strace does not
/// know yet what the socket is for.
fn requests(text: &str) -> Vec<u16> {
    let names = [("RTM_NEWLINK", NEWLINK), ("RTM_DELLINK", DELLINK), ("RTM_SETLINK", SETLINK)];
    let further = [("RTM_NEWADDR", NEWADDR), ("RTM_NEWROUTE", NEWROUTE)];
    let number = |word: &str| {
        let hex = word.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let named =
            || names.iter().chain(&further).find(|(name, _)| *name == word).map(|(_, number)| *number);
        // RTM_GETLINK and its like, and what is no rtnetlink, are no changes.
        hex.or_else(named).unwrap_or_default()
    };
    let types = text.split("nlmsg_type=").skip(1);
    types.map(|rest| number(rest.split([',', ' ']).next().unwrap_or_default())).collect()
}

/// KERNEL: rtnetlink's types come in fours, NEW, DEL, GET and SET; nf_tables' have their subsystem in front.
fn changes_something(request: u16) -> bool {
    (NEWLINK..0x100).contains(&request) && request % 4 != 2
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "blue", "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "ranges": [[{"subnet": "10.90.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    })
}

#[test]
fn an_add_changes_the_kernel_in_two_sends() {
    let Some(strace) = strace() else { return };
    let lab = Lab::new();
    let [red, green] = ["red", "green"].map(|name| lab.container(name));
    // The first one makes the bridge.
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();

    let trace = Trace::of(&strace, &lab, "ADD", &green, &conf());

    let changes = trace.changes();
    let kinds: Vec<&[u16]> = changes.iter().map(|(_, requests)| requests.as_slice()).collect();
    let [outside, inside] = kinds[..] else { panic!("not two sends but {kinds:?}") };
    assert_eq!(outside.iter().filter(|kind| **kind == NEWLINK).count(), 1, "{outside:?}");
    assert!(outside.iter().all(|kind| [NEWLINK, SETLINK].contains(kind)), "{outside:?}");
    assert!(inside.contains(&NEWADDR) && inside.contains(&NEWROUTE), "{inside:?}");
    let made = &changes[0].0.text;
    // strace does not read a peer's attributes: its name, and the descriptor of the namespace that it is born in.
    for there in ["IFLA_MASTER", "IFF_UP", r"\x65\x74\x68\x30\x00", r"\x08\x00\x1c\x00"] {
        assert!(made.contains(there), "{there} is not in the first: {made}");
    }
    let socket = |number: usize| changes[number].0.text.split(',').next().unwrap();
    assert_ne!(socket(0), socket(1), "the second is for the container's namespace");
    // KERNEL: NETLINK_ROUTE has one acknowledgement for each request that asks for one.
    for (call, _) in &changes {
        assert_eq!(call.text.matches("NLM_F_ACK").count(), 1, "one answer to wait for: {}", call.text);
    }
    assert!(green.ping("10.90.0.2"));
    assert_eq!(trace.calls("execve").count(), 1, "no other program is started");
}

#[test]
fn a_del_returns_when_the_kernel_announces_the_links_removal() {
    let Some(strace) = strace() else { return };
    let lab = Lab::new();
    let [red, green] = ["red", "green"].map(|name| lab.container(name));
    for container in [&red, &green] {
        lab.plugin("bridge").json(&conf()).add(container).expect_ok();
    }

    let trace = Trace::of(&strace, &lab, "DEL", &green, &conf());

    let plugin = trace.plugin();
    let [(deleted, requests)] = &trace.changes()[..] else { panic!("not one change of the kernel") };
    assert_eq!(requests, &[DELLINK]);
    assert_ne!(deleted.process, plugin, "it waits for the kernel's barrier itself");
    let forks: Vec<&Traced> = trace.calls("clone").collect();
    assert!(
        forks.len() == 1
            && forks[0].process == plugin
            && forks[0].text.ends_with(&format!("= {}", deleted.process)),
        "not one child"
    );
    for call in ["wait4", "waitid"] {
        assert_eq!(trace.calls(call).count(), 0, "it waits for its child");
    }
    // What it hears before it goes on is the removal, told to everybody who listens, and the answer to nobody's request.
    let heard = trace.calls("recvfrom").filter(|call| call.process == plugin);
    let last = heard.last().unwrap();
    assert!(last.text.contains("RTM_DELLINK") && last.text.contains("nlmsg_seq=0"), "{}", last.text);
    assert!(!green.has_link("eth0") && red.has_link("eth0"));
}

#[test]
fn with_sync_delete_a_del_waits_itself() {
    let Some(strace) = strace() else { return };
    let lab = Lab::new();
    let red = lab.container("red");
    let mut conf = conf();
    conf["syncDelete"] = true.into();
    lab.plugin("bridge").json(&conf).add(&red).expect_ok();

    let trace = Trace::of(&strace, &lab, "DEL", &red, &conf);

    for call in ["clone", "clone3", "fork", "vfork"] {
        assert_eq!(trace.calls(call).count(), 0, "{call}: somebody else waits");
    }
    let deleted = trace
        .0
        .iter()
        .position(|call| call.text.starts_with("sendto(") && requests(&call.text).contains(&DELLINK));
    let answer = &trace.0[deleted.unwrap() + 1].text;
    assert!(
        answer.starts_with("recvfrom(") && answer.contains("error=0") && answer.contains("RTM_DELLINK"),
        "it does not wait for the answer: {answer}"
    );
    assert!(!red.has_link("eth0"));
}
