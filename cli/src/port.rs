//! `weft port ...`

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_manager::{self as manager, Manager, Published};
use weft_model::port::Publication;

use crate::args;
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
        args::Port::Publish(args) => {
            for one in report.take(manager.publish(&request(args))).unwrap_or_default() {
                report.print(&format!("{}\n", shown(&one)));
            }
        }
        args::Port::Unpublish(args) => {
            let Some((gone, missing)) = report.take(manager.unpublish(&request(args))) else { return };
            for one in gone {
                report.print(&format!("{}\n", shown(&one)));
            }
            for error in &missing {
                report.error(error);
            }
        }
        args::Port::Ls(args) => ls(manager, args, report),
    }
}

fn request(args: args::Ports) -> manager::Publish {
    manager::Publish { netns: args.netns, id: args.id, ports: args.ports }
}

fn ls(manager: &Manager, args: args::PortLs, report: &mut Report) {
    let container = args.netns.map(|netns| manager::Publish { netns, id: args.id, ports: Vec::new() });
    let Some(published) = report.take(manager.published(container.as_ref())) else { return };
    let rows: Vec<Value> = published.iter().map(row).collect();
    match LIST.print(&rows, args.format.as_deref(), args.quiet) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
}

fn row(published: &Published) -> Value {
    let one = &published.publication;
    let from: Vec<String> = one.from.iter().map(ToString::to_string).collect();
    json!({
        "Container": published.endpoint.container,
        "Name": published.name,
        "Network": published.endpoint.network,
        "Interface": published.endpoint.ifname,
        "Port": shown(one),
        "Protocol": one.protocol,
        "HostIP": one.host,
        "HostPort": one.host_ports.to_string(),
        "ContainerIP": one.target,
        "ContainerPort": one.target_ports.to_string(),
        "From": from.join(","),
    })
}

/// DOCKER: `0.0.0.0:8080->80/tcp`, as in its list of containers.
pub(crate) fn shown(one: &Publication) -> String {
    let host = match one.host {
        IpAddr::V4(host) => host.to_string(),
        IpAddr::V6(host) => format!("[{host}]"),
    };
    format!("{host}:{}->{}/{}", one.host_ports, one.target_ports, one.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_look_like_dockers() {
        let one = |json: Value| shown(&serde_json::from_value(json).unwrap());
        assert_eq!(
            one(
                json!({"protocol": "tcp", "host": "0.0.0.0", "hostPorts": "8080", "target": "10.1.0.2", "targetPorts": "80"})
            ),
            "0.0.0.0:8080->80/tcp"
        );
        assert_eq!(
            one(
                json!({"protocol": "udp", "host": "::", "hostPorts": "8000-8009", "target": "fd00::2", "targetPorts": "1-10"})
            ),
            "[::]:8000-8009->1-10/udp"
        );
    }
}
