//! The manager's verbs, with a driver played by a shell script: no kernel is touched.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod connect;
mod create;
mod disconnect;
mod look;
mod mend;
mod ports;
mod remove;
mod vanished;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use weft_manager::subnets::Wanted;
use weft_manager::{Connect, Create, Disconnect, Error, Manager};
use weft_state::atomic::{self, Durability};
use weft_state::attachment::Record;
use weft_state::{Records, Root};

/// A driver that writes down what it is asked. It gives the address it is asked for, or else 198.18.N.9,
/// and fails at what the file `fail` names.
const DRIVER: &str = r#"
dir=@DIR@
case "$CNI_COMMAND:$1" in
:describe)
    echo '{"type":"fake","summary":"a fake","versions":["1.1.0"],
           "options":[{"name":"mtu","aliases":["com.docker.network.driver.mtu"]},{"name":"masquerade-backend"}],
           "driver":{"addressing":true,"attachable":true}}'
    exit ;;
:compose)
    cat > "$dir/compose"
    if grep -q '"bad"' "$dir/compose"; then
        echo '{"code":7,"msg":"the fake driver has no option \"bad\"","details":"its options are mtu"}'; exit 1
    fi
    echo '{"plugins":[{"type":"fake","capabilities":{"ips":true,"mac":true},"ipam":{"type":"host-local"}}]}'
    exit ;;
:reload|:doctor)
    cat > "$dir/$1"
    if [ -e "$dir/fail" ] && grep -q "^$1" "$dir/fail"; then
        echo '{"code":999,"msg":"told to fail"}'; exit 1
    fi
    if [ -e "$dir/refuse" ] && grep -qF "\"name\":\"$(cat "$dir/refuse")\"" "$dir/$1"; then
        echo '{"code":7,"msg":"told to refuse"}'; exit 1
    fi
    [ "$1" = reload ] || cat "$dir/findings" 2> /dev/null || echo '{"problems":[]}'
    exit ;;
esac
conf=$(cat)
echo "$conf" > "$dir/$CNI_COMMAND"
name=$(echo "$conf" | sed 's/.*"name":"\(n[^"]*\|bridge\)".*/\1/')
echo "$CNI_COMMAND $name $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME" >> "$dir/log"
if [ -e "$dir/fail" ] && grep -q "^$CNI_COMMAND" "$dir/fail"; then
    echo '{"code":999,"msg":"told to fail","details":"stop telling it"}'; exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
ip=$(echo "$conf" | sed -n 's/.*"runtimeConfig":{"ips":\["\([0-9.]*\)".*/\1/p')
if [ -n "$ip" ] && [ -e "$dir/taken-$ip" ]; then
    echo '{"code":999,"msg":"requested IP address '$ip' is not available"}'; exit 1
fi
[ -n "$ip" ] || ip=198.18.1.$(wc -l < "$dir/log")
echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","mac":"02:00:00:00:00:07","sandbox":"'$CNI_NETNS'"}],
       "ips":[{"address":"'$ip'/24","interface":0}]}'
"#;

const OWN: &str = "/proc/self/ns/net";

struct Host {
    dir: tempfile::TempDir,
    manager: Manager,
}

impl Host {
    fn new() -> Self {
        Self::with_settings("")
    }

    fn with_settings(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        let script = format!("#!/bin/sh\n{}", DRIVER.replace("@DIR@", &dir.path().display().to_string()));
        for kind in ["fake", "bridge"] {
            program(&bin.join(kind), &script);
        }
        // Without it the host's own plugin would raise the host's own interface.
        program(
            &bin.join("loopback"),
            "#!/bin/sh\ncat > /dev/null; echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"198.18.1.5/24\"}]}'\n",
        );
        let root = Root::new(Some(dir.path().join("root")));
        let settings = format!("driver = \"fake\"\nplugin_path = [{bin:?}]\n{settings}");
        atomic::write(&root.config(), settings.as_bytes(), Durability::Boot, 0o644).unwrap();
        Self { manager: Manager::open(root).unwrap(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> Root {
        Root::new(Some(self.path("root")))
    }

    fn records(&self) -> Records {
        Records::new(&self.root())
    }

    /// Creates a network of 198.18.N.0/24.
    fn network(&self, name: &str, n: u8) -> String {
        let network = self.manager.create(&subnet(name, &format!("198.18.{n}.0/24"))).unwrap();
        network.about.id.to_string()
    }

    fn connect(&self, network: &str, id: &str) -> Result<Record, Error> {
        self.manager.connect(&to(network, id)).map(|connected| connected.record)
    }

    /// Removes a network and returns what is said to be left of it.
    fn removed(&self, reference: &str, force: bool) -> Vec<String> {
        let left = self.manager.rm(reference, force).unwrap().unwrap();
        left.iter().map(ToString::to_string).collect()
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        fs::remove_file(self.path("log")).ok();
        text.lines().map(|line| line.trim_end().into()).collect()
    }

    fn asked(&self, verb: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(verb)).unwrap()).unwrap()
    }

    fn fail(&self, verbs: &str) {
        atomic::write(&self.path("fail"), verbs.as_bytes(), Durability::Boot, 0o644).unwrap();
    }

    /// Has `reload` and `doctor` refuse what a network is configured to be.
    fn refuse(&self, network: &str) {
        atomic::write(&self.path("refuse"), network.as_bytes(), Durability::Boot, 0o644).unwrap();
    }

    /// Returns every file of the host's state but lock files.
    fn state(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![self.path("root")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => found.push(path.strip_prefix(self.path("root")).unwrap().display().to_string()),
                }
            }
        }
        found.retain(|path| !path.starts_with("run/weft/locks"));
        found.sort();
        found
    }
}

fn program(path: &std::path::Path, text: &str) {
    atomic::write(path, text.as_bytes(), Durability::Boot, 0o755).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn subnet(name: &str, subnet: &str) -> Create {
    let wanted = Wanted { subnets: vec![subnet.parse().unwrap()], ..Wanted::default() };
    Create { name: name.into(), wanted, ..Create::default() }
}

fn to(network: &str, id: &str) -> Connect {
    Connect { network: network.into(), netns: OWN.into(), id: Some(id.into()), ..Connect::default() }
}

fn from(network: &str, id: &str) -> Disconnect {
    Disconnect { network: network.into(), netns: id.into(), ..Disconnect::default() }
}

fn text<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    outcome.unwrap_err().to_string()
}
