//! `weft ps`

use serde_json::{Value, json};
use weft_manager::{Attached, Manager};

use crate::args::Ps;
use crate::report::Report;
use crate::table::Form;

const LIST: Form<'_> = Form {
    columns: &[
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("Network", "NETWORK"),
        ("Interface", "INTERFACE"),
        ("Addresses", "ADDRESSES"),
        ("Mac", "MAC"),
        ("Ports", "PORTS"),
        ("Driver", "DRIVER"),
        ("Namespace", "NAMESPACE"),
        ("Status", "STATUS"),
        ("CreatedAt", "CREATED AT"),
    ],
    usual: "{{.Container}}\t{{.Name}}\t{{.Network}}\t{{.Interface}}\t{{.Addresses}}\t{{.Status}}\t{{.Ports}}",
    quiet: "Container",
};

/// Carries the command out.
pub(crate) fn run(manager: &Manager, args: &Ps, report: &mut Report) {
    let Some(attached) = report.take(manager.ps()) else { return };
    let rows: Vec<Value> = attached.iter().map(row).collect();
    match LIST.print(&rows, args.format.as_deref(), args.quiet) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
}

fn row(attached: &Attached) -> Value {
    let record = &attached.record;
    let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
    json!({
        "Container": record.endpoint.container,
        "Name": attached.name,
        "Network": record.endpoint.network,
        "Interface": record.endpoint.ifname,
        "Addresses": addresses.join(","),
        "Ports": attached.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        "Mac": attached.mac().unwrap_or_default(),
        "Driver": record.kind,
        "Namespace": record.netns.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
        "Status": attached.liveness.as_str(),
        "CreatedAt": record.created,
    })
}
