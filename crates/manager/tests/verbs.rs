//! The manager's verbs, with a driver played by a shell script: no kernel is touched.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_manager::subnets::Wanted;
use weft_manager::{Connect, Create, Disconnect, Error, Kind, Liveness, Manager};
use weft_model::Endpoint;
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

#[test]
fn a_network_is_a_conflist_any_runtime_can_read() {
    let host = Host::new();
    let mut request = subnet("n1", "198.18.1.0/24");
    request.labels.insert("k".into(), "v".into());
    request.options.insert("com.docker.network.driver.mtu".into(), "1400".into());
    let network = host.manager.create(&request).unwrap();

    let file = fs::read(host.path("root/etc/weft/networks.d/n1.conflist")).unwrap();
    let conflist: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(conflist["cniVersion"], "1.1.0");
    assert_eq!(conflist["name"], "n1");
    assert_eq!(conflist["plugins"][0]["type"], "fake");
    assert_eq!(conflist["weft"]["id"], network.about.id.to_string());
    assert_eq!(conflist["weft"]["labels"], json!({"k": "v"}));
    assert_eq!(
        conflist["weft"]["options"],
        json!({"com.docker.network.driver.mtu": "1400"}),
        "as the user said it"
    );
    let asked = host.asked("compose");
    assert_eq!(asked["options"], json!({"mtu": "1400"}), "as the driver knows it");
    assert_eq!(asked["subnets"][0]["gateway"], "198.18.1.1");

    let shown = serde_json::to_value(host.manager.inspect("n1").unwrap()).unwrap();
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], "198.18.1.0/24");
    for reference in [network.about.id.to_string(), network.about.id.short()[..5].into()] {
        assert_eq!(serde_json::to_value(host.manager.inspect(&reference).unwrap()).unwrap(), shown);
    }
}

#[test]
fn the_settings_choose_the_firewall_where_the_driver_lets_them() {
    let host = Host::with_settings("firewall = \"iptables\"\n");
    host.network("n1", 1);
    assert_eq!(host.asked("compose")["options"], json!({"masquerade-backend": "iptables"}));
    let mut request = subnet("n2", "198.18.2.0/24");
    request.options.insert("masquerade-backend".into(), "nftables".into());
    host.manager.create(&request).unwrap();
    assert_eq!(host.asked("compose")["options"], json!({"masquerade-backend": "nftables"}));
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    let with_driver = |driver: &str| Create { driver: Some(driver.into()), ..subnet("n9", "198.18.9.0/24") };
    let mut bad_option = subnet("n9", "198.18.9.0/24");
    bad_option.options.insert("bad".into(), "1".into());
    let mut no_family = Create { name: "n9".into(), ..Create::default() };
    (no_family.ipv4, no_family.ipv6) = (Some(false), Some(false));
    let v4_refused = Create { ipv4: Some(false), ..subnet("n9", "198.18.9.0/24") };
    let v6_refused = Create { ipv6: Some(false), ..subnet("n9", "fd01::/64") };
    let table = [
        (subnet("n1", "198.18.9.0/24"), Kind::Conflict, "network with name n1 already exists"),
        (
            subnet("host", "198.18.9.0/24"),
            Kind::Conflict,
            "operation is not permitted on predefined host network",
        ),
        (
            subnet("default", "198.18.9.0/24"),
            Kind::Conflict,
            "operation is not permitted on predefined default network",
        ),
        (subnet("-x", "198.18.9.0/24"), Kind::Usage, "invalid network name \"-x\": "),
        (
            subnet("n9", "198.18.1.0/25"),
            Kind::Conflict,
            "198.18.1.0/25 conflicts with network n1 (198.18.1.0/24)",
        ),
        (
            subnet("n9", "198.18.9.1/24"),
            Kind::Usage,
            "invalid subnet 198.18.9.1/24: it should be 198.18.9.0/24",
        ),
        (with_driver("missing"), Kind::NotFound, "plugin \"missing\" not found: "),
        (with_driver("../fake"), Kind::Usage, "invalid driver \"../fake\": "),
        (with_driver("loopback"), Kind::Failed, "plugin \"loopback\" cannot create networks: "),
        (v4_refused, Kind::Usage, "subnet 198.18.9.0/24 is given, but its family is refused (--ipv4=false)"),
        (v6_refused, Kind::Usage, "subnet fd01::/64 is given, but its family is refused (--ipv6=false)"),
        (bad_option, Kind::Usage, "driver fake: the fake driver has no option \"bad\""),
        (no_family, Kind::Usage, "IPv4 or IPv6 must be enabled"),
    ];
    for (request, kind, part) in table {
        let error = host.manager.create(&request).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(host.state(), before);
        assert!(!host.path("root/run/weft/locks/network-n9").exists(), "{error}");
    }
}

