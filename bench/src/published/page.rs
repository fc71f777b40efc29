//! The part of the page about published ports.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::traffic::Flow;
use super::{Flows, Published, Row, Work};
use crate::host::Side;
use crate::process::Cost;
use crate::ratio::{NEAR, Ratio};
use crate::report::{Comparison, ms};

const METHOD: &str = "
Each side has two hosts, as above: one with nothing else published, one with a crowd. *Connecting* makes the link, the address,
the masquerading and one published port: with us and with Debian's reference plugins `bridge` and `portmap`, one process each
(DEL: `portmap` and `bridge`), with netavark one `setup` or `teardown`, which is given the address. Docker has no command
for just this; its nearest is `docker network connect` of a running container that was started with `-p` on an internal network,
where nothing is published: connecting it to the second network makes the link and publishes the port, `disconnect`
takes both back. Docker's figures are of the client's process, which waits for a daemon started for this on data and sockets of
its own. The crowd belongs to ten containers. Ours are published by our plugin, the others' are written rule for
rule by `iptables-restore`: publishing as many with the programs themselves would take minutes to hours. Docker has no
proxy process for them.

Traffic comes from another namespace over the uplink to the host's address, and goes through the last port published. A connection is
opened, accepted and reset, one after the other, both ends on one processor; bytes flow from one processor to the other.
All hosts take turns of a moment each. A ratio is the median of those of all rounds, and beside it stands between what bounds the
true one lies with a certainty of 95 %. *Not below* is met when 1 is within these bounds, or below them, and the median is at least 0.95.
";

/// Writes the section.
pub(crate) fn section(page: &mut String, published: &Published) -> Result<()> {
    let _ = write!(page, "\n## Published ports\n");
    for line in &published.absent {
        let _ = writeln!(page, "\n{line}.");
    }
    goals(page, published)?;
    page.push_str(METHOD);
    growth(page, published);
    page.push_str(&traffic(&published.flows, published.crowd));
    Ok(())
}

impl Published {
    fn cost(&self, work: Work, side: Side, crowded: bool) -> Option<Cost> {
        self.costs.get(&(work, side, crowded)).copied()
    }

    fn ours(&self, row: Row) -> Result<Cost> {
        self.costs.get(&row).copied().with_context(|| format!("{row:?} was not measured"))
    }
}

fn goals(page: &mut String, published: &Published) -> Result<()> {
    page.push_str(Comparison::HEAD);
    for (work, what, goal) in [(Work::Connect, "ADD", 18.0), (Work::Disconnect, "DEL", 40.0)] {
        let ours = published.ours((work, Side::Weft, false))?;
        for side in [Side::Debian, Side::Netavark] {
            let Some(theirs) = published.cost(work, side, false) else { continue };
            let ratio = theirs.wall.as_secs_f64() / ours.wall.as_secs_f64();
            let (goal, met) = match side {
                Side::Debian => (format!("at least {goal}"), Some(ratio >= goal)),
                _ => (String::new(), None),
            };
            Comparison {
                what: &format!("bridge + host-local + portmap {what}, one port"),
                ours: ms(ours.wall),
                whom: &side.to_string(),
                theirs: ms(theirs.wall),
                ratio: format!("{ratio:.1} times faster"),
                goal,
                met,
            }
            .write(page);
        }
    }
    for (work, verb) in [(Work::Connect, "connect -p"), (Work::Disconnect, "disconnect")] {
        let ours = published.ours((work, Side::Command, false))?;
        let Some(theirs) = published.cost(work, Side::Docker, false) else { continue };
        Comparison {
            what: &format!("weft network {verb}"),
            ours: ms(ours.wall),
            whom: &format!("docker network {}", verb.trim_end_matches(" -p")),
            theirs: ms(theirs.wall),
            ratio: format!("{:.1} times faster", theirs.wall.as_secs_f64() / ours.wall.as_secs_f64()),
            goal: String::new(),
            met: None,
        }
        .write(page);
    }
    for (work, verb) in [(Work::Publish, "ADD"), (Work::Withdraw, "DEL")] {
        let alone = published.ours((work, Side::Weft, false))?;
        let crowded = published.ours((work, Side::Weft, true))?;
        let ratio = crowded.wall.as_secs_f64() / alone.wall.as_secs_f64();
        Comparison {
            what: &format!("portmap {verb}, {} ports published", published.crowd),
            ours: ms(crowded.wall),
            whom: "none published",
            theirs: ms(alone.wall),
            ratio: format!("{ratio:.2} times"),
            goal: "at most 1.2".into(),
            met: Some(ratio <= 1.2),
        }
        .write(page);
    }
    range(page, published)?;
    flows(page, &published.flows, published.crowd)
}

fn range(page: &mut String, published: &Published) -> Result<()> {
    let one = published.ours((Work::Publish, Side::Weft, false))?;
    let range = published.ours((Work::PublishRange, Side::Weft, false))?;
    let ratio = range.wall.as_secs_f64() / one.wall.as_secs_f64();
    let what = format!("portmap ADD, a range of {} ports", published.crowd);
    Comparison {
        what: &what,
        ours: ms(range.wall),
        whom: "one port",
        theirs: ms(one.wall),
        ratio: format!("{ratio:.2} times"),
        goal: "less than 2".into(),
        met: Some(ratio < 2.0),
    }
    .write(page);
    let [of_one, of_range] = published.processes;
    Comparison {
        what: &format!("{what}: processes, elements"),
        ours: format!("{of_range}, {}", published.elements),
        whom: "one port",
        theirs: format!("{of_one}, 1"),
        ratio: String::new(),
        goal: "no more".into(),
        met: Some(of_range <= of_one && published.elements == 1),
    }
    .write(page);
    Ok(())
}

