//! `weft port ...`

use serde_json::{Value, json};
use weft_manager::{self as manager, Manager, Published};

use crate::args;
use crate::later::Later;
use crate::report::Report;
use crate::table::Form;

const LIST: Form<'_> = Form {
    columns: &[
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("Network", "NETWORK"),
        ("Interface", "INTERFACE"),
        ("Port", "PORT"),
        ("Protocol", "PROTOCOL"),
        ("HostIP", "HOST IP"),
        ("HostPort", "HOST PORT"),
        ("ContainerIP", "CONTAINER IP"),
        ("ContainerPort", "CONTAINER PORT"),
        ("From", "FROM"),
    ],
    usual: "{{.Container}}\t{{.Network}}\t{{.Port}}\t{{.From}}",
    quiet: "Port",
};

/// Carries a command out.
pub(crate) fn run(manager: &Manager, command: args::Port, report: &mut Report) {
    match command {
        args::Port::Publish(Later(args)) => {
            for one in report.take(manager.publish(&request(args))).unwrap_or_default() {
                report.print(&format!("{one}\n"));
            }
        }
        args::Port::Unpublish(Later(args)) => {
            let Some((gone, missing)) = report.take(manager.unpublish(&request(args))) else { return };
            for one in gone {
                report.print(&format!("{one}\n"));
            }
            for error in &missing {
                report.error(error);
            }
        }
        args::Port::Ls(Later(args)) => ls(manager, args, report),
    }
}

fn request(args: args::Ports) -> manager::Publish {
    manager::Publish { netns: args.netns, id: args.id, ports: args.ports }
}

fn ls(manager: &Manager, args: args::PortLs, report: &mut Report) {
    let container = args.netns.map(|netns| manager::Publish { netns, id: args.id, ports: Vec::new() });
    let Some(published) = report.take(manager.published(container.as_ref())) else { return };
    for line in manager.unlisted_ports() {
        report.warn(line);
    }
    let rows: Vec<Value> = published.iter().map(row).collect();
    match LIST.print(&rows, args.format.as_deref(), args.quiet) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
}

fn row(published: &Published) -> Value {
    let one = &published.port.publication;
    let from: Vec<String> = one.from.iter().map(ToString::to_string).collect();
    json!({
        "Container": published.endpoint.container,
        "Name": published.name,
        "Network": published.endpoint.network,
        "Interface": published.endpoint.ifname,
        "Port": published.port.to_string(),
        "Protocol": one.protocol,
        "HostIP": if published.port.translated { one.host.to_string() } else { String::new() },
        "HostPort": if published.port.translated { one.host_ports.to_string() } else { String::new() },
        "ContainerIP": one.target,
        "ContainerPort": one.target_ports.to_string(),
        "From": from.join(","),
    })
}