#[test]
fn subnets_are_chosen_from_the_pools_until_none_is_left() {
    let host = Host::with_settings("[[pool]]\nbase = \"198.19.0.0/22\"\nsize = 24\n");
    let mut chosen = Vec::new();
    // The first one is for the network `bridge`, which nobody has used yet.
    for name in ["n1", "n2", "n3"] {
        let network = host.manager.create(&Create { name: name.into(), ..Create::default() }).unwrap();
        chosen.push(network.subnets().next().unwrap().to_string());
    }
    assert_eq!(chosen, ["198.19.1.0/24", "198.19.2.0/24", "198.19.3.0/24"]);
    let error = host.manager.create(&Create { name: "n4".into(), ..Create::default() }).unwrap_err();
    assert_eq!(error.to_string(), "all predefined address pools have been fully subnetted");

    let bridge = serde_json::to_value(host.manager.inspect("bridge").unwrap()).unwrap();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "198.19.0.0/24");
    assert!(!host.state().iter().any(|path| path.contains("bridge")), "looking at it makes no file");
    host.connect("bridge", "c1").unwrap();
    let bridge = serde_json::to_value(host.manager.inspect("bridge").unwrap()).unwrap();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "198.19.0.0/24");

    assert_eq!(host.removed("n2", false), [""; 0]);
    let again = host.manager.create(&Create { name: "n5".into(), ..Create::default() }).unwrap();
    assert_eq!(again.subnets().next().unwrap().to_string(), "198.19.2.0/24");
}

#[test]
fn ipv6_gets_a_private_prefix_of_this_host() {
    let host = Host::new();
    let prefix = |name: &str, n: u8| {
        let request = Create { ipv6: Some(true), ..subnet(name, &format!("198.18.{n}.0/24")) };
        let network = host.manager.create(&request).unwrap();
        let [v4, v6] = &network.about.ipam.subnets[..] else { panic!("two subnets: {network:?}") };
        assert!(v4.subnet.is_ipv4());
        assert_eq!(v6.subnet.prefix(), 64);
        v6.subnet.to_string()
    };
    let (first, second) = (prefix("n1", 1), prefix("n2", 2));
    assert!(first.starts_with("fd") && second.starts_with("fd"));
    assert_ne!(first, second);
    assert_eq!(first[..14], second[..14], "the same /48");
}

#[test]
fn a_connection_is_made_listed_and_ended() {
    let host = Host::new();
    host.network("n1", 1);
    let record = host.connect("n1", "c1").unwrap();
    assert_eq!(record.endpoint.ifname.as_str(), "eth0");
    assert_eq!(host.log(), ["ADD n1 c1 /proc/self/ns/net eth0"]);
    let [attached] = &host.manager.ps().unwrap()[..] else { panic!("one attachment") };
    assert_eq!((attached.name.as_str(), attached.liveness), ("c1", Liveness::Up));
    assert_eq!(attached.mac(), Some("02:00:00:00:00:07"));
    let shown = serde_json::to_value(host.manager.inspect("n1").unwrap()).unwrap();
    assert_eq!(shown["Containers"]["c1"]["IPv4Address"], record.addresses[0].to_string());

    assert_eq!(text(host.connect("n1", "c1")), "endpoint with name c1 already exists in network n1");
    assert!(host.log().is_empty());

    assert!(host.manager.disconnect(&from("n1", "c1")).unwrap().problems.is_empty());
    assert_eq!(host.log(), ["DEL n1 c1 /proc/self/ns/net eth0"]);
    assert!(host.asked("DEL")["prevResult"].is_object());
    assert!(host.manager.ps().unwrap().is_empty());
    let error = host.manager.disconnect(&from("n1", "c1")).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "container c1 is not connected to network n1")
    );
}