/// One thing that passes through a port, of two hosts.
struct Passing {
    what: String,
    ours: f64,
    theirs: f64,
    show: fn(f64) -> String,
    ratio: Ratio,
}

/// Ours with a crowd beside ours alone, and all of ours beside everybody else's.
pub(super) fn flows(page: &mut String, flows: &Flows, crowd: u16) -> Result<()> {
    let flow = |side, crowded| flows.get(&(side, crowded));
    let many = format!("{crowd} ports published");
    let (alone, crowded) = (flow(Side::Weft, false), flow(Side::Weft, true));
    let (alone, crowded) = alone.zip(crowded).context("traffic was not measured")?;
    let mut compare = |passing: &Passing, whom: &str, goal: &str, met| {
        Comparison {
            what: &passing.what,
            ours: (passing.show)(passing.ours),
            whom,
            theirs: (passing.show)(passing.theirs),
            ratio: passing.ratio.to_string(),
            goal: goal.into(),
            met: Some(met),
        }
        .write(page);
    };
    for passing in passing(crowded, alone, &many)? {
        compare(&passing, "none published", &format!("at least {NEAR}"), passing.ratio.middle >= NEAR);
    }
    for side in [Side::Debian, Side::Docker, Side::Netavark] {
        let (Some(theirs), Some(theirs_crowded)) = (flow(side, false), flow(side, true)) else { continue };
        let all = [passing(alone, theirs, "none published")?, passing(crowded, theirs_crowded, &many)?];
        for passing in all.iter().flatten() {
            compare(passing, &format!("{side}, as many"), "not below", passing.ratio.is_not_below());
        }
    }
    Ok(())
}

fn passing(ours: &Flow, theirs: &Flow, published: &str) -> Result<[Passing; 2]> {
    let passing = |what: &str, of: fn(&Flow) -> &[f64], show| {
        let ratio = Ratio::of(of(ours), of(theirs)).context("traffic was not measured")?;
        let what = format!("{what}, {published}");
        anyhow::Ok(Passing { what, ours: middle(of(ours)), theirs: middle(of(theirs)), show, ratio })
    };
    Ok([
        passing("new connections", |flow| &flow.connections, per_second)?,
        passing("throughput", |flow| &flow.bytes, gigabits)?,
    ])
}

/// The median.
fn middle(rounds: &[f64]) -> f64 {
    let mut rounds = rounds.to_vec();
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

fn growth(page: &mut String, published: &Published) {
    let _ = writeln!(
        page,
        "\n| one more port | none published | {} published | |\n|---|--:|--:|--:|",
        published.crowd
    );
    let rows = [
        ("portmap ADD", Work::Publish, Side::Weft),
        ("portmap DEL", Work::Withdraw, Side::Weft),
        ("portmap ADD", Work::Publish, Side::Debian),
        ("portmap DEL", Work::Withdraw, Side::Debian),
        ("network connect", Work::Connect, Side::Docker),
        ("network disconnect", Work::Disconnect, Side::Docker),
        ("setup", Work::Connect, Side::Netavark),
        ("teardown", Work::Disconnect, Side::Netavark),
    ];
    for (what, work, side) in rows {
        let (alone, crowded) = (published.cost(work, side, false), published.cost(work, side, true));
        let (Some(alone), Some(crowded)) = (alone, crowded) else { continue };
        let ratio = crowded.wall.as_secs_f64() / alone.wall.as_secs_f64();
        let (alone, crowded) = (ms(alone.wall), ms(crowded.wall));
        let _ = writeln!(page, "| {side}: {what} | {alone} | {crowded} | {ratio:.2} times |");
    }
    let ranges =
        [("portmap ADD", Work::PublishRange, Side::Weft), ("setup", Work::PublishRange, Side::Netavark)];
    for (what, work, side) in ranges {
        let Some(cost) = published.cost(work, side, false) else { continue };
        let _ = writeln!(page, "| {side}: {what}, a range of {} | {} | | |", published.crowd, ms(cost.wall));
    }
}

/// Returns the table of what passes.
pub(super) fn traffic(flows: &Flows, crowd: u16) -> String {
    let mut page = format!(
        "\n| through a published port | connections | with {crowd} published | throughput | with {crowd} published |\n\
         |---|--:|--:|--:|--:|\n"
    );
    for side in [Side::Weft, Side::Debian, Side::Docker, Side::Netavark] {
        let flow = |crowded| flows.get(&(side, crowded));
        let (Some(alone), Some(crowded)) = (flow(false), flow(true)) else { continue };
        let _ = writeln!(
            page,
            "| {side} | {} | {} | {} | {} |",
            per_second(middle(&alone.connections)),
            per_second(middle(&crowded.connections)),
            gigabits(middle(&alone.bytes)),
            gigabits(middle(&crowded.bytes))
        );
    }
    page
}

fn per_second(rate: f64) -> String {
    format!("{rate:.0}/s")
}

fn gigabits(bytes: f64) -> String {
    format!("{:.1} Gbit/s", bytes * 8.0 / 1e9)
}
