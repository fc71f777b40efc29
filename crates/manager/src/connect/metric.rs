//! Which default route wins.
//!
//! DOCKER: the network with the highest `--gw-priority` provides the container's default gateway. Docker
//! replaces the route; here every network's route is there, and the kernel takes the one with the lowest
//! metric, so that another takes over by itself when a network is disconnected.
//!
//! A priority of 0 is the metric 1,000,000, and each step up is 100 less. Of networks with the same
//! priority the one connected earlier wins: its metric is lower by at least one.

use serde_json::Value;
use weft_cni::json::get;
use weft_state::attachment::Record;

use crate::Error;

const MIDDLE: i64 = 1_000_000;
const STEP: i64 = 100;
const LIMIT: i64 = 9_999;

/// Returns the metric of a new connection's default routes.
///
/// # Errors
///
/// When the priority has no metric.
pub(super) fn metric(priority: i64, others: &[Record]) -> Result<u32, Error> {
    if !(-LIMIT..=LIMIT).contains(&priority) {
        return Err(Error::Priority(priority));
    }
    let first = u32::try_from(MIDDLE - STEP * priority).map_err(|_| Error::Priority(priority))?;
    let last = first + u32::try_from(STEP - 1).unwrap_or_default();
    let taken: Vec<u32> = others.iter().filter_map(|other| of_record(&other.attach)).collect();
    let next =
        taken.iter().filter(|metric| (first..=last).contains(metric)).max().map_or(first, |last| last + 1);
    // After a hundred reconnections of the same priority the order among its members is lost.
    Ok((next..=last).chain(first..=last).find(|metric| !taken.contains(metric)).unwrap_or(last))
}

/// Returns the metric of a connection's default routes.
pub(crate) fn of_record(attach: &Value) -> Option<u32> {
    get(attach, "gatewayMetric")?.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_model::Endpoint;

    use super::*;

    fn records(metrics: &[u32]) -> Vec<Record> {
        let endpoint = Endpoint {
            network: "n1".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let record = |metric: &u32| {
            let mut record = Record::intent(endpoint.clone(), None, "bridge").unwrap();
            record.attach = json!({"gatewayMetric": metric});
            record
        };
        metrics.iter().map(record).collect()
    }

    #[test]
    fn higher_priorities_and_earlier_connections_win() {
        assert_eq!(metric(0, &[]).unwrap(), 1_000_000);
        assert_eq!(metric(0, &records(&[1_000_000])).unwrap(), 1_000_001);
        assert_eq!(metric(0, &records(&[1_000_001])).unwrap(), 1_000_002, "after the one that is there");
        assert_eq!(metric(1, &records(&[1_000_000])).unwrap(), 999_900);
        assert_eq!(metric(-1, &records(&[1_000_000])).unwrap(), 1_000_100);
        assert_eq!(metric(9_999, &[]).unwrap(), 100);
        assert_eq!(metric(-9_999, &[]).unwrap(), 1_999_900);
    }

    #[test]
    fn a_full_step_uses_what_is_free() {
        assert_eq!(metric(0, &records(&[1_000_099])).unwrap(), 1_000_000);
        let all: Vec<u32> = (1_000_000..1_000_099).collect();
        assert_eq!(metric(0, &records(&all)).unwrap(), 1_000_099);
    }

    #[test]
    fn a_priority_without_a_metric_is_refused() {
        for priority in [10_000, -10_000, i64::MAX, i64::MIN] {
            assert!(metric(priority, &[]).is_err());
        }
    }
}
