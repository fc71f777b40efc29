//! The same as Prometheus reads it (the text format, version 0.0.4).

use std::fmt::Write;

use weft_overlay::records::BlockState;

use super::agent::Agent;
use super::known::Inner;
use super::status;

/// Returns all metrics.
pub(crate) fn text(agent: &Agent) -> String {
    let status = status::status(agent);
    let mut page = Page::default();
    page.gauge(
        "weft_overlay_joined",
        "Whether this host is one of a cluster",
        &[("", u64::from(status.cluster.is_some()))],
    );
    page.gauge(
        "weft_overlay_peers",
        "Other hosts of the cluster",
        &[("state=\"alive\"", status.alive as u64), ("state=\"suspect\"", status.suspect as u64)],
    );
    let store = &status.store;
    page.gauge(
        "weft_overlay_store_connected",
        "Whether the store answers",
        &[("", u64::from(store.connected))],
    );
    page.gauge(
        "weft_overlay_store_revision",
        "The store's revision that is known",
        &[("", store.revision.cast_unsigned())],
    );
    let silent: Vec<_> = store.silent.iter().map(|seconds| ("", *seconds)).collect();
    page.gauge("weft_overlay_store_last_event_age_seconds", "Since when the store was not heard of", &silent);
    page.gauge(
        "weft_overlay_stale",
        "Whether the kernel goes by what was known before the start",
        &[("", u64::from(status.state == "stale"))],
    );
    page.gauge(
        "weft_overlay_alarms",
        "Things that somebody should look at",
        &[("", status.alarms.len() as u64)],
    );
    agent.with(|inner| inner.counted(&mut page));
    let labels: Vec<_> =
        status.networks.iter().map(|network| format!("network=\"{}\"", network.name)).collect();
    let of = |value: &dyn Fn(&weft_manager::overlay::protocol::NetworkStatus) -> u64| {
        labels.iter().map(String::as_str).zip(status.networks.iter().map(value)).collect::<Vec<_>>()
    };
    let free = of(&|network| network.size.saturating_sub(network.used));
    page.gauge("weft_overlay_ips_free", "Addresses of this host's blocks that nobody has", &free);
    let refused = of(&|network| u64::from(network.refused.is_some()));
    page.gauge("weft_overlay_network_refused", "Whether a network is not to be had on this host", &refused);
    let mtus: Vec<_> = status::peers(agent)
        .into_iter()
        .map(|peer| (format!("peer=\"{}\"", escaped(&peer.name)), u64::from(peer.mtu)))
        .collect();
    let mtus: Vec<_> = mtus.iter().map(|(label, mtu)| (label.as_str(), *mtu)).collect();
    page.gauge("weft_overlay_peer_mtu_bytes", "What fits through a peer's underlay", &mtus);
    page.text
}

impl Inner {
    fn counted(&self, page: &mut Page) {
        let bad = self.snapshot.bad_count() as u64;
        page.gauge("weft_overlay_bad_records", "Records of the store that could not be used", &[("", bad)]);
        let held = self.snapshot.held().count() as u64;
        page.gauge(
            "weft_overlay_held_records",
            "Records that are kept although the store has lost them",
            &[("", held)],
        );
        let state = |wanted: fn(&BlockState) -> bool| {
            self.snapshot.blocks().filter(|block| wanted(&block.state)).count() as u64
        };
        page.gauge(
            "weft_overlay_blocks",
            "Blocks of all networks and hosts",
            &[
                ("state=\"active\"", state(|state| *state == BlockState::Active)),
                ("state=\"quarantine\"", state(|state| matches!(state, BlockState::Quarantine { .. }))),
                ("state=\"reserved\"", state(|state| *state == BlockState::Reserved)),
            ],
        );
        let listings = labelled("reason", &self.counts.listings);
        page.counter("weft_overlay_resync_total", "Listings of the whole store", &listings);
        let drift = labelled("kind", &self.counts.drift);
        page.counter(
            "weft_overlay_drift_repaired_total",
            "Things in the kernel that others had changed",
            &drift,
        );
        page.counter(
            "weft_overlay_rounds_total",
            "Comparisons with the kernel",
            &[(String::new(), self.counts.rounds)],
        );
        page.head("weft_overlay_apply_seconds", "gauge", "How long the kernel took in the last round");
        writeln!(page.text, "weft_overlay_apply_seconds {}", self.counts.applied.as_secs_f64()).ok();
    }
}

fn labelled<T: AsRef<str>>(label: &str, counts: &std::collections::BTreeMap<T, u64>) -> Vec<(String, u64)> {
    counts.iter().map(|(value, count)| (format!("{label}=\"{}\"", escaped(value.as_ref())), *count)).collect()
}

/// Returns a text as it may stand between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, values: &[(&str, u64)]) {
        self.head(name, "gauge", help);
        self.values(name, values.iter().copied());
    }

    fn counter(&mut self, name: &str, help: &str, values: &[(String, u64)]) {
        self.head(name, "counter", help);
        self.values(name, values.iter().map(|(label, value)| (label.as_str(), *value)));
    }

    // Writing to a text cannot fail.
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn values<'a>(&mut self, name: &str, values: impl Iterator<Item = (&'a str, u64)>) {
        for (label, value) in values {
            match label {
                "" => writeln!(self.text, "{name} {value}").ok(),
                label => writeln!(self.text, "{name}{{{label}}} {value}").ok(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_quotes_stays_there() {
        let mut page = Page::default();
        page.counter("n_total", "Things", &[(format!("of=\"{}\"", escaped("a\"b\\c\nd")), 7)]);
        page.gauge("m", "Others", &[("", 1)]);
        let expected = "# HELP n_total Things\n# TYPE n_total counter\nn_total{of=\"a\\\"b\\\\c\\nd\"} 7\n\
                        # HELP m Others\n# TYPE m gauge\nm 1\n";
        assert_eq!(page.text, expected);
    }
}