#[test]
fn further_networks_get_further_interfaces_and_metrics() {
    let host = Host::new();
    let metric = |host: &Host| host.asked("ADD")["args"]["weft"]["gatewayMetric"].as_u64().unwrap();
    for (name, n, ifname, priority, expected) in
        [("n1", 1, "eth0", 0, 1_000_000), ("n2", 2, "eth1", 0, 1_000_001), ("n3", 3, "eth2", 5, 999_500)]
    {
        host.network(name, n);
        let record = host.manager.connect(&Connect { priority, ..to(name, "c1") }).unwrap().record;
        assert_eq!(record.endpoint.ifname.as_str(), ifname);
        assert_eq!(metric(&host), expected);
    }
    host.manager.disconnect(&from("n2", "c1")).unwrap();
    let record = host.connect("n2", "c1").unwrap();
    assert_eq!(record.endpoint.ifname.as_str(), "eth1", "the lowest free one");
    host.manager.disconnect(&from("n2", "c1")).unwrap();

    let taken = Connect { interface: Some("eth0".parse().unwrap()), ..to("n2", "c1") };
    let error = host.manager.connect(&taken).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.to_string(), "interface eth0 of container c1 is connected to network n1 already");
    let far = Connect { priority: 10_000, ..to("n2", "c1") };
    assert_eq!(host.manager.connect(&far).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn what_was_asked_for_reaches_the_plugin() {
    let host = Host::new();
    host.network("n1", 1);
    let request = Connect {
        name: Some("web".into()),
        aliases: vec!["www".into()],
        addresses: vec!["198.18.1.77".parse().unwrap()],
        mac: Some("02:00:00:00:00:55".parse().unwrap()),
        sysctls: vec![("net.ipv4.conf.IFNAME.forwarding".into(), "1".into())],
        ..to("n1", "c1")
    };
    let record = host.manager.connect(&request).unwrap().record;
    assert_eq!(record.addresses[0].to_string(), "198.18.1.77/24");
    let asked = host.asked("ADD");
    assert_eq!(asked["runtimeConfig"], json!({"ips": ["198.18.1.77"], "mac": "02:00:00:00:00:55"}));
    let attach = &asked["args"]["weft"];
    assert_eq!(attach["name"], "web");
    assert_eq!(attach["aliases"], json!(["www"]));
    assert_eq!(attach["sysctl"], json!({"net.ipv4.conf.eth0.forwarding": "1"}));

    let outside = Connect { addresses: vec!["198.18.2.77".parse().unwrap()], ..to("n1", "c2") };
    assert_eq!(
        text(host.manager.connect(&outside)),
        "invalid endpoint settings: no configured subnet contains IP address 198.18.2.77"
    );
    let sysctl = Connect { sysctls: vec![("kernel.hostname".into(), "x".into())], ..to("n1", "c2") };
    assert_eq!(
        text(host.manager.connect(&sysctl)),
        "unrecognised network interface sysctl \"kernel.hostname\""
    );
    let twin = Connect { name: Some("web".into()), ..to("n1", "c2") };
    assert_eq!(text(host.manager.connect(&twin)), "endpoint with name web already exists in network n1");
    assert_eq!(host.manager.ps().unwrap().len(), 1);
}

#[test]
fn a_name_that_comes_back_gets_its_address_back() {
    let host = Host::new();
    host.network("n1", 1);
    let connected = |id: &str| Connect { name: Some("web".into()), ..to("n1", id) };
    let web = |id: &str| host.manager.connect(&connected(id)).unwrap().record;
    let address = web("c1").addresses[0];
    host.manager.disconnect(&from("n1", "web")).unwrap();

    host.connect("n1", "c2").unwrap();
    assert_eq!(
        host.asked("ADD")["ipam"]["avoid"],
        json!([address.ip()]),
        "nobody else gets it while others are free"
    );
    assert_eq!(web("c3").addresses[0], address);
    host.manager.disconnect(&from("n1", "web")).unwrap();

    let taken = host.path(&format!("taken-{}", address.ip()));
    atomic::write(&taken, b"", Durability::Boot, 0o644).unwrap();
    let other = web("c4").addresses[0];
    assert_ne!(other, address, "a taken address is no reason to stay away");
    fs::remove_file(taken).unwrap();
    host.manager.disconnect(&from("n1", "c4")).unwrap();
    assert_eq!(web("c5").addresses[0], other, "the last one counts");
    host.manager.disconnect(&from("n1", "c5")).unwrap();

    let file = host.path("root/var/lib/weft/reservations/n1.json");
    atomic::write(&file, b"{", Durability::Boot, 0o600).unwrap();
    let warnings = host.manager.connect(&connected("c6")).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(file.to_str().unwrap()), "{warnings:?}");
    host.manager.disconnect(&from("n1", "c6")).unwrap();
    let warnings = host.manager.connect(&connected("c7")).unwrap().warnings;
    assert!(warnings.is_empty(), "the damaged file was replaced: {warnings:?}");
}

#[test]
fn a_connection_that_fails_leaves_nothing() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    host.fail("ADD");
    let request = Connect { name: Some("web".into()), ..to("n1", "c1") };
    let error = host.manager.connect(&request).unwrap_err();
    assert_eq!(error.to_string(), "plugin fake on network n1: told to fail");
    assert_eq!(error.hint().as_deref(), Some("stop telling it"));
    let log = host.log();
    assert_eq!(
        log[log.len() - 2..],
        ["DEL n1 c1 /proc/self/ns/net eth0", "GC n1"],
        "nobody uses the network"
    );
    assert_eq!(host.state(), before);
    assert!(!host.path("root/run/weft/locks/container-c1").exists());

    host.fail("");
    host.connect("n1", "c2").unwrap();
    host.fail("ADD");
    host.connect("n1", "c1").unwrap_err();
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0", "c2 needs what is there");
}

#[test]
fn a_plugin_that_is_missing_is_named_once() {
    let host = Host::new();
    host.network("n1", 1);
    fs::remove_file(host.path("bin/fake")).unwrap();
    let error = host.connect("n1", "c1").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.hint().as_deref(), Some("weft plugin ls"));
    assert!(error.to_string().starts_with("plugin fake on network n1: failed to find plugin"), "{error}");
    assert!(!error.to_string().contains("not undone"), "{error}");
}

#[test]
fn a_disconnection_that_fails_can_be_repeated_or_forced() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.fail("DEL");
    assert_eq!(
        text(host.manager.disconnect(&from("n1", "c1"))),
        "plugin fake on network n1 (DEL): told to fail"
    );
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    let forced = host.manager.disconnect(&Disconnect { force: true, ..from("n1", "c1") }).unwrap();
    assert_eq!(forced.problems.len(), 1);
    assert!(host.manager.ps().unwrap().is_empty());
}

#[test]
fn private_and_host_networks_refuse_company() {
    let host = Host::new();
    host.network("n1", 1);
    let about = |attachable: &str| {
        format!(
            "#!/bin/sh\ncase \"$CNI_COMMAND:$1\" in :describe) echo '{{\"type\":\"x\",\"summary\":\"\",\"driver\":{{\
             \"attachable\":{attachable},\"instances\":1,\"refusal\":\"cannot connect container to host network\",\
             \"hint\":\"do not\"}}}}'; exit;; :compose) echo '{{\"plugins\":[{{\"type\":\"none\"}}]}}'; exit;; esac\n\
             cat > /dev/null; [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.1.0\"}}' || true\n"
        )
    };
    program(&host.path("bin/host"), &about("false"));
    program(&host.path("bin/none"), &about("true"));

    let error = host.connect("host", "c1").unwrap_err();
    assert_eq!(error.to_string(), "cannot connect container to host network");
    assert_eq!(error.hint().as_deref(), Some("do not"));

    host.connect("n1", "c1").unwrap();
    assert!(matches!(host.connect("none", "c1"), Err(Error::Private)));
    host.connect("none", "c2").unwrap();
    assert!(matches!(host.connect("n1", "c2"), Err(Error::Private)));

    for driver in ["none", "null"] {
        let request = Create { name: "n9".into(), driver: Some(driver.into()), ..Create::default() };
        assert_eq!(text(host.manager.create(&request)), "only one instance of \"none\" network is allowed");
    }
    for name in ["bridge", "host", "none"] {
        assert_eq!(
            text(host.manager.rm(name, true)),
            format!("{name} is a pre-defined network and cannot be removed")
        );
    }
}

