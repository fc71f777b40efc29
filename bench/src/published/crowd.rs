//! Thousands of ports that are published already.
//!
//! Ours are published by our plugin. The peers would need minutes to hours for as many, so theirs are written by
//! `iptables-restore`, rule for rule as they write them: ten containers with as many ports each, which is kind to the
//! reference plugin (fifteen ports share a rule) and to docker (no proxy process for them).

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_testkit::Program;

use crate::host::{Ground, Side};

/// The first port of the crowd.
const FIRST: u16 = 10_000;
/// The containers it belongs to.
const CONTAINERS: u16 = 10;
/// How many ports the reference plugin puts into one rule.
const PORTS_A_RULE: usize = 15;

/// Publishes a crowd of ports on a host where one container is connected.
pub(super) fn publish(ground: &mut Ground, ports: u16) -> Result<()> {
    let shares = (0..CONTAINERS).map(|number| {
        let share = ports / CONTAINERS;
        let first = FIRST + number * share;
        (number, (first..first + share).collect::<Vec<u16>>())
    });
    match ground.side {
        Side::Weft => {
            for (_, ports) in shares {
                let container = ground.containers.len();
                ground.grow(container + 1);
                ground.attach(container)?;
                // A row of the container's ports as well would be a range.
                let mapping = |port| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"});
                let mappings: Value = ports.into_iter().map(mapping).collect();
                ground.portmap("ADD", container, &mappings)?;
            }
            Ok(())
        }
        Side::Command => Ok(()),
        Side::Debian => restore(&shares.fold("*nat\n".to_string(), debian)),
        Side::Netavark => {
            let chain = chain("NETAVARK-DN-")?;
            restore(&shares.fold("*nat\n".to_string(), |text, share| netavark(text, share, &chain)))
        }
        Side::Docker => {
            let bridge = ground.docker.as_ref().context("no docker")?.bridge()?;
            let nat =
                shares.clone().fold("*nat\n".to_string(), |text, share| docker_nat(text, share, &bridge));
            let both =
                shares.fold(nat + "COMMIT\n*filter\n", |text, share| docker_filter(text, share, &bridge));
            restore(&both)
        }
    }
}

type Share = (u16, Vec<u16>);

fn address(container: u16) -> String {
    format!("10.90.255.{}", container + 1)
}

fn debian(mut text: String, (container, ports): Share) -> String {
    let (chain, address) = (format!("CNI-DN-{container:021x}"), address(container));
    let _ = writeln!(text, ":{chain} - [0:0]");
    for ports in ports.chunks(PORTS_A_RULE) {
        let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let comment = format!(r#""dnat name: \"bench\" id: \"crowd{container}\"""#);
        let _ = writeln!(
            text,
            "-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment {comment} -m multiport --dports {list} -j {chain}"
        );
    }
    for port in ports {
        for source in ["10.90.0.0/16", "127.0.0.1/32"] {
            let _ =
                writeln!(text, "-A {chain} -s {source} -p tcp -m tcp --dport {port} -j CNI-HOSTPORT-SETMARK");
        }
        let _ = writeln!(
            text,
            "-A {chain} -p tcp -m tcp --dport {port} -j DNAT --to-destination {address}:{port}"
        );
    }
    text
}

fn netavark(mut text: String, (container, ports): Share, chain: &str) -> String {
    let address = address(container);
    for port in ports {
        let comment = format!(r#""dnat name: bench id: crowd{container}""#);
        let _ = writeln!(
            text,
            "-A NETAVARK-HOSTPORT-DNAT -p tcp -m tcp --dport {port} -m comment --comment {comment} -j {chain}"
        );
        for source in ["10.90.0.0/16", "127.0.0.1/32"] {
            let _ = writeln!(
                text,
                "-A {chain} -s {source} -p tcp -m tcp --dport {port} -j NETAVARK-HOSTPORT-SETMARK"
            );
        }
        let _ = writeln!(
            text,
            "-A {chain} -p tcp -m tcp --dport {port} -j DNAT --to-destination {address}:{port}"
        );
    }
    text
}

fn docker_nat(mut text: String, (container, ports): Share, bridge: &str) -> String {
    let address = address(container);
    for port in ports {
        let _ = writeln!(
            text,
            "-A DOCKER ! -i {bridge} -p tcp -m tcp --dport {port} -j DNAT --to-destination {address}:{port}\n\
             -A POSTROUTING -s {address}/32 -d {address}/32 -p tcp -m tcp --dport {port} -j MASQUERADE"
        );
    }
    text
}

fn docker_filter(mut text: String, (container, ports): Share, bridge: &str) -> String {
    let address = address(container);
    for port in ports {
        let _ = writeln!(
            text,
            "-A DOCKER -d {address}/32 ! -i {bridge} -o {bridge} -p tcp -m tcp --dport {port} -j ACCEPT"
        );
    }
    text
}

/// Returns the chain of the nat table whose name begins like this.
fn chain(start: &str) -> Result<String> {
    let rules = Program::new("iptables-save").args(["-t", "nat"]).run();
    let chains = rules.stdout.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    let found = chains.into_iter().find(|chain| chain.starts_with(start));
    Ok(found.with_context(|| format!("no chain {start}"))?.to_string())
}

fn restore(rules: &str) -> Result<()> {
    let restored =
        Program::new("iptables-restore").args(["--noflush"]).stdin(format!("{rules}COMMIT\n")).run();
    if restored.code != 0 {
        bail!("{restored}");
    }
    Ok(())
}
