//! Points in time as `--filter until=` takes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns a time in RFC 3339, in UTC with seconds.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap_or(i64::MAX));
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads what docker takes: RFC 3339 with or without its later parts, a Go duration before `now`, or
/// seconds since 1970. Returns seconds since 1970.
pub fn parse(text: &str, now: i64) -> Option<i64> {
    seconds(text).or_else(|| duration(text).map(|before| now.saturating_sub(before))).or_else(|| date(text))
}

/// Returns the present in seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn seconds(text: &str) -> Option<i64> {
    text.split('.')
        .next()?
        .parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// Reads a Go duration such as `1h30m` or `1.5h`, in whole seconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let unit = match &tail[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * unit;
        rest = &tail[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "a float too large for i64 becomes the largest i64")]
    (!text.is_empty()).then_some(total as i64)
}

/// Reads RFC 3339, in UTC where it says nothing else.
pub fn date(text: &str) -> Option<i64> {
    let (day, clock) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let mut parts = day.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = zone(clock)?;
    let clock = clock.split('.').next()?;
    let mut seconds = 0;
    if !clock.is_empty() {
        for (part, (unit, limit)) in clock.splitn(3, ':').zip([(3600, 23), (60, 59), (1, 60)]) {
            seconds += unit * part.parse::<i64>().ok().filter(|value| (0..=limit).contains(value))?;
        }
    }
    Some(days(year, month, day) * 86_400 + seconds - offset)
}

/// Splits a time of day from its zone; returns the zone's offset in seconds.
fn zone(clock: &str) -> Option<(&str, i64)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, 0)) };
    let (clock, zone) = clock.split_at(at);
    let (hours, minutes) = zone[1..].split_once(':')?;
    let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some((clock, if zone.starts_with('-') { -offset } else { offset }))
}

/// Returns the days from 1970-01-01 to a date. Years begin in March here, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Returns the date that many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_docker_takes() {
        let now = 1_800_000_000;
        for (text, expected) in [
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.5", Some(1_700_000_000)),
            ("1h30m", Some(now - 5400)),
            ("1.5h", Some(now - 5400)),
            ("90s", Some(now - 90)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000)),
            ("2023-11-14T22:13:20.123456789Z", Some(1_700_000_000)),
            ("2023-11-14T23:13:20+01:00", Some(1_700_000_000)),
            ("2023-11-14", Some(1_699_920_000)),
            ("2023-11-14T22", Some(1_699_999_200)),
            ("", None),
            ("yesterday", None),
            ("5d", None),
            ("2023-13-14", None),
            ("2023-11-14T25:00:00Z", None),
        ] {
            assert_eq!(parse(text, now), expected, "{text:?}");
        }
    }

    #[test]
    fn dates_survive_printing() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T12:34:56Z", "2026-12-31T23:59:59Z"] {
            let seconds = u64::try_from(date(text).unwrap()).unwrap();
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert!(date("0001-01-01T00:00:00Z").unwrap() < 0);
    }
}