#[test]
fn a_network_in_use_stays_until_forced() {
    let host = Host::new();
    let id = host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.manager.connect(&Connect { name: Some("web".into()), ..to("n1", "c2") }).unwrap();
    let error = host.manager.rm("n1", false).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(
        error.to_string(),
        r#"network n1 has active endpoints (name:"c1" id:"c1", name:"web" id:"c2")"#
    );

    host.log();
    assert_eq!(host.removed(&id[..12], true), [""; 0]);
    let log = host.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[2], "GC n1");
    assert_eq!(host.asked("GC")["cni.dev/valid-attachments"], json!([]));
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
    assert!(!host.manager.exists("n1").unwrap());
    assert_eq!(host.manager.rm("n1", false).unwrap_err().kind(), Kind::NotFound);
    assert!(host.manager.rm("n1", true).unwrap().is_none());
}

#[test]
fn a_network_that_cannot_be_cleaned_up_stays_until_forced() {
    let host = Host::new();
    host.network("n1", 1);
    host.fail("GC");
    assert_eq!(text(host.manager.rm("n1", false)), "plugin fake on network n1 (GC): told to fail");
    assert!(host.manager.exists("n1").unwrap());
    assert_eq!(host.removed("n1", true), ["plugin fake on network n1 (GC): told to fail"]);
    assert!(!host.manager.exists("n1").unwrap());
}

#[test]
fn containers_that_are_gone_are_in_nobodys_way() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    for mut record in ["n1", "n2"].map(|network| host.connect(network, "c1").unwrap()) {
        record.attach["namespace"] = json!("1@gone");
        host.records().write(&record).unwrap();
    }
    let gone: Vec<Liveness> = host.manager.ps().unwrap().iter().map(|attached| attached.liveness).collect();
    assert_eq!(gone, [Liveness::Gone, Liveness::Gone]);
    host.log();

    let record = host.connect("n2", "c1").unwrap();
    assert_eq!(
        record.endpoint.ifname.as_str(),
        "eth0",
        "a new container of the same name starts from nothing"
    );
    let log = host.log();
    assert_eq!(
        log[..2],
        ["DEL n1 c1  eth0", "DEL n2 c1  eth1"],
        "without the namespace, which is another's now"
    );

    let mut record = record;
    record.netns = Some("/nonexistent".into());
    host.records().write(&record).unwrap();
    assert_eq!(host.removed("n2", false), [""; 0]);
}

#[test]
fn a_killed_connect_is_mended_by_the_next_command() {
    let host = Host::new();
    host.network("n1", 1);
    let intent = |container: &str| {
        let endpoint = Endpoint {
            network: "n1".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        host.records().write(&Record::intent(endpoint, Some(OWN.into()), "fake").unwrap()).unwrap();
    };
    intent("c1");
    assert_eq!(host.manager.ps().unwrap()[0].liveness, Liveness::Incomplete);
    host.connect("n1", "c1").unwrap();
    assert_eq!(host.log(), ["DEL n1 c1 /proc/self/ns/net eth0", "ADD n1 c1 /proc/self/ns/net eth0"]);

    intent("c2");
    host.manager.disconnect(&from("n1", "c2")).unwrap();
    intent("c3");
    let pruned = host.manager.prune(&[]).unwrap();
    assert!(pruned.deleted.is_empty() && pruned.errors.is_empty(), "{pruned:?}");
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    assert_eq!(
        host.asked("GC")["cni.dev/valid-attachments"],
        json!([{"containerID": "c1", "ifname": "eth0"}])
    );

    // A killed writer's temporary file is no network, and a truncated record no attachment.
    let networks = host.path("root/etc/weft/networks.d");
    atomic::write(&networks.join(".weft-new-1-2-3"), b"{", Durability::Boot, 0o644).unwrap();
    let record = host.path("root/run/weft/attachments/c4/eth0.json");
    atomic::write(&record, b"{\"schema\":1,", Durability::Boot, 0o644).unwrap();
    let listed = host.manager.ls(&[]).unwrap();
    assert!(listed.errors.is_empty());
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    host.connect("n1", "c4").unwrap();

    // With the record cut off, the cached result still tells the network.
    atomic::write(&record, b"", Durability::Boot, 0o644).unwrap();
    host.log();
    host.connect("n1", "c4").unwrap();
    assert_eq!(host.log(), ["DEL n1 c4 /proc/self/ns/net eth0", "ADD n1 c4 /proc/self/ns/net eth0"]);
    atomic::write(&record, b"", Durability::Boot, 0o644).unwrap();
    assert!(host.manager.disconnect(&from("n1", "c4")).unwrap().problems.is_empty());
    assert!(!record.exists());
}

#[test]
fn a_reboot_is_noticed_by_the_first_connection() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.log();
    // What the next boot finds: nothing in /run, and everything else.
    fs::remove_dir_all(host.path("root/run")).unwrap();
    assert!(host.manager.ps().unwrap().is_empty());

    host.connect("n1", "c2").unwrap();
    assert_eq!(
        host.log(),
        ["DEL n1 c1 /proc/self/ns/net eth0", "GC n1", "ADD n1 c2 /proc/self/ns/net eth0"],
        "addresses that nobody gave back are free again"
    );
    host.connect("n1", "c3").unwrap();
    assert_eq!(host.log(), ["ADD n1 c3 /proc/self/ns/net eth0"], "once is enough");
}

