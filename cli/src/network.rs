//! `weft network ...`

use std::io::BufRead;
use std::net::IpAddr;

use serde_json::{Value, json};
use weft_manager::filter::shown_driver;
use weft_manager::network::Network;
use weft_manager::subnets::Wanted;
use weft_manager::{self as manager, Manager};

use crate::args;
use crate::later::Later;
use crate::report::{Report, say};
use crate::table::Form;
use crate::template::Template;

const LIST: Form<'_> = Form {
    columns: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    usual: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "ID",
};

/// Carries a command out.
pub(crate) fn run(manager: &Manager, command: args::Network, report: &mut Report) {
    match command {
        args::Network::Create(Later(args)) => create(manager, *args, report),
        args::Network::Ls(Later(args)) => ls(manager, &args, report),
        args::Network::Inspect(Later(args)) => inspect(manager, &args, report),
        args::Network::Connect(Later(args)) => connect(manager, *args, report),
        args::Network::Disconnect(Later(args)) => disconnect(manager, args, report),
        args::Network::Rm(Later(args)) => rm(manager, &args, report),
        args::Network::Prune(Later(args)) => prune(manager, &args, report),
        args::Network::Reload { network } => reload(manager, network.as_deref(), report),
        args::Network::Exists { network } => match report.take(manager.exists(&network)) {
            Some(true) | None => {}
            Some(false) => report.fail(3),
        },
    }
}

fn create(manager: &Manager, args: args::Create, report: &mut Report) {
    let request = manager::Create {
        name: args.name,
        driver: args.driver,
        wanted: Wanted {
            subnets: args.subnet,
            gateways: args.gateway,
            ranges: args.ip_range,
            aux: args.aux_address.into_iter().collect(),
        },
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        internal: args.internal,
        labels: args.label.into_iter().collect(),
        options: args.opt.into_iter().collect(),
        dns: args.dns.iter().map(IpAddr::to_string).collect(),
    };
    if let Some(network) =
        report.take(manager.create_telling(&request, &mut |what| say(&format!("weft: {what}"))))
    {
        report.print(&format!("{}\n", network.about.id));
    }
}

fn ls(manager: &Manager, args: &args::Ls, report: &mut Report) {
    let Some(listed) = report.take(manager.ls(&args.filter)) else { return };
    let rows: Vec<Value> = listed.networks.iter().map(|network| row(network, args.no_trunc)).collect();
    match LIST.print(&rows, args.format.as_deref(), args.quiet) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
    for error in &listed.errors {
        report.error(error);
    }
}

/// DOCKER: every value is a text.
fn row(network: &Network, whole: bool) -> Value {
    let about = &network.about;
    let labels: Vec<String> = about.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    json!({
        "ID": if whole { about.id.to_string() } else { about.id.short() },
        "Name": network.name,
        "Driver": shown_driver(&about.driver),
        "Scope": network.scope(),
        "IPv4": network.has_family(true).to_string(),
        "IPv6": network.has_family(false).to_string(),
        "Internal": about.internal.to_string(),
        "Labels": labels.join(","),
        "Label": about.labels,
        "CreatedAt": about.created.replace('T', " ").replace('Z', " +0000 UTC"),
    })
}

fn inspect(manager: &Manager, args: &args::Inspect, report: &mut Report) {
    let outcomes: Vec<_> = args.networks.iter().map(|reference| manager.inspect(reference)).collect();
    let found: Vec<_> = outcomes.iter().flatten().collect();
    match args.format.as_deref() {
        None | Some("") => report.print(&format!("{}\n", weft_cni::json::pretty(&found))),
        Some("json") => report.print(&format!("{}\n", json!(found))),
        Some(format) => {
            let render = |template: &Template| -> Result<String, _> {
                found.iter().map(|network| Ok(template.render(&json!(network))? + "\n")).collect()
            };
            match Template::parse(format).and_then(|template| render(&template)) {
                Ok(text) => report.print(&text),
                Err(error) => report.usage(error),
            }
        }
    }
    for outcome in outcomes {
        report.take(outcome);
    }
}

fn connect(manager: &Manager, args: args::Connect, report: &mut Report) {
    let addresses = args.ip.map(IpAddr::from).into_iter().chain(args.ip6.map(IpAddr::from));
    let request = manager::Connect {
        network: args.network,
        netns: args.netns,
        id: args.id,
        name: args.name,
        aliases: args.alias,
        addresses: addresses.collect(),
        mac: args.mac,
        interface: args.interface,
        priority: args.gw_priority,
        sysctls: args.sysctl,
        publish: args.publish,
    };
    if let Some(connected) = report.take(manager.connect(&request)) {
        for warning in connected.warnings {
            report.warn(warning);
        }
    }
}

fn disconnect(manager: &Manager, args: args::Disconnect, report: &mut Report) {
    let request =
        manager::Disconnect { network: args.network, netns: args.netns, id: args.id, force: args.force };
    let done = report.take(manager.disconnect(&request)).unwrap_or_default();
    for problem in done.problems {
        report.warn(problem);
    }
    for warning in done.warnings {
        report.warn(warning);
    }
}

fn reload(manager: &Manager, network: Option<&str>, report: &mut Report) {
    for error in report.take(manager.reload(network)).unwrap_or_default() {
        report.error(&error);
    }
}

fn rm(manager: &Manager, args: &args::Rm, report: &mut Report) {
    for reference in &args.networks {
        if let Some(Some(left)) = report.take(manager.rm(reference, args.force)) {
            for problem in left {
                report.warn(problem);
            }
            report.print(&format!("{reference}\n"));
        }
    }
}

fn prune(manager: &Manager, args: &args::Prune, report: &mut Report) {
    if !args.force && !confirmed() {
        return;
    }
    let Some(pruned) = report.take(manager.prune(&args.filter)) else { return };
    if !pruned.deleted.is_empty() {
        let names: String = pruned.deleted.iter().map(|name| format!("{name}\n")).collect();
        report.print(&format!("Deleted Networks:\n{names}\n"));
    }
    for error in &pruned.errors {
        report.error(error);
    }
}

/// Asks in docker's words; only the letter itself is a yes.
fn confirmed() -> bool {
    say("WARNING! This will remove all custom networks not used by at least one container.");
    eprint!("Are you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y")
}
