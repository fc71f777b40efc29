//! What comes from outside, as functions of bytes: nothing may panic, whatever the bytes are.
//!
//! `fuzz/fuzz_targets` gives them bytes that a fuzzer thinks up, `tests/replay.rs` those in `fuzz/corpus`.
#![expect(clippy::disallowed_methods, reason = "the files that are read are to be as bad as the bytes are")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use weft_cni::{Conflist, NetConf};
use weft_model::Endpoint;
use weft_plugin::env::Environment;
use weft_plugin::{Attachment, Call, Driver, Leases, Linked, Plugin, Verb};
use weft_runtime::cache::Cache;
use weft_state::ports::Books;
use weft_state::{Records, Reservations, Root, boot};

/// A function of bytes.
pub type Target = fn(&[u8]);

/// The targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("conf", conf),
    ("environment", environment),
    ("ipam", ipam),
    ("kernel", kernel),
    ("packet", packet),
    ("state", state),
];

/// The configuration and the previous result of a call, and after a NUL `CNI_ARGS`, as every driver reads them: settings,
/// plans, nothing of the kernel; and the list of those who are valid, for GC. The first byte names the driver and the verb.
pub fn conf(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    drop(Conflist::parse(bytes));
    let verb = VERBS[usize::from(choice / 32) % VERBS.len()];
    let Some(call) = call(bytes, verb, &Root::new(None)) else { return };
    if verb == Verb::Gc {
        drop(call.valid_attachments());
    }
    match choice % 32 {
        0 => plan(&bridge::Bridge, &call),
        1 => plan(&dummy::Dummy, &call),
        2 => plan(&firewall::Firewall, &call),
        3 => plan(&host_device::HostDevice, &call),
        4 => plan(&ipvlan::Ipvlan, &call),
        5 => plan(&loopback::Loopback, &call),
        6 => plan(&macvlan::Macvlan, &call),
        7 => plan(&none::NoNetwork, &call),
        8 => plan(&overlay::Overlay, &call),
        9 => plan(&portmap::Portmap, &call),
        10 => plan(&ptp::PointToPoint, &call),
        11 => plan(&tap::TapDevice, &call),
        12 => plan(&tuning::Tuned, &call),
        13 => drop(host::Settings::of(&call)),
        14 => plan(&bandwidth::Bandwidth, &call),
        15 => plan(&sbr::SourceBased, &call),
        16 => plan(&vrf::RoutingDomain, &call),
        _ => plan(&vlan::Tagged, &call),
    }
}

const VERBS: [Verb; 5] = [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status];

/// A call with what comes on stdin, and after a NUL, which JSON never has, what comes in `CNI_ARGS`.
fn call(bytes: &[u8], verb: Verb, root: &Root) -> Option<Call> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (stdin, args) = bytes.split_at(end);
    Some(Call {
        verb,
        conf: NetConf::parse(stdin).ok()?,
        stdin: stdin.to_vec(),
        paths: Vec::new(),
        root: root.clone(),
        args: String::from_utf8_lossy(args.strip_prefix(b"\0").unwrap_or(args)).into_owned(),
        linked: Linked::default(),
    })
}

#[expect(clippy::expect_used, reason = "the names are ours")]
fn endpoint(call: &Call) -> Endpoint {
    let network = call.conf.name.clone();
    Endpoint { network, container: "red".parse().expect("an id"), ifname: "eth0".parse().expect("a name") }
}

fn plan<D: Driver>(driver: &D, call: &Call) {
    let Ok(settings) = driver.settings(call) else { return };
    let endpoint = endpoint(call);
    let mut text = driver.links(&settings, &endpoint).to_string();
    let result = call.conf.prev_result().ok().flatten().unwrap_or_default();
    let leases = Leases::of_result(&result, &endpoint.ifname);
    if let Ok(leases) = driver.resolve(&settings, &endpoint, leases) {
        text += &driver.addresses(&settings, &endpoint, &leases).to_string();
    }
    text += &driver.network(&settings).to_string();
    drop(text);
}

/// The environment of a call: variables that end with a NUL each, `NAME=value`, and the pairs of `CNI_ARGS`.
pub fn environment(bytes: &[u8]) {
    let mut variables: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for pair in bytes.split(|byte| *byte == 0) {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            variables.insert(name.into(), value.into());
        }
    }
    let lookup = |name: &str| variables.get(name.as_bytes()).map(|value| OsString::from_vec(value.clone()));
    if let Ok(Some(environment)) = Environment::read(lookup) {
        drop(weft_cni::CniArgs::parse(&environment.args, &["IP", "MAC", "GATEWAY"]));
    }
}

/// The configurations of the IPAM plugins, `CNI_ARGS` after a NUL, and with them whole calls: they work on files alone.
/// The first byte names the plugin.
pub fn ipam(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    in_folder(|root| {
        let plugins: [&dyn Plugin; 3] = [&host_local::PLUGIN, &static_ipam::PLUGIN, &dhcp::PLUGIN];
        all_verbs(plugins[usize::from(choice % 3)], bytes, root);
    });
}

fn all_verbs(plugin: &dyn Plugin, bytes: &[u8], root: &Root) {
    for verb in [Verb::Add, Verb::Check, Verb::Status, Verb::Gc, Verb::Del] {
        let Some(call) = call(bytes, verb, root) else { return };
        // A folder that the bytes name is the machine's own.
        if elsewhere(&call) {
            return;
        }
        let attachment = Attachment { endpoint: endpoint(&call), netns: None, call };
        match verb {
            Verb::Add => drop(plugin.add(&attachment)),
            Verb::Check => drop(plugin.check(&attachment)),
            Verb::Status => drop(plugin.status(&attachment.call)),
            Verb::Gc => drop(plugin.gc(&attachment.call)),
            _ => drop(plugin.del(&attachment)),
        }
    }
}

