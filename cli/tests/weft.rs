//! The binary itself: what it prints where, its exit codes, and being killed.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "a test starts the binary it is about")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use weft_state::atomic::{self, Durability};

/// A driver without a kernel. With a file `slow` its ADD waits until a file `go` appears.
const DRIVER: &str = r#"#!/bin/sh
dir=$(dirname "$(dirname "$0")")
case "$CNI_COMMAND:$1" in
:describe)
    echo '{"type":"bridge","summary":"a fake","versions":["1.1.0"],"driver":{"addressing":true,"attachable":true}}'
    exit ;;
:compose) cat > /dev/null; echo '{"plugins":[{"type":"bridge"}]}'; exit ;;
esac
cat > /dev/null
echo "$CNI_COMMAND begins" >> "$dir/log"
if [ "$CNI_COMMAND" = ADD ] && [ -e "$dir/slow" ]; then
    touch "$dir/begun"
    while [ ! -e "$dir/go" ]; do sleep 0.01; done
fi
echo "$CNI_COMMAND ends" >> "$dir/log"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"198.18.1.9/24"}]}'
"#;

const LOOPBACK: &str = "#!/bin/sh\ncat > /dev/null\necho '{\"cniVersion\":\"1.1.0\"}'\n";

struct Host {
    dir: tempfile::TempDir,
}

/// Exit code, standard output, standard error.
type Said = (i32, String, String);

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        for (name, text) in [("bridge", DRIVER), ("loopback", LOOPBACK)] {
            host.write(&format!("bin/{name}"), text, 0o755);
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        atomic::write(&self.path(name), text.as_bytes(), Durability::Boot, mode).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.env("WEFT_ROOT", self.path("root")).env("WEFT_PLUGIN_PATH", self.path("bin"));
        command.args(words);
        command
    }

    fn run(&self, line: &str) -> Said {
        self.answer(line, "")
    }

    fn answer(&self, line: &str, input: &str) -> Said {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!((code, err.as_str()), (0, ""), "weft {line}");
        out
    }
}

/// Our own namespace, by a path that means the same to every process we start.
fn own_namespace() -> String {
    format!("/proc/{}/ns/net", std::process::id())
}

#[test]
fn lists_come_in_every_form() {
    let host = Host::new();
    let id = host.ok("network create --subnet 198.18.1.0/24 --label env=test n10").trim().to_owned();
    assert_eq!(id.len(), 64);
    host.ok("network create --subnet 198.18.2.0/24 n2");
    let table = host.ok("network ls");
    let names: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["bridge", "host", "n2", "n10", "none"]);
    assert!(table.starts_with("NETWORK ID     NAME      DRIVER    SCOPE\n"), "{table}");
    assert!(table.contains(&format!("{}   n10       bridge    local\n", &id[..12])), "{table}");

    assert_eq!(host.ok("network list -q -f name=n10"), format!("{}\n", &id[..12]));
    assert_eq!(host.ok("network ls -q --no-trunc -f name=n10"), format!("{id}\n"));
    assert_eq!(host.ok("network ls -f label=env --format {{.Name}}:{{.IPv6}}"), "n10:false\n");
    let json = host.ok("network ls -f name=n10 --format json");
    assert!(
        json.starts_with("{\"CreatedAt\":\"") && json.ends_with("\"Name\":\"n10\",\"Scope\":\"local\"}\n"),
        "{json}"
    );
    let gateways = host.ok("network inspect -f {{range.IPAM.Config}}{{.Gateway}}{{end}} n2 n10");
    assert_eq!(gateways, "198.18.2.1\n198.18.1.1\n");
}

#[test]
fn every_argument_is_tried_and_the_first_failure_counts() {
    let host = Host::new();
    host.ok("network create --subnet 198.18.1.0/24 n1");
    let (code, out, err) = host.run("network inspect nope n1");
    assert_eq!(code, 3);
    assert!(out.starts_with("[\n    {\n        \"Name\": \"n1\",\n"), "{out}");
    assert_eq!(err, "weft: network nope not found\nhint: weft network ls\n");
    assert_eq!(host.run("network inspect nope").1, "[]\n");

    host.ok(&format!("network connect --id c1 n1 {}", own_namespace()));
    host.ok("network create --subnet 198.18.2.0/24 n2");
    let (code, out, err) = host.run("network rm n1 nope n2");
    assert_eq!((code, out.as_str()), (4, "n2\n"));
    assert!(
        err.contains("network n1 has active endpoints") && err.contains("network nope not found"),
        "{err}"
    );
    assert_eq!(host.ok("network rm -f n1 nope"), "n1\n");

    assert_eq!(host.run("network exists n1"), (3, String::new(), String::new()));
    assert_eq!(host.run("network exists bridge").0, 0);
}

