//! The page that comes out.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine;
use crate::process::Cost;
use crate::published::{self, Published};
use crate::rounds::{Figures, Size};

const INTRODUCTION: &str = "\
# What it costs

Made by `cargo xtask bench`, which needs nothing prepared and measures in namespaces of its own; `cargo xtask bench --quick`
prints a rough picture in seconds. Times belong to the machine, ratios to the program.
";

const METHOD: &str = "
Every figure is of a whole process: started with three pipes, given its configuration, read to the end and waited for. Both
sides run one after the other in one run, each on a host of its own (network and mount namespaces) with an uplink, from the second
container on (the first also makes the bridge). The network is `bridge` with `host-local`, default gateway, hairpin and
masquerading, each side with its default backend: ours is one nf_tables question, Debian's runs iptables.
*Bare requests* are the same plan applied inside the measuring program: no process, no JSON, no files around it. They and our ADD take
turns, each going first as often as the other; container 1000 is one of the last 60 of a crowd, container 1 one of its first.
CPU is user and system time of the process and all it waits for. The process that sits out the kernel's barrier after our DEL
is nobody's child and not in it: it sleeps.
";

const REASONS: &str = "
## Where it comes from

- A page fault costs more than ten system calls: the plugins are static, without an async runtime and without an argument
  parser, and the functions they run lie next to each other. They start without the C library's seventy questions to the
  processor, for each of which a virtual machine has to be left ([why](adr/0013-what-a-start-costs.md)).
- The programs of both sides are copied in one piece before anything is measured: from a file that was copied page by page a start maps
  as many pieces, which takes ours 0.15 ms. Whoever installs them does well to do the same.
- What an ADD handles are a thousand small pieces of memory: the plugins have a heap that merges and gives back nothing
  ([why](adr/0021-the-memory-of-a-plugin.md)). And they look nothing up below `/proc/self`, which the kernel makes for each process anew.
- Parameters of links are asked for and set by netlink: a file below `/proc/sys/net` is looked up among those of all namespaces.
- One NEWLINK creates the pair with the peer born in its namespace and enslaves the host's end, which is raised in the same send;
  one batch inside the namespace does the rest. The address plugin is the same binary, and is called, not started.
- ADD ends when the host's end forwards, so the container's first packet is not lost. That wait is in the figures.
- DEL ends when the kernel announces that the link is gone. The barrier that follows is sat out by a process of its own.
- Masquerading asks the kernel one question and changes nothing when the subnet is known. No program is called.
";

/// Writes the page.
pub(crate) fn page(figures: &Figures, published: &Published, size: &Size) -> Result<String> {
    let mut page = String::from(INTRODUCTION);
    let _ = write!(
        page,
        "\n- machine: {}\n- against: {}\n- {} containers, medians, the median of {} runs\n",
        machine::describe(),
        machine::peers(),
        size.containers,
        size.runs
    );
    goals(&mut page, figures, size)?;
    page.push_str(METHOD);
    resources(&mut page, figures)?;
    sizes(&mut page);
    published::section(&mut page, published)?;
    page.push_str(REASONS);
    Ok(page)
}

fn goals(page: &mut String, figures: &Figures, size: &Size) -> Result<()> {
    page.push_str(Comparison::HEAD);
    let rows = [
        ("bridge + host-local + ipMasq ADD", "bridge ADD weft", "Debian", "bridge ADD debian", 9.0),
        ("bridge + host-local + ipMasq DEL", "bridge DEL weft", "Debian", "bridge DEL debian", 30.0),
        ("loopback ADD", "loopback ADD weft", "Debian", "loopback ADD debian", 4.0),
    ];
    for (what, ours, whom, theirs, goal) in rows {
        let (ours, theirs) = (figure(figures, ours)?.wall, figure(figures, theirs)?.wall);
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        row(
            page,
            what,
            ours,
            whom,
            theirs,
            &format!("{ratio:.1} times faster"),
            &format!("at least {goal}"),
            ratio >= goal,
        );
    }
    let add = figure(figures, "bridge ADD weft")?.wall;
    let bare = figure(figures, "bridge ADD bare")?.wall;
    let ratio = add.as_secs_f64() / bare.as_secs_f64();
    row(
        page,
        "bridge ADD",
        add,
        "bare requests",
        bare,
        &format!("{ratio:.2} times"),
        "at most 2",
        ratio <= 2.0,
    );
    let connect = figure(figures, "connect weft")?.wall;
    let ratio = connect.as_secs_f64() / add.as_secs_f64();
    row(
        page,
        "weft network connect",
        connect,
        "bridge ADD",
        add,
        &format!("{ratio:.2} times"),
        "less than 3",
        ratio < 3.0,
    );
    if size.crowd > 0 {
        let grown = |first: &str, last: &str| -> Result<_> {
            Ok(figure(figures, last)?.wall.saturating_sub(figure(figures, first)?.wall))
        };
        let (ours, bare) = (grown("first weft", "last weft")?, grown("first bare", "last bare")?);
        let ratio = ours.as_secs_f64() / bare.as_secs_f64();
        let what = format!("container {} over container 1", size.crowd);
        // The medians of two runs differ by some percent.
        row(page, &what, ours, "bare requests", bare, &format!("{ratio:.2} times"), "no more", ratio <= 1.1);
    }
    Ok(())
}

