//! Every plugin's ADD and DEL beside the reference's, and `host-local` with many addresses taken.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_testkit::staged_folder;

use crate::host::{Ground, Host, Side};
use crate::process::Cost;
use crate::report::ms;
use crate::{machine, rounds};

/// How many addresses are taken where many are.
const TAKEN: u32 = 60_000;
/// How often the two sides take turns: a machine's pace changes from minute to minute, and several calls in a row find in the processor's
/// caches what their own kind left there, as on a host that has one implementation.
const TURNS: usize = 3;
/// The shortest pause before a call; the longest is twice that.
const PAUSE: Duration = Duration::from_millis(30);
/// What the containers are behind that a chained plugin works on.
const BASE: &str = "ptp";

/// What there is to say about the rows.
const ELSEWHERE: &str = "
A plugin that cannot run here is named with the reason and counts for nothing. `cargo xtask bench --plugins --kernel debian` prints the table
under Debian's stock kernel, which has all kinds of links, in a virtual machine. `dummy` and `tap` are not in Debian's package.
Where the processor is emulated a call takes forty times as long, on both sides; in one such run ADD and DEL were faster by 8.0 and 8.6 (`ipvlan`),
8.5 and 8.3 (`vlan`), 3.9 and 3.3 (`vrf`), and by 7.4 and 6.9 with `loopback`.

The calls of `host-device` are one wait: on both sides a device changes its namespace once, and the kernel makes whoever asks wait for all that
had to do with it, 12 to 19 ms. The wait takes whole ticks of the clock, so these calls are made 30 to 60 ms apart.
";

/// One plugin, as it is called.
pub(crate) struct Case {
    pub(crate) kind: &'static str,
    /// Whether it works on what another plugin made.
    chained: bool,
    /// Its own keys.
    conf: Value,
    /// What the host gets for each container before, for `ip`; `#` stands for its number.
    device: Option<&'static str>,
}

fn case(kind: &'static str, conf: Value) -> Case {
    Case { kind, chained: false, conf, device: None }
}

fn chained(kind: &'static str, conf: Value) -> Case {
    Case { chained: true, ..case(kind, conf) }
}

/// The plugins that both sides have, each in its most usual form. `dhcp` is not here: what it costs is
/// a server's answer.
pub(crate) fn cases(leases: &Path) -> Vec<Case> {
    let ipam = || json!({"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.92.0.0/16"}]]});
    let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    vec![
        case("loopback", json!({})),
        case("bridge", json!({"bridge": "bench1", "isGateway": true, "ipMasq": true, "ipam": ipam()})),
        case("ptp", json!({"ipMasq": true, "ipam": ipam()})),
        case("macvlan", json!({"master": "uplink0", "ipam": ipam()})),
        case("ipvlan", json!({"master": "uplink0", "ipam": ipam()})),
        case("vlan", json!({"master": "uplink0", "vlanId": 5, "ipam": ipam()})),
        case("dummy", json!({"ipam": ipam()})),
        case("tap", json!({"ipam": ipam()})),
        Case {
            device: Some("link add benchdev type veth peer name benchpeer"),
            ..case("host-device", json!({"device": "benchdev", "ipam": ipam()}))
        },
        case("host-local", json!({"ipam": ipam()})),
        case("static", json!({"ipam": {"type": "static", "addresses": [{"address": "10.92.0.5/16"}]}})),
        chained("portmap", json!({"runtimeConfig": {"portMappings": mapping}})),
        chained("firewall", json!({})),
        chained("bandwidth", json!({"ingressRate": 8_000_000, "ingressBurst": 8_000_000})),
        chained("tuning", json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400})),
        chained("sbr", json!({})),
        chained("vrf", json!({"vrfname": "blue"})),
    ]
}

/// What one plugin's calls cost on either side: ADD and DEL.
type Pair = [[Cost; 2]; 2];

