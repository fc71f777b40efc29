//! Long rows of single ports, which runtimes make of ranges: `portMappings` knows none.

use weft_model::port::{HostPorts, PortRange, PublishSpec};

/// How many single ports in a row are published as a range: one claim and one element, whatever their number. A new connection is looked up
/// among ranges as soon as there is one, so a handful of ports is better off as it is.
const ROW: usize = 32;

/// Returns what was asked for, with a range in place of each long row of ports that lead to a row of the container's. Where a row was asked for
/// in another order, the range stands where its first entry stood.
pub(crate) fn fold(entries: Vec<PublishSpec>) -> Vec<PublishSpec> {
    let mut singles: Vec<usize> =
        (0..entries.len()).filter(|index| pair(&entries[*index]).is_some()).collect();
    singles.sort_by_key(|index| {
        let spec = &entries[*index];
        (spec.protocol, spec.host, &spec.from, pair(&entries[*index]), *index)
    });
    let mut specs: Vec<Option<PublishSpec>> = entries.iter().cloned().map(Some).collect();
    for row in singles.chunk_by(|one, next| follows(&entries[*one], &entries[*next])) {
        let (Some(first), Some(last)) = (row.first(), row.last()) else { continue };
        let ends = pair(&entries[*first]).zip(pair(&entries[*last])).filter(|_| row.len() >= ROW);
        let Some((range, at)) = ends.and_then(range_of).zip(row.iter().min()) else { continue };
        let (host_ports, ports) = range;
        row.iter().for_each(|index| specs[*index] = None);
        specs[*at] =
            Some(PublishSpec { host_ports: HostPorts::These(host_ports), ports, ..entries[*first].clone() });
    }
    specs.into_iter().flatten().collect()
}

/// The host's port and the container's of an entry for one port.
fn pair(spec: &PublishSpec) -> Option<(u16, u16)> {
    match spec.host_ports {
        HostPorts::These(ports) if ports.is_single() => Some((ports.first(), spec.ports.first())),
        _ => None,
    }
}

fn follows(one: &PublishSpec, next: &PublishSpec) -> bool {
    let same = (one.protocol, one.host, &one.from) == (next.protocol, next.host, &next.from);
    let after = |(host, port): (u16, u16)| Some((host.checked_add(1)?, port.checked_add(1)?));
    same && pair(one).and_then(after).is_some_and(|after| Some(after) == pair(next))
}

fn range_of(
    ((host, port), (last_host, last_port)): ((u16, u16), (u16, u16)),
) -> Option<(PortRange, PortRange)> {
    PortRange::new(host, last_host).ok().zip(PortRange::new(port, last_port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: impl IntoIterator<Item = String>) -> Vec<PublishSpec> {
        texts.into_iter().map(|text| text.parse().unwrap()).collect()
    }

    fn folded(entries: Vec<PublishSpec>) -> Vec<String> {
        fold(entries).iter().map(PublishSpec::to_string).collect()
    }

    fn row(first: u16, target: u16, count: u16, more: &str) -> Vec<String> {
        (0..count).map(|index| format!("{}:{}{more}", first + index, target + index)).collect()
    }

    #[test]
    fn long_rows_become_ranges() {
        assert_eq!(folded(entries(row(8000, 80, 1000, "/udp"))), ["8000-8999:80-1079/udp"]);
        let mut backwards = row(64536, 64536, 1000, "");
        backwards.reverse();
        backwards.insert(1, "53:53/udp".into());
        assert_eq!(folded(entries(backwards)), ["64536-65535:64536-65535/tcp", "53:53/udp"]);
        let both: Vec<String> =
            row(1, 1, 100, "").into_iter().zip(row(1, 1, 100, "/udp")).flat_map(|(a, b)| [a, b]).collect();
        assert_eq!(folded(entries(both)), ["1-100:1-100/tcp", "1-100:1-100/udp"]);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let short = row(8000, 80, 31, "");
        assert_eq!(folded(entries(short.clone())).len(), 31);
        // A gap, another container port, other sources, another address.
        for other in ["8040:8041", "8040:8040,from=192.0.2.0/24", "127.0.0.1:8040:8040"] {
            let mut broken = row(8010, 8010, 60, "");
            broken[30] = other.into();
            assert_eq!(folded(entries(broken)).len(), 60, "{other}");
        }
    }

    #[test]
    fn a_port_that_is_asked_for_twice_still_is() {
        let twice: Vec<String> = row(8000, 80, 100, "").into_iter().chain(["8050:130".to_string()]).collect();
        let specs = folded(entries(twice));
        let covers = |spec: &&String| {
            let spec: PublishSpec = spec.parse().unwrap();
            matches!(spec.host_ports, HostPorts::These(ports) if ports.contains(8050))
        };
        assert_eq!(specs.iter().filter(covers).count(), 2, "{specs:?}");
    }
}
