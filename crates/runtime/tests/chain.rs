//! Chains of plugins, played by shell scripts that write down what they were asked.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_cni::{AttachmentId, Conflist};
use weft_runtime::{Attachment, Runtime, load};
use weft_state::Root;
use weft_state::atomic::{self, Durability};

/// A host of its own: a root directory, a plugin directory and a log of calls.
struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs a plugin. `script` runs after the call and its input were written down.
    fn plugin(&self, kind: &str, script: &str) -> &Self {
        let log = self.path("log");
        let input = self.path(&format!("{kind}.stdin"));
        let text = format!(
            "#!/bin/sh\necho \"$CNI_COMMAND {kind} $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" >> {}\ncat > {}.$CNI_COMMAND\n{script}\n",
            log.display(),
            input.display(),
        );
        self.install(kind, &text);
        self
    }

    fn install(&self, kind: &str, script: &str) -> PathBuf {
        let file = self.path("bin").join(kind);
        atomic::write(&file, script.as_bytes(), Durability::Boot, 0o755).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn runtime(&self) -> Runtime {
        Runtime::new(&Root::new(Some(self.path("root"))), vec![self.path("bin")])
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(|line| line.trim_end().into()).collect()
    }

    fn stdin(&self, kind: &str, verb: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("{kind}.stdin.{verb}"))).unwrap()).unwrap()
    }

    fn cached(&self) -> PathBuf {
        self.path("root/var/lib/cni/results/n1-c1-eth0")
    }
}

const ANSWER: &str = r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],"ips":[{"address":"10.1.0.2/24","interface":0}]}'"#;

fn list(kinds: &[&str]) -> Conflist {
    let plugins: Vec<Value> =
        kinds.iter().map(|kind| json!({"type": kind, "capabilities": {"ips": true, "mac": false}})).collect();
    conflist(&json!({"cniVersion": "1.1.0", "name": "n1", "plugins": plugins}))
}

fn conflist(value: &Value) -> Conflist {
    Conflist::parse(value.to_string().as_bytes()).unwrap()
}

fn attachment() -> Attachment {
    let mut attachment =
        Attachment::new("c1".parse().unwrap(), Some("/run/netns/c1".into()), "eth0".parse().unwrap());
    attachment.args = vec![("IgnoreUnknown".into(), "1".into()), ("K".into(), "v".into())];
    attachment.capability_args.insert("ips".into(), json!(["10.1.0.2"]));
    attachment.capability_args.insert("mac".into(), json!("02:00:00:00:00:01"));
    attachment.conf_args.insert("weft".into(), json!({"name": "web"}));
    attachment
}

#[test]
fn add_runs_in_order_and_hands_results_on() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER).plugin("second", ANSWER);
    let result = stage.runtime().add(&list(&["first", "second"]), &attachment()).unwrap();

    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    let of = |kind: &str| format!("ADD {kind} c1 /run/netns/c1 eth0 IgnoreUnknown=1;K=v");
    assert_eq!(stage.log(), [of("first"), of("second")]);

    let first = stage.stdin("first", "ADD");
    assert_eq!(first["name"], "n1");
    assert_eq!(first["cniVersion"], "1.1.0");
    assert_eq!(first["runtimeConfig"], json!({"ips": ["10.1.0.2"]}), "declared and given, no more");
    assert_eq!(first["args"], json!({"weft": {"name": "web"}}));
    assert_eq!(first.get("prevResult"), None);
    assert_eq!(stage.stdin("second", "ADD")["prevResult"], result);
}

/// What a list has for a plugin that is not ours gets there, also where keys differ in case alone.
#[test]
fn a_plugins_own_maps_reach_it_whole() {
    let stage = Stage::new();
    stage.plugin("mesh", ANSWER);
    let own = json!({"App": "a", "app": "b", "APP": {"Tier": 1, "tier": 2}});
    let plugins = json!([{"type": "mesh", "selectors": own, "policies": [{"match": own}]}]);
    let list = conflist(&json!({"cniVersion": "1.1.0", "name": "n1", "plugins": plugins}));
    stage.runtime().add(&list, &attachment()).unwrap();
    let told = stage.stdin("mesh", "ADD");
    assert_eq!((&told["selectors"], &told["policies"][0]["match"]), (&own, &own));
}

