//! The rounds: who is measured, in which order, how often.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;

use crate::bare;
use crate::host::{Ground, Host, Side};
use crate::machine;
use crate::process::Cost;

/// How much is measured.
pub(crate) struct Size {
    /// Containers a run.
    pub(crate) containers: usize,
    /// Runs; the figure is the median of their medians.
    pub(crate) runs: usize,
    /// Containers on one bridge at the end of the growth measurement; a bridge takes 1,023.
    pub(crate) crowd: usize,
    /// Containers of docker and netavark a run, which take their time; none leaves them out.
    pub(crate) peers: usize,
    /// Ports that are published already on the hosts that have a crowd of them, and that a long range has.
    pub(crate) ports: u16,
    /// Containers a run of the peers on such hosts, where they take more of it.
    pub(crate) crowded: usize,
    /// How often traffic passes through each port in a run, and how long at a time.
    pub(crate) windows: usize,
    pub(crate) window: Duration,
}

impl Size {
    pub(crate) const FULL: Self = Self {
        containers: 30,
        runs: 3,
        crowd: 1000,
        peers: 10,
        ports: 10_000,
        crowded: 3,
        windows: 15,
        window: Duration::from_millis(100),
    };
    pub(crate) const QUICK: Self = Self {
        containers: 10,
        runs: 1,
        crowd: 0,
        peers: 0,
        ports: 1000,
        crowded: 3,
        windows: 3,
        window: Duration::from_millis(100),
    };
    /// For traffic through published ports alone.
    pub(crate) const TRAFFIC: Self = Self { containers: 1, runs: 1, peers: 1, windows: 30, ..Self::FULL };
}

/// What was measured: the medians, by the name of the operation.
pub(crate) type Figures = BTreeMap<&'static str, Cost>;

/// Measures everything.
pub(crate) fn measure(size: &Size) -> Result<Figures> {
    let mut runs: BTreeMap<&'static str, Vec<Cost>> = BTreeMap::new();
    for run in 1..=size.runs {
        eprintln!("run {run} of {}", size.runs);
        for (name, cost) in one_run(size.containers)? {
            runs.entry(name).or_default().push(cost);
        }
    }
    for run in 1..=if size.crowd > 0 { size.runs } else { 0 } {
        eprintln!("{} containers on one bridge, {run} of {}", size.crowd, size.runs);
        for (name, cost) in crowd(size.crowd)? {
            runs.entry(name).or_default().push(cost);
        }
    }
    Ok(runs.into_iter().map(|(name, costs)| (name, median(costs))).collect())
}

/// One run: hosts are made, containers come and go on one after the other, and the medians are taken.
fn one_run(containers: usize) -> Result<Figures> {
    // The last container warms up: the bridge, the rules and the files are there when the first is measured.
    let weft = Host::start(Side::Weft, containers + 1)?;
    let debian = Host::start(Side::Debian, containers + 1)?;
    let bare = Host::start(Side::Weft, containers + 1)?;
    let manager = Host::start(Side::Weft, containers + 1)?;
    let mut samples = Samples::default();

    weft.run(move |ground| ground.bridge("ADD", containers))?;
    debian.run(move |ground| ground.bridge("ADD", containers))?;
    bare.run(move |ground| bare::add(ground, containers))?;
    manager.run(|ground| ground.weft(&["network", "create", "--subnet", "10.91.0.0/16", "blue"]))?;
    manager.run(move |ground| connect(ground, "connect", containers))?;

    // One implementation at a time, as on a host that has one: what a process finds in the CPU's caches is
    // then what its own kind left there. The bare requests alternate with our plugin, so that both find the same.
    let all = 0..containers;
    // First what makes no links: the kernel goes on clearing away links long after DEL has returned.
    for (host, add, del, version) in [
        (&weft, "loopback ADD weft", "loopback DEL weft", "VERSION weft"),
        (&debian, "loopback ADD debian", "loopback DEL debian", "VERSION debian"),
    ] {
        samples.each(add, host, all.clone(), |ground, number| ground.loopback("ADD", number))?;
        samples.each(del, host, all.clone(), |ground, number| ground.loopback("DEL", number))?;
        samples.each(version, host, all.clone(), |ground, _| ground.version())?;
    }

    for number in all.clone() {
        in_turns(number, &mut samples, [("bridge ADD weft", &weft), ("bridge ADD bare", &bare)])?;
    }
    samples.each("bridge ADD debian", &debian, all.clone(), |ground, number| ground.bridge("ADD", number))?;
    samples
        .each("connect weft", &manager, all.clone(), |ground, number| connect(ground, "connect", number))?;

    for number in all.clone() {
        samples.take("bridge DEL weft", weft.run(move |ground| ground.bridge("DEL", number))?);
        samples.take("bridge DEL bare", bare.run(move |ground| bare::del(ground, number))?);
    }
    samples.each("bridge DEL debian", &debian, all.clone(), |ground, number| ground.bridge("DEL", number))?;
    samples.each("disconnect weft", &manager, all.clone(), |ground, n| connect(ground, "disconnect", n))?;

    Ok(samples.medians())
}