/// A row of a table of goals.
pub(crate) struct Comparison<'a> {
    pub(crate) what: &'a str,
    pub(crate) ours: String,
    pub(crate) whom: &'a str,
    pub(crate) theirs: String,
    pub(crate) ratio: String,
    /// Empty where there is none.
    pub(crate) goal: String,
    pub(crate) met: Option<bool>,
}

impl Comparison<'_> {
    /// What stands above such rows.
    pub(crate) const HEAD: &'static str =
        "\n| operation | weft | compared with | | ratio | goal | |\n|---|--:|---|--:|--:|--:|---|\n";

    /// Writes the row.
    pub(crate) fn write(&self, page: &mut String) {
        let Self { what, ours, whom, theirs, ratio, goal, met } = self;
        let mark = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let _ = writeln!(page, "| {what} | {ours} | {whom} | {theirs} | {ratio} | {goal} | {mark} |");
    }
}

#[expect(clippy::too_many_arguments, reason = "a table's row has as many cells")]
fn row(
    page: &mut String,
    what: &str,
    ours: Duration,
    whom: &str,
    theirs: Duration,
    ratio: &str,
    goal: &str,
    met: bool,
) {
    let (ratio, goal) = (ratio.to_string(), goal.to_string());
    Comparison { what, ours: ms(ours), whom, theirs: ms(theirs), ratio, goal, met: Some(met) }.write(page);
}

fn resources(page: &mut String, figures: &Figures) -> Result<()> {
    page.push_str("\n| process | wall | CPU | page faults | Debian: wall | CPU | page faults |\n|---|--:|--:|--:|--:|--:|--:|\n");
    let rows = [
        ("bridge ADD", "bridge ADD weft", Some("bridge ADD debian")),
        ("bridge DEL", "bridge DEL weft", Some("bridge DEL debian")),
        ("loopback ADD", "loopback ADD weft", Some("loopback ADD debian")),
        ("loopback DEL", "loopback DEL weft", Some("loopback DEL debian")),
        ("bridge VERSION (the process alone)", "VERSION weft", Some("VERSION debian")),
        ("weft network connect", "connect weft", None),
        ("weft network disconnect", "disconnect weft", None),
    ];
    for (what, ours, theirs) in rows {
        let cells = |cost: Cost| format!("{} | {} | {}", ms(cost.wall), ms(cost.cpu), cost.faults);
        let theirs = match theirs {
            Some(name) => cells(figure(figures, name)?),
            None => "| |".to_string(),
        };
        let _ = writeln!(page, "| {what} | {} | {theirs} |", cells(figure(figures, ours)?));
    }
    let (add, del) = (figure(figures, "bridge ADD bare")?.wall, figure(figures, "bridge DEL bare")?.wall);
    let _ = writeln!(page, "\nBare requests: ADD {}, DEL {}.", ms(add), ms(del));
    Ok(())
}

fn sizes(page: &mut String) {
    let (count, ours, theirs) = machine::plugins();
    page.push_str("\n| on disk | weft | Debian |\n|---|--:|--:|\n");
    let _ = writeln!(page, "| the {count} plugins that both have | {ours} KiB, one file | {theirs} KiB |");
    for name in ["weft", "weftd"] {
        let size = machine::size(name).map_or(String::new(), |size| format!("{size} KiB"));
        let _ = writeln!(page, "| {name} | {size} | |");
    }
}

fn figure(figures: &Figures, name: &str) -> Result<Cost> {
    figures.get(name).copied().with_context(|| format!("{name} was not measured"))
}

/// Writes a time for people.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