#[test]
fn damaged_files_are_named_and_in_nobody_elses_way() {
    let host = Host::new();
    host.network("n1", 1);
    let damaged = host.path("root/etc/weft/networks.d/n2.conflist");
    let put = |text: &str| atomic::write(&damaged, text.as_bytes(), Durability::Boot, 0o644).unwrap();
    for (text_of, part) in [
        ("", "n2.conflist: "),
        (r#"{"cniVersion":"1.1.0","name":"n2","plugins":[{"type":7}]}"#, "plugins[0].type"),
        (
            r#"{"cniVersion":"1.1.0","name":"other","plugins":[{"type":"fake"}]}"#,
            "other is not the file's name",
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"n2","plugins":[{"type":"fake"}],"weft":{"schema":1,"id":7}}"#,
            "weft.id",
        ),
    ] {
        put(text_of);
        let error = text(host.manager.inspect("n2"));
        assert!(error.contains(part) && error.contains("n2.conflist"), "{error}");
        assert!(text(host.connect("n2", "c1")).contains(part));
        let listed = host.manager.ls(&[]).unwrap();
        assert_eq!(listed.errors.len(), 1);
        assert!(listed.networks.iter().any(|network| network.name.as_str() == "n1"));
        assert!(text(host.manager.rm("n2", false)).contains(part));
    }
    let leases = host.path("root/var/lib/cni/networks/n2");
    assert_eq!(
        host.removed("n2", true),
        [format!(
            "nothing is known about network n2: its bridge, its firewall rules and leases in {} may be left",
            leases.display()
        )]
    );
    assert!(!damaged.exists());
}

#[test]
fn a_network_whose_file_is_lost_is_removed_with_everything_that_is_its() {
    let host = Host::new();
    let file = host.path("root/etc/weft/networks.d/n1.conflist");
    for damage in [None, Some("{"), Some(r#"{"cniVersion":"1.1.0","name":"n1","plugins":[]}"#)] {
        host.network("n1", 1);
        host.connect("n1", "c1").unwrap();
        host.connect("n1", "c2").unwrap();
        match damage {
            None => fs::remove_file(&file).unwrap(),
            Some(text) => atomic::write(&file, text.as_bytes(), Durability::Boot, 0o644).unwrap(),
        }
        if damage.is_some() {
            host.manager.disconnect(&from("n1", "c1")).unwrap();
            assert_eq!(host.asked("DEL")["ipam"]["type"], "host-local", "the lease is given back");
            let error = host.manager.rm("n1", false).unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{error}");
        }
        host.log();
        assert_eq!(host.removed("n1", true), [""; 0]);
        let log = host.log();
        assert!(log.contains(&"DEL n1 c2 /proc/self/ns/net eth0".into()), "{log:?}");
        assert_eq!(log.last().unwrap(), "GC n1");
        assert_eq!(host.state(), ["etc/weft/weft.toml"]);
    }
}

#[test]
fn plugins_dropped_beside_a_lost_file_are_remembered() {
    let host = Host::new();
    host.network("n1", 1);
    let drop_in = host.path("root/etc/weft/networks.d/n1/50.conf");
    atomic::write(&drop_in, br#"{"type":"bridge"}"#, Durability::Boot, 0o644).unwrap();
    host.connect("n1", "c1").unwrap();
    fs::remove_dir_all(host.path("root/etc/weft/networks.d")).unwrap();
    host.log();
    assert_eq!(host.removed("n1", true), [""; 0]);
    let del = "DEL n1 c1 /proc/self/ns/net eth0";
    assert_eq!(host.log(), [del, del, "GC n1", "GC n1"]);
}

#[test]
fn other_peoples_networks_are_left_to_them() {
    let host = Host::new();
    let file = host.path("root/etc/weft/networks.d/n1.conflist");
    let conflist = format!(
        r#"{{"cniVersion":"1.1.0","name":"n1","plugins":[{{"type":"fake","ipam":{{"type":"host-local","dataDir":{:?}}}}}]}}"#,
        host.path("leases")
    );
    atomic::write(&file, conflist.as_bytes(), Durability::Boot, 0o644).unwrap();
    let [here, there] = ["leases/n1", "root/var/lib/cni/networks/n1"].map(|dir| host.path(dir));
    let put =
        |path: PathBuf, text: &str| atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600).unwrap();
    put(here.join("10.88.0.2"), "pod1\r\neth0");
    put(there.join("10.88.0.3"), "pod2");
    put(here.join("last_reserved_ip.0"), "10.88.0.2");

    let pruned = host.manager.prune(&[]).unwrap();
    assert!(pruned.deleted.is_empty() && pruned.errors.is_empty(), "{pruned:?}");
    for force in [false, true] {
        let error = host.manager.rm("n1", force).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(
            error.to_string(),
            "network n1 has active endpoints of another container runtime (pod1, pod2)"
        );
    }
    fs::remove_file(here.join("10.88.0.2")).unwrap();
    assert!(text(host.manager.rm("n1", false)).ends_with("(pod2)"));
    fs::remove_file(there.join("10.88.0.3")).unwrap();
    assert!(host.removed("n1", false)[0].starts_with("network n1 is not weft's: "));
    assert!(!file.exists());
    assert!(here.join("last_reserved_ip.0").exists() && there.exists());
    assert_eq!(host.log(), [""; 0], "no GC");
}

#[test]
fn two_networks_do_not_share_a_bridge() {
    let host = Host::new();
    let driver = "#!/bin/sh\ncase \"$1\" in describe) echo '{\"type\":\"bridge\",\"summary\":\"\",\"driver\":{\"addressing\":true}}';;\n\
        compose) sed 's/.*\"options\":\\({[^}]*}\\).*/{\"plugins\":[\\1]}/; s/{\"bridge\"/{\"type\":\"bridge\",\"bridge\"/';; esac\n";
    program(&host.path("bin/bridge"), driver);
    let create = |name: &str, n: u8, options: &[(&str, &str)]| {
        let mut request = subnet(name, &format!("198.18.{n}.0/24"));
        request.driver = Some("bridge".into());
        request.options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        host.manager.create(&request)
    };
    create("n1", 1, &[("bridge", "br7")]).unwrap();
    let error = create("n2", 2, &[("bridge", "br7")]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Conflict, "bridge br7 belongs to network n1".into())
    );
    assert_eq!(text(create("n2", 2, &[("bridge", "weft0")])), "bridge weft0 belongs to network bridge");
    create("n2", 2, &[("bridge", "br8")]).unwrap();
    create("n3", 3, &[("bridge", "br7"), ("vlan", "5")]).unwrap();
}

