//! The order people expect of names with numbers in them.

use std::cmp::Ordering;

/// Compares texts, with runs of digits as numbers: `net2` comes before `net10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) else {
            // `a1` and `a01` are equal so far: any fixed order will do.
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n);
            (m, left) = digits(left);
            (n, right) = digits(right);
            match m.len().cmp(&n.len()).then_with(|| m.cmp(n)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        } else {
            match x.cmp(&y) {
                Ordering::Equal => (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]),
                unequal => return unequal,
            }
        }
    }
}

/// Splits off the leading number, less its leading zeros.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers() {
        let mut names = ["net10", "net2", "a", "net", "net02b", "net2a", "ä1", "net010"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "net", "net2", "net2a", "net02b", "net010", "net10", "ä1"]);
        assert_eq!(natural("x7", "x7"), Ordering::Equal);
    }
}
