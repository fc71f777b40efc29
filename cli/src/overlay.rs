//! `weft overlay ...`

use std::path::PathBuf;

use serde_json::{Value, json};
use weft_manager::Manager;
use weft_manager::overlay::protocol::{self, Difference, Forget, Leave, Link, Peer, Request, Status};

use crate::args;
use crate::later::Later;
use crate::report::{Report, say};
use crate::table::Form;
use crate::template::Template;

const PEERS: Form<'_> = Form {
    columns: &[
        ("ID", "HOST ID"),
        ("Name", "NAME"),
        ("State", "STATE"),
        ("Underlay", "UNDERLAY"),
        ("Mtu", "MTU"),
        ("Blocks", "BLOCKS"),
        ("Handshake", "HANDSHAKE"),
        ("Version", "VERSION"),
    ],
    usual: "{{.ID}}\t{{.Name}}\t{{.State}}\t{{.Underlay}}\t{{.Mtu}}\t{{.Blocks}}\t{{.Handshake}}",
    quiet: "ID",
};

const DIFFERENCES: Form<'_> =
    Form { columns: &[("What", "WHAT"), ("Why", "WHY")], usual: "{{.What}}\t{{.Why}}", quiet: "What" };

const LINKS: Form<'_> = Form {
    columns: &[("Link", "LINK"), ("State", "STATE"), ("Found", "FOUND"), ("Mend", "MENDED BY")],
    usual: "{{.Link}}\t{{.State}}\t{{.Found}}\t{{.Mend}}",
    quiet: "Link",
};

/// How many digits of an id are shown.
const SHORT: usize = 12;

/// Carries a command out.
pub(crate) fn run(manager: &Manager, command: args::Overlay, report: &mut Report) {
    match command {
        args::Overlay::Join(Later(args)) => join(manager, *args, report),
        args::Overlay::Leave { force } => {
            ask::<Value>(manager, Request::Leave(Leave { force }), report);
        }
        args::Overlay::Status { metrics: true, .. } => {
            if let Some(text) = ask::<String>(manager, Request::Metrics, report) {
                report.print(&text);
            }
        }
        args::Overlay::Status { format, .. } => {
            if let Some(status) = ask::<Status>(manager, Request::Status, report) {
                show(&status, format.as_deref(), report);
            }
        }
        args::Overlay::Peers { verify: true, format } => verify(manager, format.as_deref(), report),
        args::Overlay::Peers { format, .. } => peers(manager, format.as_deref(), report),
        args::Overlay::Forget { host, force } => {
            if let Some(id) = ask::<String>(manager, Request::Forget(Forget { host, force }), report) {
                report.print(&format!("{id}\n"));
            }
        }
        args::Overlay::Diag { address, network, format } => {
            let walked = manager.agent().diag(&weftd(), address, network, &mut progress);
            diag(&report.take(walked).unwrap_or_default(), format.as_deref(), report);
        }
        args::Overlay::Apply => apply(manager, report),
        args::Overlay::Rotate => {
            ask::<Value>(manager, Request::Rotate, report);
        }
    }
}

/// Asks the agent; what it does meanwhile goes to standard error.
fn ask<T: serde::de::DeserializeOwned>(
    manager: &Manager,
    request: Request,
    report: &mut Report,
) -> Option<T> {
    report.take(manager.agent().ask(request, &mut progress))
}

fn progress(what: &str) {
    say(&format!("weft: {what}"));
}

/// Returns where `weftd` is: beside this program.
fn weftd() -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name("weftd")
}

fn join(manager: &Manager, args: args::Join, report: &mut Report) {
    let join = protocol::Join {
        endpoints: args.etcd,
        dir: args.dir.map(absolute),
        ca: args.ca.map(absolute),
        cert: args.cert.map(absolute),
        key: args.key.map(absolute),
        underlay_interface: args.underlay_if,
        underlay: args.underlay_ip,
        name: args.name,
        secret: args.secret.map(absolute),
        pools: args.pool,
        takeover: args.takeover,
    };
    if let Some(status) = ask::<Status>(manager, Request::Join(Box::new(join)), report) {
        let host = status.host.unwrap_or_default();
        report.print(&format!("{}\n", host.id));
    }
}

/// Files are the agent's to read, which has another working directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn show(status: &Status, format: Option<&str>, report: &mut Report) {
    match format {
        None | Some("") => report.print(&text(status)),
        Some("json") => report.print(&format!("{}\n", weft_cni::json::pretty(status))),
        Some(format) => match Template::parse(format).and_then(|form| form.render(&json!(status))) {
            Ok(text) => report.print(&format!("{text}\n")),
            Err(error) => report.usage(error),
        },
    }
}