#[test]
fn del_runs_in_reverse_with_the_cached_result_and_forgets_it() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER).plugin("second", ANSWER);
    let (runtime, list) = (stage.runtime(), list(&["first", "second"]));
    let result = runtime.add(&list, &attachment()).unwrap();
    assert!(stage.cached().exists());

    assert!(runtime.del(&list, &attachment()).is_empty());
    let verbs: Vec<String> = stage.log().iter().map(|line| line[..10].into()).collect();
    assert_eq!(verbs, ["ADD first ", "ADD second", "DEL second", "DEL first "]);
    assert_eq!(stage.stdin("first", "DEL")["prevResult"], result);
    assert!(!stage.cached().exists());

    assert!(runtime.del(&list, &attachment()).is_empty(), "twice is once");
    assert_eq!(stage.stdin("first", "DEL").get("prevResult"), None);
}

#[test]
fn one_plugin_is_asked_again_and_the_new_arguments_are_kept() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER).plugin("second", ANSWER);
    let (runtime, list) = (stage.runtime(), list(&["first", "second"]));
    let result = runtime.add(&list, &attachment()).unwrap();
    let endpoint = weft_model::Endpoint {
        network: "n1".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let ips = || runtime.cache().capability_args(&endpoint).get("ips").cloned();
    assert_eq!(ips(), Some(json!(["10.1.0.2"])));

    let mut other = attachment();
    other.capability_args.insert("ips".into(), json!(["10.1.0.9"]));
    runtime.renew(&list, &list.plugins[1], weft_cni::Verb::Add, &other, &result).unwrap();
    assert_eq!(stage.log().len(), 3, "{:?}", stage.log());
    assert_eq!(stage.stdin("second", "ADD")["runtimeConfig"], json!({"ips": ["10.1.0.9"]}));
    assert_eq!(stage.stdin("second", "ADD")["prevResult"], result);
    assert_eq!(ips(), Some(json!(["10.1.0.9"])));

    stage.plugin("second", "exit 1");
    runtime.renew(&list, &list.plugins[1], weft_cni::Verb::Add, &attachment(), &result).unwrap_err();
    assert_eq!(ips(), Some(json!(["10.1.0.9"])), "what failed is not kept");
    assert_eq!(runtime.cache().result(&endpoint), Some(result));
}