#[test]
fn a_damaged_network_keeps_its_subnet() {
    let host = Host::new();
    host.network("n1", 1);
    let put = |name: &str| {
        let path = host.path(&format!("root/etc/weft/networks.d/{name}.conflist"));
        atomic::write(&path, b"{", Durability::Boot, 0o644).unwrap();
        path.display().to_string()
    };
    put("n1");
    let error = text(host.manager.create(&subnet("n2", "198.18.1.0/25")));
    assert!(error.ends_with("conflicts with network n1 (198.18.1.0/24)"), "{error}");
    let hint = |network: &str| host.connect(network, "c1").unwrap_err().hint().unwrap();
    assert_eq!(hint("n1"), "mend the file, or weft network rm -f n1");
    let path = put("bridge");
    assert_eq!(hint("bridge"), format!("delete {path}: it is made again when it is needed"));
}

#[test]
fn a_container_whose_record_is_gone_can_be_disconnected() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    host.connect("n1", "c1").unwrap();
    fs::remove_dir_all(host.path("root/run/weft/attachments")).unwrap();
    assert!(text(host.manager.disconnect(&from("n1", "c2"))).contains("is not connected"));
    host.manager.disconnect(&from("n1", "c1")).unwrap();
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0");
    assert_eq!(host.state(), before);
    assert_eq!(host.manager.disconnect(&from("n1", "c1")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn those_who_prune_at_the_same_time_do_not_disagree() {
    let host = Host::new();
    (0..20).for_each(|n| drop(host.network(&format!("n{n}"), n)));
    let deleted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.manager.prune(&[]).unwrap())).collect();
        let pruned = threads.into_iter().map(|thread| thread.join().unwrap());
        pruned.map(|pruned| (pruned.errors.is_empty(), pruned.deleted.len())).fold(0, |sum, (well, count)| {
            assert!(well);
            sum + count
        })
    });
    assert_eq!(deleted, 20);
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
}

#[test]
fn containers_of_a_network_whose_file_is_gone_can_be_disconnected() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    fs::remove_file(host.path("root/etc/weft/networks.d/n1.conflist")).unwrap();
    assert_eq!(host.manager.disconnect(&from("n1", "c1")).unwrap_err().kind(), Kind::NotFound);
    let forced = Disconnect { force: true, ..from("n1", "c1") };
    assert!(host.manager.disconnect(&forced).unwrap().problems.is_empty());
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0");
    assert!(host.manager.ps().unwrap().is_empty());
}

#[test]
fn prune_takes_what_is_unused_and_matches() {
    let host = Host::new();
    let labelled = |name: &str, n: u8, label: &str| {
        let mut request = subnet(name, &format!("198.18.{n}.0/24"));
        request.labels.insert(label.into(), String::new());
        host.manager.create(&request).unwrap();
    };
    labelled("n1", 1, "a");
    labelled("n2", 2, "a");
    labelled("n10", 10, "b");
    host.connect("n1", "c1").unwrap();
    let prune = |filters: &[&str]| -> Vec<String> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).into()).collect();
        let pruned = host.manager.prune(&filters).unwrap();
        assert!(pruned.errors.is_empty(), "{pruned:?}");
        pruned.deleted.iter().map(ToString::to_string).collect()
    };
    assert_eq!(prune(&["label=b", "until=1h"]), [""; 0]);
    assert_eq!(prune(&["label=b"]), ["n10"]);
    assert_eq!(prune(&[]), ["n2"]);
    assert_eq!(prune(&[]), [""; 0]);
    assert_eq!(host.manager.prune(&["name=n1".into()]).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn names_prefixes_and_strangers() {
    let host = Host::new();
    let id = host.network("n1", 1);
    assert!(host.manager.exists("n1").unwrap());
    assert!(host.manager.exists(&id).unwrap());
    assert!(host.manager.exists(&id[..3].to_uppercase()).unwrap());
    assert!(host.manager.exists("bridge").unwrap());
    for stranger in ["", "n", "zzz", "../n1", "n1.conflist"] {
        assert!(!host.manager.exists(stranger).unwrap(), "{stranger:?}");
    }
    for n in 20..60 {
        host.network(&format!("m{n}"), n);
    }
    let ambiguous = (0..16).filter(|digit| host.manager.exists(&format!("{digit:x}")).is_err()).count();
    assert!(ambiguous > 0, "forty ids share some first digit");
}

#[test]
fn two_connects_of_one_container_take_turns() {
    let host = Host::new();
    host.network("n1", 1);
    let outcomes: Vec<Result<Record, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.connect("n1", "c1"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Connected { .. }))).count();
    assert_eq!(refused, 3, "{outcomes:?}");
    assert_eq!(host.log(), ["ADD n1 c1 /proc/self/ns/net eth0"]);
}