/// Measures everything, with this many containers one after the other, and writes it as a page's section. With names of plugins only
/// those.
pub(crate) fn measure(containers: usize, wanted: &[String]) -> Result<String> {
    let [ours, theirs] =
        [Host::start(Side::Weft, containers + 1)?, Host::start(Side::Debian, containers + 1)?];
    let kinds: Vec<_> = cases(Path::new("/")).iter().map(|case| case.kind).collect();
    if let Some(stranger) = wanted.iter().find(|name| !kinds.contains(&name.as_str())) {
        bail!("{stranger} is none of {}", kinds.join(", "));
    }
    let mut rows: Vec<(&'static str, Result<Pair>)> = Vec::new();
    for (number, kind) in kinds.into_iter().enumerate() {
        if !staged_folder().join(kind).exists()
            || !(wanted.is_empty() || wanted.iter().any(|one| one == kind))
        {
            continue;
        }
        eprintln!("{kind}");
        rows.push((kind, in_turns([&ours, &theirs], number, containers)));
    }
    let mut page = String::new();
    table(&mut page, &rows);
    if !wanted.is_empty() {
        return Ok(page);
    }
    page.push_str(ELSEWHERE);
    let (_, mine, reference) = machine::plugins();
    let times = ratio(Duration::from_millis(reference), Duration::from_millis(mine));
    let _ =
        writeln!(page, "\nAll plugins together: {mine} KiB beside {reference} KiB, a ratio of {times:.1}.");
    crowded(&mut page, &ours, &theirs, containers)?;
    Ok(page)
}

/// The medians of one plugin's ADD and DEL on each host.
fn in_turns(hosts: [&Host; 2], number: usize, containers: usize) -> Result<Pair> {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (host, costs) in hosts.iter().zip(&mut costs) {
            costs.extend(on(host, number, containers.div_ceil(2))?);
        }
    }
    Ok(costs.map(|costs| [0, 1].map(|verb| rounds::median(costs.iter().map(|both| both[verb]).collect()))))
}

/// What one plugin's ADD and DEL cost on one host, for containers that come and go one after the other.
fn on(host: &Host, number: usize, containers: usize) -> Result<Vec<[Cost; 2]>> {
    host.run(move |ground| {
        let cases = cases(&ground.lab.path("every"));
        // The first call of all is left out: it makes what all share.
        one(ground, &cases[number], 0)?;
        (1..=containers).map(|container| one(ground, &cases[number], container)).collect()
    })
}

/// What one plugin's ADD and DEL cost for a container.
pub(crate) fn one(ground: &mut Ground, case: &Case, container: usize) -> Result<[Cost; 2]> {
    if let Some(device) = case.device {
        ground.lab.ip(device);
    }
    let base = if case.chained { Some(connect(ground, container)?) } else { None };
    let mut conf = complete(&case.conf, case.kind);
    if let Some(result) = &base {
        conf["prevResult"] = result.clone();
    }
    let settle = |call| {
        if case.device.is_some() {
            settle(call)
        }
    };
    settle(2 * container);
    let (add, printed) = ground.call(case.kind, "ADD", container, "eth0", &conf)?;
    conf["prevResult"] = serde_json::from_str(&printed).context("ADD printed no JSON")?;
    settle(2 * container + 1);
    let (del, _) = ground.call(case.kind, "DEL", container, "eth0", &conf)?;
    if base.is_some() {
        ground.call(BASE, "DEL", container, "eth0", &base_conf(ground))?;
    }
    if case.device.is_some() {
        ground.lab.ip("link delete benchdev");
    }
    Ok([add, del])
}