#[test]
fn the_cache_has_the_reference_librarys_form() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER);
    stage.runtime().add(&list(&["first"]), &attachment()).unwrap();
    let mut entry: Value = serde_json::from_slice(&fs::read(stage.cached()).unwrap()).unwrap();
    let config = entry["config"].take();
    assert!(config.as_str().unwrap().starts_with("eyJ"), "base64 of an object: {config}");
    assert_eq!(
        entry,
        json!({
            "kind": "cniCacheV1",
            "containerId": "c1",
            "config": null,
            "ifName": "eth0",
            "networkName": "n1",
            "netns": "/run/netns/c1",
            "cniArgs": [["IgnoreUnknown", "1"], ["K", "v"]],
            "capabilityArgs": {"ips": ["10.1.0.2"], "mac": "02:00:00:00:00:01"},
            "result": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
                       "ips": [{"address": "10.1.0.2/24", "interface": 0}]},
        })
    );
    assert_eq!(fs::metadata(stage.cached()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_failed_add_is_undone_in_the_whole_chain() {
    let stage = Stage::new();
    let failing = r#"[ $CNI_COMMAND != ADD ] || { echo '{"code": 7, "msg": "no such\\nuplink"}'; exit 1; }"#;
    stage.plugin("first", ANSWER).plugin("second", failing).plugin("third", ANSWER);
    let error = stage.runtime().add(&list(&["first", "second", "third"]), &attachment()).unwrap_err();

    assert_eq!(error.to_string(), "plugin second on network n1: no such uplink");
    let verbs: Vec<String> = stage.log().iter().map(|line| line[..9].into()).collect();
    assert_eq!(verbs, ["ADD first", "ADD secon", "DEL third", "DEL secon", "DEL first"]);
    assert!(!stage.cached().exists());
}

/// Two names of one program. Each notes that it was started, and then what it reads. The first then waits until the second was
/// started for the same verb, and does more.
fn of_one_program(stage: &Stage, more: &str) {
    let (started, log) = (stage.path("started"), stage.path("log"));
    let script = format!(
        "#!/bin/sh
name=${{0##*/}}
echo $CNI_COMMAND $name >> {started}
input=$(cat)
[ -z \"$input\" ] || echo $CNI_COMMAND $name >> {log}
if [ $name = first ]; then
    while ! grep -q \"$CNI_COMMAND second\" {started}; do sleep 0.01; done
    {more}
fi
{ANSWER}
",
        started = started.display(),
        log = log.display()
    );
    let file = stage.install("first", &script);
    fs::hard_link(&file, file.with_file_name("second")).unwrap();
}

#[test]
fn a_program_of_several_names_gets_ready_while_the_one_before_works() {
    let stage = Stage::new();
    of_one_program(&stage, ":");
    let (runtime, list) = (stage.runtime(), list(&["first", "second"]));
    runtime.add(&list, &attachment()).unwrap();
    assert!(runtime.del(&list, &attachment()).is_empty());
    assert_eq!(stage.log(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
}

#[test]
fn who_got_ready_in_vain_has_read_nothing() {
    let stage = Stage::new();
    of_one_program(&stage, r#"[ $CNI_COMMAND != ADD ] || { echo '{"code": 7, "msg": "no"}'; exit 1; }"#);
    let error = stage.runtime().add(&list(&["first", "second"]), &attachment()).unwrap_err();
    assert_eq!(error.to_string(), "plugin first on network n1: no");
    assert_eq!(stage.log(), ["ADD first", "DEL second", "DEL first"]);
}

#[test]
fn what_cannot_be_undone_is_named() {
    let stage = Stage::new();
    stage.plugin("first", r#"echo "{\"code\": 999, \"msg\": \"$CNI_COMMAND is too much\"}"; exit 1"#);
    let error = stage.runtime().add(&list(&["first"]), &attachment()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin first on network n1: ADD is too much; not undone: plugin first on network n1 (DEL): DEL is too much"
    );
}

#[test]
fn who_did_nothing_has_nothing_to_undo() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER).plugin("refuses", r#"echo '{"code": 999, "msg": "not here"}'; exit 1"#);
    let add = |kinds: &[&str]| stage.runtime().add(&list(kinds), &attachment()).unwrap_err().to_string();
    assert_eq!(add(&["first", "refuses"]), "plugin refuses on network n1: not here");
    let missing = format!("failed to find plugin \"gone\" in path [{}]", stage.path("bin").display());
    assert_eq!(add(&["first", "gone", "absent"]), format!("plugin gone on network n1: {missing}"));
    assert_eq!(add(&["refuses", "gone"]), "plugin refuses on network n1: not here");
    assert_eq!(stage.log().iter().filter(|line| line.starts_with("DEL first")).count(), 2);
}

#[test]
fn del_goes_past_failures_and_reports_each() {
    let stage = Stage::new();
    let failing = "[ $CNI_COMMAND = ADD ] || { echo no idea >&2; exit 3; }";
    stage.plugin("first", ANSWER).plugin("second", &format!("{ANSWER}\n{failing}"));
    let (runtime, list) = (stage.runtime(), list(&["first", "missing", "second"]));
    let problems: Vec<String> = runtime.del(&list, &attachment()).iter().map(ToString::to_string).collect();
    let paths = stage.path("bin");
    assert_eq!(
        problems,
        [
            "plugin second on network n1 (DEL): netplugin failed: \"no idea\": exit status 3".into(),
            format!(
                "plugin missing on network n1 (DEL): failed to find plugin \"missing\" in path [{}]",
                paths.display()
            ),
        ]
    );
    assert_eq!(stage.log().last().unwrap(), "DEL first c1 /run/netns/c1 eth0 IgnoreUnknown=1;K=v");
}

#[test]
fn a_damaged_cache_never_blocks_del() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER);
    let (runtime, list) = (stage.runtime(), list(&["first"]));
    for damage in
        [&b""[..], b"{\"kind\":\"cniCacheV1\",\"resu", b"[]", b"{\"kind\":\"other\",\"result\":{}}", b"\xff"]
    {
        runtime.add(&list, &attachment()).unwrap();
        atomic::write(&stage.cached(), damage, Durability::Boot, 0o600).unwrap();
        assert!(runtime.del(&list, &attachment()).is_empty());
        assert_eq!(stage.stdin("first", "DEL").get("prevResult"), None);
        assert!(!stage.cached().exists());
    }
}

#[test]
fn bad_plugins_get_one_clear_line_each() {
    let table = [
        ("exit 0", "printed no result"),
        ("echo hello; echo world", "printed no result but \"hello world\""),
        ("echo '[1]'", "printed no result but \"[1]\""),
        ("exit 1", "netplugin failed with no error message: exit status 1"),
        ("kill -9 $$", "netplugin failed with no error message: signal: 9 (SIGKILL)"),
        (
            "echo oops; exit 2",
            "netplugin failed but its diagnostic message is no error object: \"oops\": exit status 2",
        ),
        ("exec sleep 300", "gave no answer within 300 ms and was killed"),
    ];
    for (script, text) in table {
        let stage = Stage::new();
        stage.plugin("bad", &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{script}"));
        let runtime = stage.runtime().with_timeout(Duration::from_millis(300));
        let error = runtime.add(&list(&["bad"]), &attachment()).unwrap_err().to_string();
        assert!(error.starts_with("plugin bad on network n1: "), "{error}");
        assert!(error.ends_with(text), "{script}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_result_with_a_bad_address_is_refused() {
    let stage = Stage::new();
    stage.plugin(
        "bad",
        r#"[ $CNI_COMMAND = ADD ] || exit 0; echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0"}]}'"#,
    );
    let error = stage.runtime().add(&list(&["bad"]), &attachment()).unwrap_err().to_string();
    assert!(error.starts_with("plugin bad on network n1: printed a result that is none: "), "{error}");
}

#[test]
fn a_full_disk_undoes_the_add() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER);
    // A file where the cache's directory should be fails every write, as a full disk would.
    fs::create_dir_all(stage.path("root/var/lib/cni")).unwrap();
    fs::File::create(stage.path("root/var/lib/cni/results")).unwrap();
    let error = stage.runtime().add(&list(&["first"]), &attachment()).unwrap_err().to_string();
    assert!(error.starts_with("network n1: cannot write "), "{error}");
    assert!(stage.log().last().unwrap().starts_with("DEL first"));
}

#[test]
fn check_needs_a_version_and_a_cached_result() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER);
    let runtime = stage.runtime();
    let old = conflist(&json!({"cniVersion": "0.3.1", "name": "n1", "plugins": [{"type": "first"}]}));
    let error = runtime.check(&old, &attachment()).unwrap_err().to_string();
    assert_eq!(error, "network n1 has cniVersion 0.3.1, which does not allow CHECK");
    let error = runtime.check(&list(&["first"]), &attachment()).unwrap_err().to_string();
    assert_eq!(error, "nothing is known about eth0 of c1 on n1: its result is not cached");

    let result = runtime.add(&list(&["first"]), &attachment()).unwrap();
    runtime.check(&list(&["first"]), &attachment()).unwrap();
    assert_eq!(stage.stdin("first", "CHECK")["prevResult"], result);

    let disabled =
        json!({"cniVersion": "1.1.0", "name": "n1", "disableCheck": true, "plugins": [{"type": "missing"}]});
    runtime.check(&conflist(&disabled), &attachment()).unwrap();
}

#[test]
fn gc_deletes_what_is_not_valid_and_then_tells_every_plugin() {
    let stage = Stage::new();
    stage.plugin("first", ANSWER).plugin("second", ANSWER);
    let (runtime, list) = (stage.runtime(), list(&["first", "second"]));
    for container in ["c1", "c2"] {
        let attachment = Attachment { container: container.parse().unwrap(), ..attachment() };
        runtime.add(&list, &attachment).unwrap();
    }
    let valid = [AttachmentId { container_id: "c2".into(), ifname: "eth0".into() }];
    assert!(runtime.gc(&list, &valid).is_empty());

    let log = stage.log();
    assert_eq!(log[4..6], ["DEL second c1 /run/netns/c1 eth0", "DEL first c1 /run/netns/c1 eth0"]);
    assert_eq!(log[6..], ["GC first", "GC second"]);
    let told = json!([{"containerID": "c2", "ifname": "eth0"}]);
    assert_eq!(stage.stdin("second", "GC")["cni.dev/valid-attachments"], told);
    assert_eq!(stage.stdin("second", "GC")["cni.dev/attachments"], told);

    let off =
        json!({"cniVersion": "1.1.0", "name": "n1", "disableGC": true, "plugins": [{"type": "missing"}]});
    assert!(runtime.gc(&conflist(&off), &[]).is_empty());
    let old = json!({"cniVersion": "1.0.0", "name": "n1", "plugins": [{"type": "missing"}]});
    assert!(runtime.gc(&conflist(&old), &[]).is_empty());
}

#[test]
fn status_stops_at_the_first_plugin_that_is_not_ready() {
    let stage = Stage::new();
    stage.plugin("first", r#"echo '{"code": 50, "msg": "not yet"}'; exit 1"#).plugin("second", ANSWER);
    let error = stage.runtime().status(&list(&["first", "second"])).unwrap_err();
    assert_eq!(error.to_string(), "plugin first on network n1 (STATUS): not yet");
    assert_eq!(stage.log(), ["STATUS first"]);
}

#[test]
fn versions_are_asked_for() {
    let stage = Stage::new();
    stage.plugin("first", r#"echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0"]}'"#);
    assert_eq!(stage.runtime().versions("first").unwrap(), ["0.4.0", "1.0.0"]);
    assert_eq!(stage.stdin("first", "VERSION"), json!({"cniVersion": "1.1.0"}));
}

#[test]
fn plugins_dropped_beside_the_list_come_last() {
    let stage = Stage::new();
    let file = stage.path("n1.conflist");
    let put = |path: &Path, value: Value| {
        atomic::write(path, value.to_string().as_bytes(), Durability::Boot, 0o644).unwrap();
    };
    put(&file, json!({"cniVersion": "1.1.0", "name": "n1", "plugins": [{"type": "first"}]}));
    put(&stage.path("n1/20-b.conf"), json!({"type": "third"}));
    put(&stage.path("n1/10-a.conf"), json!({"type": "second"}));
    put(&stage.path("n1/readme.txt"), json!("not a plugin"));
    let kinds = |list: &Conflist| -> Vec<String> {
        list.plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().into()).collect()
    };
    assert_eq!(kinds(&load::conflist(&file).unwrap()), ["first", "second", "third"]);

    let only = json!({"cniVersion": "1.1.0", "name": "n1", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "first"}]});
    put(&file, only);
    assert_eq!(kinds(&load::conflist(&file).unwrap()), ["first"]);

    assert!(load::conflist(&stage.path("absent")).unwrap_err().is_missing());
    put(&file, json!({"cniVersion": "1.1.0", "name": "n1", "plugins": [{}]}));
    let error = load::conflist(&file).unwrap_err().to_string();
    assert!(error.contains("n1.conflist: ") && error.contains("plugins[0]"), "{error}");
}