#[test]
fn containers_and_networks_come_and_go_at_the_same_time() {
    let host = Host::new();
    host.network("n1", 1);
    std::thread::scope(|scope| {
        for nth in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for _ in 0..5 {
                    let id = format!("c{nth}");
                    match host.connect("n1", &id) {
                        Ok(_) => drop(host.manager.disconnect(&from("n1", &id))),
                        Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
                    }
                }
            });
        }
        scope.spawn(|| while host.manager.rm("n1", false).is_err() {});
    });
    assert!(host.manager.ps().unwrap().is_empty());
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
}

#[test]
fn plugins_describe_themselves_or_say_their_versions() {
    let host = Host::new();
    program(
        &host.path("bin/third-party"),
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{\"supportedVersions\":[\"0.4.0\"]}'\n",
    );
    program(&host.path("bin/stranger"), "#!/bin/sh\necho hello\n");
    let plugins = host.manager.plugins();
    let find = |kind: &str| {
        plugins.iter().find(|plugin| plugin.kind == kind && plugin.path.starts_with(host.path("bin")))
    };
    assert!(find("fake").unwrap().about.as_ref().unwrap().driver.is_some());
    assert_eq!(find("third-party").unwrap().versions, ["0.4.0"]);
    assert!(find("stranger").is_none());
    assert_eq!(host.manager.describe("fake").unwrap().summary, "a fake");
    assert_eq!(host.manager.describe("third-party").unwrap_err().kind(), Kind::Failed);
    assert_eq!(host.manager.describe("nope").unwrap_err().kind(), Kind::NotFound);
}

/// A plugin of somebody else's: it writes down what it is told and knows no question but CNI's.
const FOREIGN: &str = r#"#!/bin/sh
cat > @DIR@/foreign
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"198.18.1.5/24"}]}'
"#;

/// A network whose second plugin publishes ports, and is or is not one of weft's.
fn publishing(host: &Host, name: &str, kind: &str) {
    let script = FOREIGN.replace("@DIR@", &host.dir.path().display().to_string());
    program(&host.path("bin/foreign"), &script);
    let plugins = json!([
        {"type": "fake", "ipam": {"type": "host-local", "subnet": "198.18.1.0/24"}},
        {"type": kind, "capabilities": {"portMappings": true}},
    ]);
    let list = json!({"cniVersion": "1.1.0", "name": name, "plugins": plugins});
    let path = host.root().networks_dir().join(format!("{name}.conflist"));
    atomic::write(&path, list.to_string().as_bytes(), Durability::Boot, 0o644).unwrap();
}

fn ports(ports: &[&str]) -> Vec<weft_model::port::PublishSpec> {
    ports.iter().map(|port| port.parse().unwrap()).collect()
}

fn publish(id: &str, given: &[&str]) -> weft_manager::Publish {
    weft_manager::Publish { netns: OWN.into(), id: Some(id.into()), ports: ports(given) }
}

#[test]
fn ports_are_told_to_the_plugin_that_takes_them() {
    let host = Host::new();
    publishing(&host, "n1", "foreign");
    let request = Connect { publish: ports(&["8080:80", "[::1]:53:53/udp"]), ..to("n1", "c1") };
    assert!(text(host.manager.connect(&request)).contains("no address of that family"), "n1 has IPv4 alone");
    assert!(host.log().is_empty(), "nothing was begun");

    let request = Connect { publish: ports(&["127.0.0.1:8080:80"]), ..to("n1", "c1") };
    host.manager.connect(&request).unwrap();
    let told: Value = serde_json::from_slice(&fs::read(host.path("foreign")).unwrap()).unwrap();
    let entry = json!({"protocol": "tcp", "hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1"});
    assert_eq!(told["runtimeConfig"], json!({"portMappings": [entry]}));
    host.manager.disconnect(&from("n1", "c1")).unwrap();
    let told: Value = serde_json::from_slice(&fs::read(host.path("foreign")).unwrap()).unwrap();
    assert_eq!(told["runtimeConfig"], json!({"portMappings": [entry]}), "DEL is told what to take away");
}