/// Lets the kernel end what the calls before have left to it, and each call begin at another point of its clock: where a device
/// changes its namespace.
///
/// KERNEL: it does when the readers of before have gone (rcu_barrier, net/core/dev.c), which takes whole ticks of the clock. Of
/// calls that follow one another at once each begins just behind a tick and ends with another: there the slower one takes as
/// long as the faster one.
fn settle(call: usize) {
    let part = (u16::try_from(call).map_or(0.0, f64::from) * 0.618).fract();
    let until = Instant::now() + PAUSE.mul_f64(1.0 + part);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn complete(own: &Value, kind: &str) -> Value {
    let mut conf = own.clone();
    conf["cniVersion"] = "1.0.0".into();
    conf["name"] = "every".into();
    conf["type"] = kind.into();
    conf
}

fn base_conf(ground: &Ground) -> Value {
    let leases = ground.lab.path("every");
    let own = json!({"ipam": {"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.93.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}]}});
    let mut conf = complete(&own, BASE);
    conf["name"] = "base".into();
    conf
}

fn connect(ground: &Ground, container: usize) -> Result<Value> {
    let (_, printed) = ground.call(BASE, "ADD", container, "eth0", &base_conf(ground))?;
    serde_json::from_str(&printed).context("ADD printed no JSON")
}

fn table(page: &mut String, rows: &[(&'static str, Result<Pair>)]) {
    page.push_str(
        "\n| plugin | ADD | reference | ratio | DEL | reference | ratio |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut ratios = Vec::new();
    for (kind, measured) in rows {
        match measured {
            Ok([ours, theirs]) => {
                let _ = write!(page, "| {kind} |");
                for (mine, reference) in ours.iter().zip(theirs) {
                    let times = ratio(reference.wall, mine.wall);
                    ratios.push(times);
                    let _ = write!(page, " {} | {} | {times:.1} |", ms(mine.wall), ms(reference.wall));
                }
                page.push('\n');
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.split("\"msg\":").nth(1).unwrap_or(&why).lines().next().unwrap_or_default();
                let _ = writeln!(page, "| {kind} | not here: {} | | | | | |", why.replace('|', "/").trim());
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    if let (Some(middle), Some(worst)) = (middle(&ratios), ratios.first()) {
        let _ = writeln!(page, "\nThe median of all ratios is {middle:.1}, the smallest {worst:.1}.");
    }
}

/// The median of sorted numbers: of an even count it lies between the two in the middle.
fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

fn ratio(reference: Duration, mine: Duration) -> f64 {
    reference.as_secs_f64() / mine.as_secs_f64().max(f64::EPSILON)
}

/// `host-local` with no address taken, and with many.
fn crowded(page: &mut String, ours: &Host, theirs: &Host, containers: usize) -> Result<()> {
    page.push_str("\n| host-local ADD | no address taken | 60,000 taken | |\n|---|--:|--:|--:|\n");
    for (host, name) in [(ours, "weft"), (theirs, "reference")] {
        eprintln!("host-local, no and {TAKEN} addresses taken: {name}");
        let [none, many] = host.run(move |ground| leased(ground, containers))?.map(|cost| cost.wall);
        let _ = writeln!(page, "| {name} | {} | {} | {:.2} × |", ms(none), ms(many), ratio(many, none));
    }
    Ok(())
}

/// What ADD costs in a network with no address taken and in one with many, in turn: both meet the machine's same pace.
fn leased(ground: &mut Ground, containers: usize) -> Result<[Cost; 2]> {
    let folder = ground.lab.path("crowd");
    take(&folder.join("full"))?;
    let own =
        json!({"ipam": {"type": "host-local", "dataDir": folder, "ranges": [[{"subnet": "10.64.0.0/15"}]]}});
    let confs = ["empty", "full"].map(|name| {
        let mut conf = complete(&own, "bridge");
        conf["name"] = name.into();
        conf
    });
    let mut costs = [Vec::new(), Vec::new()];
    // The first one reads the directory.
    for container in 0..=containers {
        for (conf, costs) in confs.iter().zip(&mut costs) {
            let (cost, _) = ground.call("host-local", "ADD", container, "eth0", conf)?;
            ground.call("host-local", "DEL", container, "eth0", conf)?;
            if container > 0 {
                costs.push(cost);
            }
        }
    }
    Ok(costs.map(rounds::median))
}

/// Fills a folder with leases as either implementation writes them.
fn take(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let first = u32::from(std::net::Ipv4Addr::new(10, 64, 0, 2));
    for number in 0..TAKEN {
        let address = std::net::Ipv4Addr::from(first + number).to_string();
        put(&folder.join(&address), &format!("crowd{number}\r\neth0"))?;
        if number + 1 == TAKEN {
            put(&folder.join("last_reserved_ip.0"), &address)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a lease of somebody who is not there")]
fn put(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[3.0]), Some(3.0));
        assert_eq!(middle(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(middle(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }
}