fn connect(ground: &Ground, verb: &str, container: usize) -> Result<Cost> {
    ground.weft(&["network", verb, "blue", ground.containers[container].name()])
}

/// An ADD by the plugin and one by bare requests. Each goes first as often as the other: what somebody has done the kernel goes on
/// with for a while, at the cost of who comes next.
fn in_turns(container: usize, samples: &mut Samples, [weft, bare]: [(&'static str, &Host); 2]) -> Result<()> {
    let plugin = || weft.1.run(move |ground| ground.bridge("ADD", container));
    let requests = || bare.1.run(move |ground| bare::add(ground, container));
    let (plugin, requests) = if container.is_multiple_of(2) {
        let first = plugin()?;
        (first, requests()?)
    } else {
        let first = requests()?;
        (plugin()?, first)
    };
    samples.take(weft.0, plugin);
    samples.take(bare.0, requests);
    Ok(())
}

/// The first ADDs and the last of a crowd, by the plugin and by bare requests in turn.
fn crowd(size: usize) -> Result<Figures> {
    const EDGE: usize = 60;
    machine::wait_for_namespaces();
    let (weft, bare) = (Host::start(Side::Weft, 0)?, Host::start(Side::Weft, 0)?);
    let mut samples = Samples::default();
    for number in 0..size {
        let grow = move |ground: &mut Ground| {
            ground.grow(number + 1);
            Ok(())
        };
        weft.run(grow)?;
        bare.run(grow)?;
        // The very first ADD of a host also makes the bridge: it is no container among others.
        let names = if (1..=EDGE).contains(&number) {
            ["first weft", "first bare"]
        } else if number >= size - EDGE {
            ["last weft", "last bare"]
        } else {
            ["weft between", "bare between"]
        };
        in_turns(number, &mut samples, [(names[0], &weft), (names[1], &bare)])?;
    }
    Ok(samples.medians())
}

/// Costs by the name of the operation.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<Cost>>);

impl Samples {
    /// Takes one sample of an operation for each container.
    fn each(
        &mut self,
        name: &'static str,
        host: &Host,
        containers: Range<usize>,
        operation: impl Fn(&Ground, usize) -> Result<Cost> + Copy + Send + 'static,
    ) -> Result<()> {
        for number in containers {
            self.take(name, host.run(move |ground| operation(ground, number))?);
        }
        Ok(())
    }

    fn take(&mut self, name: &'static str, cost: Cost) {
        self.0.entry(name).or_default().push(cost);
    }

    fn medians(self) -> Figures {
        self.0.into_iter().map(|(name, costs)| (name, median(costs))).collect()
    }
}

/// The median of each of the three figures on its own.
pub(crate) fn median(costs: Vec<Cost>) -> Cost {
    fn middle<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    }
    Cost {
        wall: middle(costs.iter().map(|cost| cost.wall).collect()).unwrap_or_default(),
        cpu: middle(costs.iter().map(|cost| cost.cpu).collect()).unwrap_or_default(),
        faults: middle(costs.iter().map(|cost| cost.faults).collect()).unwrap_or_default(),
    }
}
