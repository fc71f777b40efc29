//! Published ports: what one costs alone and beside thousands of others, and what passes through it.

mod crowd;
mod page;
mod plugins;
mod traffic;

use std::collections::BTreeMap;

use anyhow::Result;

use crate::docker::Docker;
use crate::host::{Ground, Host, Side};
use crate::netavark::{self, Ports};
use crate::process::Cost;
use crate::report::Comparison;
use crate::rounds::{Size, median};

pub(crate) use page::section;
use traffic::Flow;

/// What is measured of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// A container is connected, and one port of it published.
    Connect,
    /// All of that is taken back.
    Disconnect,
    /// One port of a connected container is published.
    Publish,
    /// And taken back.
    Withdraw,
    /// As many ports as the crowd has, in one range.
    PublishRange,
    /// And taken back.
    WithdrawRange,
}

/// Whose work, and whether thousands of ports are published on that host already.
type Row = (Work, Side, bool);

/// What passes, by whose host it is and whether thousands of ports are published there.
type Flows = BTreeMap<(Side, bool), Flow>;

/// What was measured.
pub(crate) struct Published {
    costs: BTreeMap<Row, Cost>,
    flows: Flows,
    /// The processes that our plugin's publishing starts, itself included: one port, and a range.
    processes: [u64; 2],
    /// The elements that a range is to our firewall.
    elements: usize,
    /// Who is not there, and why.
    absent: Vec<String>,
    /// How many ports are published already on the hosts with a crowd.
    crowd: u16,
}

/// One run's samples.
#[derive(Default)]
struct Run {
    costs: BTreeMap<Row, Vec<Cost>>,
    flows: Flows,
    processes: Option<[u64; 2]>,
    elements: usize,
}

/// A side's two hosts: one with nothing else published, and one with a crowd.
struct Pair {
    side: Side,
    alone: Host,
    crowded: Host,
}

/// Measures everything about published ports.
pub(crate) fn measure(size: &Size) -> Result<Published> {
    let (sides, absent) = sides(size);
    let mut costs: BTreeMap<Row, Vec<Cost>> = BTreeMap::new();
    let mut flows = Flows::new();
    let (mut processes, mut elements) = ([u64::MAX; 2], 0);
    for number in 1..=size.runs {
        eprintln!("published ports, run {number} of {}", size.runs);
        let run = one_run(size, &sides)?;
        for (row, samples) in run.costs {
            costs.entry(row).or_default().push(median(samples));
        }
        for (whose, rounds) in run.flows {
            flows.entry(whose).or_default().append(rounds);
        }
        for (least, counted) in processes.iter_mut().zip(run.processes.unwrap_or([u64::MAX; 2])) {
            *least = counted.min(*least);
        }
        elements = elements.max(run.elements);
    }
    Ok(Published {
        costs: costs.into_iter().map(|(row, medians)| (row, median(medians))).collect(),
        flows,
        processes,
        elements,
        absent,
        crowd: size.ports,
    })
}

/// Measures what passes through published ports and nothing else. Returns the table.
pub(crate) fn traffic_alone(size: &Size) -> Result<String> {
    let (sides, _) = sides(size);
    let pairs = sides.into_iter().filter(|side| *side != Side::Command);
    let pairs = pairs.map(|side| Pair::start(side, size)).collect::<Result<Vec<_>>>()?;
    let mut run = Run::default();
    traffic::measure(&pairs, size, &mut run)?;
    let mut page = page::traffic(&run.flows, size.ports);
    page.push_str(Comparison::HEAD);
    page::flows(&mut page, &run.flows, size.ports)?;
    Ok(page)
}

/// Returns who is measured, and who is not, with the reason.
fn sides(size: &Size) -> (Vec<Side>, Vec<String>) {
    let mut sides = vec![Side::Weft, Side::Command, Side::Debian];
    let mut absent = Vec::new();
    let others = [
        (Side::Docker, Docker::is_there(), "docker", "docker.io"),
        (Side::Netavark, netavark::find().is_some(), "netavark", "netavark"),
    ];
    for (side, there, name, package) in others {
        match (size.peers > 0, there) {
            (false, _) => absent.push(format!("{name} is left out by --quick")),
            (true, false) => absent.push(format!("{name} is not measured: no package {package}")),
            (true, true) => sides.push(side),
        }
    }
    for line in &absent {
        eprintln!("{line}");
    }
    (sides, absent)
}

fn one_run(size: &Size, sides: &[Side]) -> Result<Run> {
    let mut run = Run::default();
    let mut pairs = Vec::new();
    for side in sides {
        eprintln!("  {side}");
        let pair = Pair::start(*side, size)?;
        pair.measure(size, &mut run)?;
        pairs.push(pair);
    }
    eprintln!("  traffic");
    traffic::measure(&pairs, size, &mut run)?;
    Ok(run)
}