#[test]
fn prune_asks_first() {
    let host = Host::new();
    host.ok("network create --subnet 198.18.1.0/24 n1");
    for answer in ["", "n\n", "yes\n"] {
        let (code, out, err) = host.answer("network prune", answer);
        assert_eq!((code, out.as_str()), (0, ""));
        assert!(err.starts_with("WARNING! This will remove all custom networks"), "{err}");
        assert_eq!(host.run("network exists n1").0, 0);
    }
    assert_eq!(host.answer("network prune", "y\n").1, "Deleted Networks:\nn1\n\n");
    assert_eq!(host.ok("network prune -f"), "");
}

#[test]
fn mistakes_in_typing_are_one_line() {
    let host = Host::new();
    for line in
        ["network create --subnet 10.0.0.0/99 n1", "network create", "network frobnicate", "ps --nope"]
    {
        let (code, out, err) = host.run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(err.starts_with("weft: ") && !err.contains("\n\n"), "{line}: {err}");
    }
    let (code, _, err) = host.run("network ls --format {{.Nope}}");
    assert_eq!(code, 2);
    assert!(err.starts_with("weft: template parsing error: "), "{err}");
    assert!(host.ok("--version").starts_with("weft "));
    let script = host.ok("completion bash");
    assert!(
        script.contains("_weft") && script.contains("help__subcmd__network__subcmd__connect"),
        "{script}"
    );
}

#[test]
fn an_empty_root_is_the_usual_one() {
    let host = Host::new();
    let output = host.command(&["plugin", "describe", "bridge"]).env("WEFT_ROOT", "").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_broken_settings_file_is_named() {
    let host = Host::new();
    host.write("root/etc/weft/weft.toml", "drivr = 1\n", 0o644);
    let (code, _, err) = host.run("network ls");
    assert_eq!(code, 1);
    assert!(err.starts_with("weft: ") && err.contains("weft.toml") && err.contains("drivr"), "{err}");
}

#[test]
fn who_must_not_look_is_told_so() {
    let host = Host::new();
    host.ok("network create --subnet 198.18.1.0/24 n1");
    host.ok(&format!("network connect --id c1 n1 {}", own_namespace()));
    let damaged = host.path("root/etc/weft/networks.d/n0.conflist");
    host.write("root/etc/weft/networks.d/n0.conflist", "{", 0o644);
    let (code, out, err) = host.run("network ls --format {{.Name}}");
    assert_eq!((code, out.as_str()), (1, "bridge\nhost\nn1\nnone\n"), "the others are listed all the same");
    assert!(err.contains(damaged.to_str().unwrap()) && err.contains("\nhint: "), "{err}");
    fs::remove_file(damaged).unwrap();

    let nobody = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = host.command(&words).uid(65534).gid(65534).output();
        output.map(|output| (output.status.code(), String::from_utf8(output.stderr).unwrap()))
    };
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for line in ["ps", "network inspect n1", "network ls -f dangling=true", "network create n2"] {
        match nobody(line) {
            Ok((code, err)) => {
                assert_eq!(code, Some(1), "{line}: {err}");
                assert!(
                    err.contains("Permission denied") && err.ends_with("hint: run it as root\n"),
                    "{err}"
                );
            }
            Err(error) => weft_testkit::skipped(format_args!("to run as another user: {error}")),
        }
    }
}

/// A plugin outlives the `weft` that started it. Whoever comes next waits for it and then mends what the
/// killed one could not finish.
#[test]
fn being_killed_half_way_leaves_nothing_that_stays() {
    let host = Host::new();
    host.ok("network create --subnet 198.18.1.0/24 n1");
    host.write("slow", "", 0o644);
    let netns = own_namespace();
    let words = ["network", "connect", "--name", "web", "--id", "c1", "n1", &netns];
    let mut victim = host.command(&words).spawn().unwrap();
    while !host.path("begun").exists() {
        std::thread::yield_now();
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    fs::remove_file(host.path("slow")).unwrap();

    let mut next = host.command(&words).spawn().unwrap();
    host.write("go", "", 0o644);
    assert!(next.wait().unwrap().success());
    let log = fs::read_to_string(host.path("log")).unwrap();
    assert_eq!(log, "ADD begins\nADD ends\nADD begins\nADD ends\n", "one after the other");
    assert_eq!(host.ok("ps --format {{.Container}}/{{.Name}}/{{.Status}}"), "c1/web/up\n");
    host.ok("network disconnect n1 web");
    host.ok("network rm n1");
    assert_eq!(host.ok("ps -q"), "");
}