/// Returns the status as people read it.
fn text(status: &Status) -> String {
    let mut lines = vec![("state", status.state.clone())];
    lines.extend(status.why.iter().map(|why| ("", why.clone())));
    if let Some(cluster) = &status.cluster {
        lines.push(("cluster", cluster.clone()));
    }
    if let Some(host) = &status.host {
        let underlay: Vec<String> = host.underlay.iter().map(ToString::to_string).collect();
        lines.push((
            "host",
            format!("{} {} at {}, mtu {}", host.id, host.name, underlay.join(", "), host.mtu),
        ));
    }
    if status.replaced {
        let version = &status.version;
        lines.push((
            "agent",
            format!("runs as {version}, as before an upgrade: systemctl restart weft-agent"),
        ));
    }
    lines.extend(status.carriers.iter().map(|(slot, by)| ("tunnel", format!("{slot} by {by}"))));
    if !status.store.endpoints.is_empty() {
        let store = &status.store;
        let state = if store.connected { "connected" } else { "not connected" };
        let at = store.endpoints.join(",");
        lines.push(("store", format!("{at} {state}, revision {}", store.revision)));
        lines.extend(store.error.iter().map(|error| ("", error.clone())));
        lines.push(("peers", format!("{} alive, {} suspect", status.alive, status.suspect)));
    }
    for network in &status.networks {
        lines.push(("network", network_line(network)));
        lines.extend(network.refused.iter().map(|why| ("", format!("not on this host: {why}"))));
        lines.extend(network.slow.iter().map(|why| ("", why.clone())));
        lines.extend(network.shut.iter().map(|why| ("", format!("fastpath is shut: {why}"))));
    }
    lines.extend(status.bad.iter().map(|bad| ("bad record", format!("{}: {}", bad.key, bad.why))));
    lines.extend(status.alarms.iter().map(|alarm| ("alarm", alarm.clone())));
    if status.mended > 0 {
        lines.push(("mended", format!("{} things that others took away", status.mended)));
    }
    lines.into_iter().map(|(key, value)| format!("{key:<12}{value}\n")).collect()
}

fn network_line(network: &protocol::NetworkStatus) -> String {
    let list =
        |cidrs: &[ipnetwork::IpNetwork]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let wire = match network {
        network if network.encrypted => "encrypted",
        network if network.gated && network.shut.is_empty() => "plain, fastpath open",
        network if network.gated => "plain, fastpath shut",
        network if network.fastpath => "plain, fastpath",
        _ => "plain",
    };
    let blocks = match network.blocks.is_empty() {
        true => "no block here".into(),
        false => format!("here {}, {} of {} in use", list(&network.blocks), network.used, network.size),
    };
    format!("{} vni {} {wire} {}; {blocks}", network.name, network.vni, list(&network.subnets))
}

fn peers(manager: &Manager, format: Option<&str>, report: &mut Report) {
    let Some(peers) = ask::<Vec<Peer>>(manager, Request::Peers, report) else { return };
    if format == Some("json") {
        return report.print(&format!("{}\n", weft_cni::json::pretty(&peers)));
    }
    let rows: Vec<Value> = peers.iter().map(row).collect();
    print(&PEERS, &rows, format, report);
}

fn row(peer: &Peer) -> Value {
    let join = |texts: Vec<String>| texts.join(", ");
    let blocks = peer
        .blocks
        .iter()
        .flat_map(|(network, blocks)| blocks.iter().map(move |block| format!("{network} {block}")));
    let handshakes = peer.tunnels.iter().map(|tunnel| match tunnel.handshake {
        Some(seconds) => format!("{} {seconds} s ago", tunnel.slot),
        None => format!("{} never", tunnel.slot),
    });
    json!({
        "ID": peer.id.chars().take(SHORT).collect::<String>(),
        "Name": peer.name,
        "State": peer.state,
        "Underlay": join(peer.underlay.iter().map(ToString::to_string).collect()),
        "Mtu": peer.mtu.to_string(),
        "Blocks": join(blocks.collect()),
        "Handshake": join(handshakes.collect()),
        "Version": peer.version,
    })
}

/// Says of which networks packets do not take the fast path that they may, and why. Nothing is out of step by that.
pub(crate) fn say_shut(manager: &Manager) {
    if !manager.agent().has_joined() {
        return;
    }
    match manager.agent().ask::<Status>(Request::Status, &mut |_| {}) {
        Ok(status) => {
            for network in status.networks {
                for why in network.shut {
                    say(&format!("network {}: fastpath is shut: {why}", network.name));
                }
            }
        }
        Err(error) => say(&format!("fastpath=auto is shut: {error}")),
    }
}

fn verify(manager: &Manager, format: Option<&str>, report: &mut Report) {
    let Some(found) = ask::<Vec<Difference>>(manager, Request::Verify, report) else { return };
    say_shut(manager);
    if found.is_empty() {
        return;
    }
    let rows: Vec<Value> = found.iter().map(|one| json!({"What": one.what, "Why": one.why})).collect();
    print(&DIFFERENCES, &rows, format, report);
    say("hint: weft overlay apply");
    report.fail(1);
}

fn diag(links: &[Link], format: Option<&str>, report: &mut Report) {
    if links.is_empty() {
        return;
    }
    let row = |link: &Link| {
        let state = if link.sound { "ok" } else { "BROKEN" };
        json!({"Link": link.link, "State": state, "Found": link.found, "Mend": link.mend.clone().unwrap_or_default()})
    };
    print(&LINKS, &links.iter().map(row).collect::<Vec<_>>(), format, report);
    if links.iter().any(|link| !link.sound) {
        report.fail(1);
    }
}

/// Without a cluster the peers are in files, and what the plugin does for `weft network reload` is all there is to it.
fn apply(manager: &Manager, report: &mut Report) {
    if manager.agent().has_joined() {
        ask::<Value>(manager, Request::Apply, report);
        return;
    }
    for error in report.take(manager.reload_clusters()).unwrap_or_default() {
        report.error(&error);
    }
}

fn print(form: &Form<'_>, rows: &[Value], format: Option<&str>, report: &mut Report) {
    match form.print(rows, format, false) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
}