#[test]
fn what_only_our_port_plugin_understands_goes_to_no_other() {
    let host = Host::new();
    publishing(&host, "n1", "foreign");
    for ports_of in ["8080:80,from=192.0.2.0/24", "8080-8081:80-81", "8080-8081:80", "80"] {
        let request = Connect { publish: ports(&[ports_of]), ..to("n1", "c1") };
        let error = host.manager.connect(&request).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network n1 publishes no ports: its plugin foreign is not weft's and knows neither sources nor ranges nor free ports"
        );
        assert_eq!(error.kind(), Kind::Usage);
    }
    host.connect("n1", "c1").unwrap();
    let error = host.manager.publish(&publish("c1", &["8080:80"])).unwrap_err();
    assert!(error.to_string().ends_with("changes no ports while a container is connected"), "{error}");

    host.network("n2", 2);
    host.connect("n2", "c2").unwrap();
    let error = host.manager.publish(&publish("c2", &["8080:80"])).unwrap_err();
    assert_eq!(error.to_string(), "network n2 publishes no ports: none of its plugins publishes ports");
    assert!(error.hint().unwrap().contains("n2.conflist"));
    let error = host.manager.publish(&publish("c3", &["8080:80"])).unwrap_err();
    assert_eq!(
        (error.to_string(), error.kind()),
        (format!("container {OWN} is not connected to any network"), Kind::NotFound)
    );
    let twice = host.manager.publish(&publish("c2", &["8080:80", "0.0.0.0:8080:81"])).unwrap_err();
    assert_eq!(
        twice.to_string(),
        "cannot publish 0.0.0.0:8080:81/tcp: the same port of the host is asked for twice"
    );
}

#[test]
fn reload_asks_each_plugin_of_ours_once() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    publishing(&host, "n3", "foreign");
    assert!(host.manager.reload(None).unwrap().is_empty());
    let asked = host.asked("reload");
    let names = |asked: &Value| {
        let networks = asked["networks"].as_array().unwrap().iter();
        networks.map(|conf| conf["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&asked), ["n1", "n2", "n3"]);
    assert_eq!(asked["networks"][0]["cniVersion"], "1.1.0");
    assert_eq!(asked["root"], json!(host.path("root")));
    assert!(fs::read(host.path("foreign")).unwrap().is_empty(), "a stranger does not know the question");

    host.manager.reload(Some("n2")).unwrap();
    assert_eq!(names(&host.asked("reload")), ["n2"]);
    host.manager.reload(Some("bridge")).unwrap();
    assert!(names(&host.asked("reload")).is_empty(), "nobody has used it");
    assert!(matches!(host.manager.reload(Some("n9")), Err(Error::NoNetwork(_))));

    host.fail("reload");
    let errors = host.manager.reload(None).unwrap();
    let told: Vec<_> = errors.iter().map(|error| (error.to_string(), error.kind(), error.hint())).collect();
    let hint = Some("mend the cause, then weft network reload".into());
    assert_eq!(told, [("plugin fake: told to fail".into(), Kind::Failed, hint)]);
}

#[test]
fn a_network_that_its_plugin_refuses_is_named_and_the_others_are_looked_at() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    host.refuse("n2");
    let findings = r#"{"problems":[{"what":"a","why":"b","mend":"c"}]}"#;
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["a: b", "network n2: told to refuse"]);
    let errors = host.manager.reload(None).unwrap();
    let told: Vec<_> = errors.iter().map(|error| (error.to_string(), error.kind())).collect();
    assert_eq!(told, [("network n2: told to refuse".into(), Kind::Failed)]);
    let hint = errors[0].hint().unwrap();
    assert!(hint.contains("/n2.conflist, then weft network reload n2"), "{hint}");
}

#[test]
fn the_doctor_tells_the_whole_connection_that_has_to_be_made_again() {
    let host = Host::new();
    host.network("n1", 1);
    let request = Connect {
        name: Some("red".into()),
        aliases: vec!["crimson".into()],
        addresses: vec!["198.18.1.7".parse().unwrap()],
        mac: Some("02:00:00:00:00:07".parse().unwrap()),
        interface: Some("lan0".parse().unwrap()),
        priority: -2,
        sysctls: vec![("net.ipv4.conf.IFNAME.log_martians".into(), "1".into())],
        ..to("n1", "c1")
    };
    let record = host.manager.connect(&request).unwrap().record;
    let finding = weft_cni::Finding::renewed(&record.endpoint, "host interface x does not exist".into());
    let findings = json!({"problems": [finding]}).to_string();
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    assert_eq!(
        found[0].mend,
        format!(
            "weft network disconnect n1 c1, then weft network connect --ip 198.18.1.7 --interface lan0 --name red \
             --mac 02:00:00:00:00:07 --alias crimson --gw-priority -2 --sysctl net.ipv4.conf.lan0.log_martians=1 \
             --id c1 n1 {OWN}"
        )
    );
}

#[test]
fn the_doctor_passes_on_what_plugins_find_and_mends_it() {
    let host = Host::new();
    host.network("n1", 1);
    assert!(host.manager.doctor(false).unwrap().is_empty());
    let findings = r#"{"problems":[{"what":"a","why":"b","mend":"c"},{"what":"a","why":"b","mend":"c"}]}"#;
    atomic::write(&host.path("findings"), findings.as_bytes(), Durability::Boot, 0o644).unwrap();
    let found = host.manager.doctor(false).unwrap();
    assert_eq!(found.len(), 1, "the same is said once: {found:?}");
    assert!(!host.path("reload").exists(), "looking changes nothing");
    assert_eq!(host.manager.doctor(true).unwrap(), found, "it is there still");
    assert!(host.path("reload").exists());

    host.fail("doctor");
    let found = host.manager.doctor(false).unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["plugin fake: told to fail"], "one that fails does not blind the others");
}
