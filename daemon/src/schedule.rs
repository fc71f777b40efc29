//! When to look and when to mend: a function of the clock, which others read.

use std::time::{Duration, Instant};

/// A change is followed by others: a look waits until there were none for this long.
const QUIET: Duration = Duration::from_millis(50);
/// But no longer than this.
const BURST: Duration = Duration::from_millis(250);
/// Looks in a row that found nothing may follow each other this fast, at last.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Repairs in a row that are made at once.
const PATIENCE: u32 = 3;
/// The pause after those, and what it doubles to.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// So long after the last repair and its pause, what happens has nothing to do with it.
const CALM: Duration = Duration::from_secs(30);

/// Decides when to look for what is missing, and when it may be mended.
#[derive(Debug)]
pub(crate) struct Schedule {
    due: Option<Instant>,
    /// When the first change was heard that no look has seen yet.
    first: Option<Instant>,
    /// Not to look before: whoever changes the ruleset all the time does not keep us busy all the time.
    rested: Instant,
    rest: Duration,
    last_repair: Option<Instant>,
    /// Repairs in a row of what was there in between.
    repairs: u32,
    /// Repairs in a row of what the one before had left.
    retries: u32,
}

impl Schedule {
    /// Starts with a look: nobody has listened before.
    pub(crate) fn new(now: Instant) -> Self {
        let (rest, last_repair) = (Duration::ZERO, None);
        Self { due: Some(now), first: None, rested: now, rest, last_repair, repairs: 0, retries: 0 }
    }

    /// Returns when the next look is due, if one is.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes note of a change.
    pub(crate) fn changed(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.due = Some((now + QUIET).min(first + BURST).max(self.rested));
    }

    /// Takes note of a look that found nothing missing.
    pub(crate) fn sound(&mut self, now: Instant) {
        self.looked(now);
        self.due = None;
        self.retries = 0;
    }

    /// Returns whether what is missing may be mended now: what is `new`, or what the last repair has left. If not, the
    /// next look is when it may.
    pub(crate) fn may_mend(&mut self, now: Instant, new: bool) -> bool {
        let Some(last) = self.last_repair else { return true };
        let from = last + self.pause(new);
        if now >= from {
            return true;
        }
        self.looked(now);
        self.due = Some(from);
        false
    }

    /// Takes note of a repair, good or not, of something `new` or not; another look comes after it.
    pub(crate) fn mended(&mut self, now: Instant, new: bool) {
        if self.last_repair.is_some_and(|last| now > last + self.pause(true) + CALM) {
            self.repairs = 0;
        }
        if new {
            self.repairs += 1;
            self.retries = 0;
        } else {
            self.retries += 1;
        }
        self.last_repair = Some(now);
        self.looked(now);
        self.due = Some(now + QUIET);
    }

    /// Takes note of a look that did not see anything; the next one comes later each time.
    pub(crate) fn blind(&mut self, now: Instant) {
        self.mended(now, false);
        self.due = Some(now + self.pause(false).max(QUIET));
    }

    /// Returns how long after the last repair the next one may come, of something `new` or of what that one has left.
    pub(crate) fn pause(&self, new: bool) -> Duration {
        match (if new { self.repairs } else { self.retries }).checked_sub(PATIENCE + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_PAUSE.saturating_mul(1 << doublings.min(6)).min(LONGEST_PAUSE),
        }
    }

    /// Returns whether the last repair was the one too many that left the same as those before it.
    pub(crate) fn gives_up(&self) -> bool {
        self.retries == PATIENCE
    }

    fn looked(&mut self, now: Instant) {
        self.first = None;
        let in_a_row = now < self.rested + BURST + LONGEST_REST;
        self.rest = if in_a_row { (self.rest * 2).clamp(QUIET, LONGEST_REST) } else { Duration::ZERO };
        self.rested = now + self.rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn started() -> (Schedule, Instant) {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.due(), Some(start));
        schedule.sound(start);
        assert_eq!(schedule.due(), None, "nothing happens, nothing is done");
        (schedule, start + 100 * SECOND)
    }