/// How many containers of a side come and go in a run.
fn samples(side: Side, size: &Size) -> usize {
    match side {
        Side::Weft | Side::Command | Side::Debian => size.containers,
        Side::Docker | Side::Netavark => size.peers,
    }
}

impl Pair {
    /// Makes two hosts. The container after those that are measured has made the bridge, the rules and the files.
    fn start(side: Side, size: &Size) -> Result<Self> {
        let count = samples(side, size);
        let ports = size.ports;
        let host = || -> Result<Host> {
            let host = Host::start(side, if side == Side::Docker { 0 } else { count + 1 })?;
            host.run(move |ground| ground.prepare(count))?;
            Ok(host)
        };
        let pair = Self { side, alone: host()?, crowded: host()? };
        pair.crowded.run(move |ground| crowd::publish(ground, ports))?;
        Ok(pair)
    }

    fn measure(&self, size: &Size, run: &mut Run) -> Result<()> {
        let count = samples(self.side, size);
        let mut take = |work, crowded, cost| {
            run.costs.entry((work, self.side, crowded)).or_default().push(cost);
        };
        for number in 0..count {
            take(Work::Connect, false, self.alone.run(move |ground| ground.connect(number))?);
        }
        for number in 0..count {
            take(Work::Disconnect, false, self.alone.run(move |ground| ground.disconnect(number))?);
        }
        match self.side {
            Side::Weft | Side::Debian => self.growth(size, &mut take)?,
            Side::Docker | Side::Netavark => {
                for number in 0..count.min(size.crowded) {
                    take(Work::Connect, true, self.crowded.run(move |ground| ground.connect(number))?);
                }
                for number in 0..count.min(size.crowded) {
                    take(Work::Disconnect, true, self.crowded.run(move |ground| ground.disconnect(number))?);
                }
            }
            Side::Command => {}
        }
        self.ranges(size, run)
    }

    /// `portmap` alone, on both hosts in turn.
    fn growth(&self, size: &Size, mut take: impl FnMut(Work, bool, Cost)) -> Result<()> {
        let count = if self.side == Side::Debian { size.crowded } else { size.containers };
        for host in [&self.alone, &self.crowded] {
            host.run(move |ground| (0..count).try_for_each(|number| ground.attach(number)))?;
        }
        for number in 0..count {
            for (host, crowded) in [(&self.alone, false), (&self.crowded, true)] {
                take(Work::Publish, crowded, host.run(move |ground| ground.publish(number))?);
            }
        }
        for number in 0..count {
            for (host, crowded) in [(&self.alone, false), (&self.crowded, true)] {
                take(Work::Withdraw, crowded, host.run(move |ground| ground.withdraw(number))?);
            }
        }
        for host in [&self.alone, &self.crowded] {
            host.run(move |ground| (0..count).try_for_each(|number| ground.detach(number)))?;
        }
        Ok(())
    }

    /// A range of as many ports as the crowd has, where there is such a thing.
    fn ranges(&self, size: &Size, run: &mut Run) -> Result<()> {
        let (count, ports) = (samples(self.side, size), size.ports);
        if !matches!(self.side, Side::Weft | Side::Netavark) {
            return Ok(());
        }
        let mut least = [u64::MAX; 2];
        for number in 0..count {
            let (costs, processes, elements) = self.alone.run(move |ground| match ground.side {
                Side::Netavark => {
                    let range = Ports { first: plugins::RANGE, target: plugins::RANGE, count: ports };
                    let add = netavark::call(ground, "setup", number, range)?;
                    Ok(([add, netavark::call(ground, "teardown", number, range)?], least, 0))
                }
                _ => ground.range(number, ports),
            })?;
            for (work, cost) in [Work::PublishRange, Work::WithdrawRange].into_iter().zip(costs) {
                run.costs.entry((work, self.side, false)).or_default().push(cost);
            }
            least = [least[0].min(processes[0]), least[1].min(processes[1])];
            run.elements = run.elements.max(elements);
        }
        if self.side == Side::Weft {
            run.processes = Some(least);
        }
        Ok(())
    }
}

impl Ground {
    /// Makes what has to be there before the first container is measured.
    fn prepare(&mut self, count: usize) -> Result<()> {
        match self.side {
            Side::Weft | Side::Debian | Side::Netavark => {}
            Side::Command => {
                self.weft(&["network", "create", "--subnet", "10.90.0.0/16", plugins::NETWORK])?;
            }
            Side::Docker => {
                let docker = Docker::start(&self.lab)?;
                for number in 0..=count {
                    docker.run_container(number, plugins::port(number)?)?;
                }
                self.docker = Some(docker);
            }
        }
        self.connect(count).map(drop)
    }
}