fn elsewhere(call: &Call) -> bool {
    let has = |key| call.conf.ipam.as_ref().is_some_and(|ipam| weft_cni::json::get(ipam, key).is_some());
    has("dataDir") || has("resolvConf") || has("daemonSocketPath")
}

/// A datagram of netlink, as everything reads it that asks the kernel about what others have made: rules, filters, links, connections.
/// The first byte says whether it is netfilter's.
pub fn kernel(bytes: &[u8]) {
    match bytes.split_first() {
        Some((b'n', datagram)) => weft_firewall::read_answers(datagram),
        Some((_, datagram)) => weft_netlink::answers::read(datagram),
        None => {}
    }
}

/// A packet as it comes off the wire while somebody waits for an answer to his question for an address.
pub fn packet(bytes: &[u8]) {
    dhcp::is_answer(bytes);
}

/// A file of ours that others have had their hands on. The first byte names the file; `BOOT` stands for this boot's id, without
/// which much of what is below `/run` counts as none.
pub fn state(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    in_folder(|root| {
        let leases = root.cni_networks_dir();
        let firewall = root.masquerade_dir();
        let file = match choice % 32 {
            0 => root.attachments_dir().join("red/eth0.json"),
            1 => root.ports_dir().join("owners/red,eth0.json"),
            2 => root.ports_dir().join("owners/red,eth0.intent"),
            3 => root.ports_dir().join("claims/tcp/0.0.0.0/31/8080"),
            4 => root.ports_dir().join("moving/red.json"),
            5 => root.reservations_dir().join("n1.json"),
            6 => leases.join("n1/10.1.2.3"),
            7 => leases.join("n1/last_reserved_ip.0"),
            8 => leases.join(".index/n1/leases"),
            9 => root.dhcp_dir().join("red/n1,eth0.json"),
            10 => root.cni_results_dir().join("n1-red-eth0"),
            11 => root.chained_dir().join("sbr/red/eth0.json"),
            12 => root.cni_tuning_dir().join("red_eth0.json"),
            13 => root.overlay_run_dir().join("n1.json"),
            14 => root.overlay_config_dir().join("host.toml"),
            15 => root.overlay_config_dir().join("networks.d/n1.toml"),
            16 => firewall.join("admissions/n1/red,eth0"),
            17 => firewall.join("spoof/veth0"),
            18 => firewall.join("iptables").join(CHAIN).join("eth0"),
            20 => root.cni_conf_dir().join("10-n1.conflist"),
            21 => root.cni_conf_dir().join("10-n1.conf"),
            22 => root.cni_results_dir().join("n2-red-eth0"),
            23 => leases.join("n2/10.1.2.3"),
            _ => firewall.join("nftables").join(CHAIN).join("eth0"),
        };
        if choice % 32 == 15 {
            put(&root.overlay_config_dir().join("host.toml"), HOST);
        }
        put(&file, &of_this_boot(bytes));
        let conf =
            br#"{"cniVersion": "1.1.0", "name": "n1", "type": "bridge", "cni.dev/valid-attachments": [],
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/29"}]]}}"#;
        read_everything(root);
        if let Some(call) = call(conf, Verb::Gc, root) {
            drop(weft_plugin::attachments_elsewhere(&call));
        }
        all_verbs(&host_local::PLUGIN, conf, root);
    });
}

/// The chain of container `red` on network `n1`, as the reference plugins name it.
pub const CHAIN: &str = "CNI-e0988f3365b88e4df2b09554";

/// A host of static peers, which its networks are read with.
const HOST: &[u8] =
    b"name = \"h1\"\nunderlay = [\"192.0.2.1\"]\n[[block]]\nnetwork = \"n1\"\ncidr = \"10.1.2.0/26\"\n";

fn of_this_boot(bytes: &[u8]) -> Vec<u8> {
    let Ok(id) = boot::id() else { return bytes.to_vec() };
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|word| word == b"BOOT") {
        parts.push(&rest[..at]);
        rest = &rest[at + 4..];
    }
    parts.push(rest);
    parts.join(id.as_bytes())
}

fn read_everything(root: &Root) {
    let records = Records::new(root);
    drop(records.all());
    drop(records.all_damaged());
    drop(records.list());
    dhcp::count_leases(root);
    drop(Records::of_plugin(root, "sbr").all());
    let cache = Cache::new(root.cni_results_dir());
    drop(cache.made());
    drop(cache.of_network("n1"));
    drop(weft_firewall::on_record(&root.masquerade_dir()));
    weft_plan::is_backup(&root.cni_tuning_dir().join("red_eth0.json"));
    let books = Books::new(root);
    drop(books.owners());
    drop(books.list());
    drop(books.damaged());
    drop(books.interrupted_changes());
    drop(books.standing());
    drop(books.all_moving());
    drop(weft_overlay::statics::read(root));
    if let Ok(network) = "n1".parse() {
        drop(books.holders(&network));
        drop(records.of_network(&network));
        drop(Reservations::new(root).of_network(&network));
        drop(weft_overlay::here::network(root, &network));
        drop(weft_overlay::local::LocalNetwork::load(root, &network));
    }
}

fn put(file: &Path, bytes: &[u8]) {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).ok();
    }
    fs::write(file, bytes).ok();
}

/// Where files are kept in memory, on most machines: hundreds of thousands are written.
const MEMORY: &str = "/dev/shm";

fn in_folder(work: impl FnOnce(&Root)) {
    let Ok(folder) = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir()) else { return };
    work(&Root::new(Some(folder.path().into())));
}