    #[test]
    fn a_burst_is_one_change() {
        let (mut schedule, now) = started();
        for step in 0..4 {
            schedule.changed(now + step * 20 * MS);
        }
        assert_eq!(schedule.due(), Some(now + 60 * MS + QUIET));
    }

    #[test]
    fn a_burst_without_end_is_looked_at_all_the_same() {
        let (mut schedule, now) = started();
        for step in 0..100 {
            schedule.changed(now + step * 20 * MS);
        }
        assert_eq!(schedule.due(), Some(now + BURST));
    }

    /// Changes every 20 ms that break nothing, for as long as `time`; returns how often we looked.
    fn looks(schedule: &mut Schedule, start: Instant, time: Duration) -> usize {
        let mut count = 0;
        let mut now = start;
        while now < start + time {
            if schedule.due().is_some_and(|due| due <= now) {
                schedule.sound(now);
                count += 1;
            }
            schedule.changed(now);
            now += 20 * MS;
        }
        count
    }

    #[test]
    fn who_changes_things_all_the_time_is_looked_at_twice_a_second() {
        let (mut schedule, now) = started();
        let count = looks(&mut schedule, now, 60 * SECOND);
        assert!((100..140).contains(&count), "{count}");
        // And a later change is looked at as fast as the first.
        let later = now + 100 * SECOND;
        schedule.sound(later - 10 * SECOND);
        schedule.changed(later);
        assert_eq!(schedule.due(), Some(later + QUIET));
    }

    /// Somebody takes things away as soon as they are there; returns the pauses between repairs.
    fn fight(schedule: &mut Schedule, start: Instant, repairs: usize) -> Vec<Duration> {
        let mut pauses = Vec::new();
        let (mut now, mut last) = (start, start);
        schedule.changed(now);
        while pauses.len() < repairs {
            now = schedule.due().unwrap();
            if schedule.may_mend(now, true) {
                schedule.mended(now, true);
                pauses.push(now - last);
                last = now;
                schedule.changed(now + MS);
            }
        }
        pauses
    }

    #[test]
    fn nobody_makes_us_fight() {
        let (mut schedule, now) = started();
        let pauses = fight(&mut schedule, now, 14);
        assert!(pauses[..4].iter().all(|pause| *pause < SECOND), "{pauses:?}");
        let seconds: Vec<u64> = pauses[4..].iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn who_sees_nothing_looks_ever_more_seldom() {
        let (mut schedule, start) = started();
        schedule.changed(start);
        let (mut now, mut looks) = (start, 0);
        while now < start + 3600 * SECOND {
            now = schedule.due().unwrap();
            schedule.blind(now);
            looks += 1;
        }
        assert!((60..75).contains(&looks), "{looks} times in an hour");
    }

    #[test]
    fn a_fight_is_forgotten() {
        let (mut schedule, now) = started();
        fight(&mut schedule, now, 6);
        let later = now + 1000 * SECOND;
        assert!(schedule.may_mend(later, true));
        schedule.mended(later, true);
        assert_eq!(schedule.pause(true), Duration::ZERO);
        assert_eq!(schedule.due(), Some(later + QUIET), "whether it is mended is looked at");
    }

    #[test]
    fn what_cannot_be_mended_is_tried_ever_more_seldom_and_holds_up_nothing() {
        let (mut schedule, start) = started();
        schedule.changed(start);
        let (mut now, mut tries) = (start, 0);
        while now < start + 3600 * SECOND {
            now = schedule.due().unwrap();
            if schedule.may_mend(now, tries == 0) {
                schedule.mended(now, tries == 0);
                tries += 1;
            }
        }
        assert!((60..75).contains(&tries), "{tries} times in an hour");
        assert!(schedule.may_mend(now + MS, true), "something else is mended at once");
    }
}
