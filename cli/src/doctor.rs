//! `weft doctor`

use serde_json::{Value, json};
use weft_manager::Manager;

use crate::args::Doctor;
use crate::overlay;
use crate::report::Report;
use crate::table::Form;

const LIST: Form<'_> = Form {
    columns: &[("What", "WHAT"), ("Why", "WHY"), ("Mend", "MENDED BY")],
    usual: "{{.What}}\t{{.Why}}\t{{.Mend}}",
    quiet: "Mend",
};

/// Carries the command out. It fails if something is out of step.
pub(crate) fn run(manager: &Manager, args: &Doctor, report: &mut Report) {
    let found = match &args.drop_in {
        Some(plugins) => manager.examine_node(plugins, &args.networks),
        None => manager.doctor(args.fix),
    };
    let Some(found) = report.take(found) else { return };
    if args.drop_in.is_none() {
        overlay::say_shut(manager);
    }
    if found.is_empty() {
        return;
    }
    let rows: Vec<Value> =
        found.iter().map(|one| json!({"What": one.what, "Why": one.why, "Mend": one.mend})).collect();
    match LIST.print(&rows, args.format.as_deref(), false) {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
    report.fail(1);
}
