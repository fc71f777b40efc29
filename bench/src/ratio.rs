//! How one thing compares with another that took turns with it.
//!
//! A machine's pace changes from second to second by more than what is looked for. Two that are measured next to each other meet
//! the same pace, so what counts is each round's ratio; and the scatter of these says how sure their middle is.

/// A share that is near all.
pub(crate) const NEAR: f64 = 0.95;

/// The median of the rounds' ratios, and between what bounds the true one lies with a certainty of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) middle: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    /// Compares two rows of rounds. None where there was no round.
    pub(crate) fn of(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let count = ratios.len();
        // The confidence interval of a median by the binomial distribution, which its normal approximation gives
        // from some ten rounds on.
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some rounds"
        )]
        let reach = (0.98 * (count as f64).sqrt()).ceil() as usize;
        let at = |index: usize| ratios.get(index.min(count.saturating_sub(1))).copied();
        Some(Self {
            middle: at(count / 2)?,
            low: at((count / 2).saturating_sub(reach))?,
            high: at(count / 2 + reach)?,
        })
    }

    /// Returns whether ours is not below: the middle differs by no more than what passes in a moment does from moment to moment,
    /// and the true one may be 1.
    pub(crate) fn is_not_below(self) -> bool {
        self.middle >= NEAR && self.high >= 1.0
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.2} times ({:.2} to {:.2})", self.middle, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_one_by_one() {
        // The machine became four times as fast half-way; ours is a tenth faster all the time.
        let theirs: Vec<f64> = (0..40).map(|round| if round < 20 { 10.0 } else { 40.0 }).collect();
        let ours: Vec<f64> = theirs.iter().map(|rate| rate * 1.1).collect();
        let ratio = Ratio::of(&ours, &theirs).unwrap();
        assert!([ratio.low, ratio.middle, ratio.high].iter().all(|one| (one - 1.1).abs() < 1e-9), "{ratio}");
        assert!(ratio.is_not_below());
        let other = Ratio::of(&theirs, &ours).unwrap();
        assert!(!other.is_not_below(), "{other}");
        assert_eq!(Ratio::of(&[], &[]), None);
    }

    #[test]
    fn scatter_makes_unsure() {
        let theirs = vec![10.0; 40];
        let ours: Vec<f64> = (0..40).map(|round| if round % 5 < 3 { 9.9 } else { 10.2 }).collect();
        let ratio = Ratio::of(&ours, &theirs).unwrap();
        assert!(ratio.middle < 1.0 && ratio.is_not_below(), "{ratio}");
        let far: Vec<f64> = (0..40).map(|round| if round % 5 < 3 { 9.0 } else { 11.0 }).collect();
        let ratio = Ratio::of(&far, &theirs).unwrap();
        assert!(ratio.high >= 1.0 && !ratio.is_not_below(), "being unsure is no excuse: {ratio}");
    }
}
