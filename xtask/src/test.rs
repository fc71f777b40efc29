//! `test`: does all its own set-up, then hands over to the runner.
//!
//! A runner hides what a passing test says, so a test that lacked something would look like one that
//! ran. Such notices are collected in a file and listed at the end. The last line is the summary:
//! `N passed, N failed, N skipped`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, is_root, output, program, top, write};
use crate::{fuzz, kernel, peers, setup, stage};

/// What the tests call the variable that names the file of notices (`weft_testkit::SKIPS`).
const SKIPS: &str = "WEFT_SKIPS";

/// The option to test what was staged before.
const STAGED: &str = "--staged";

/// How a run ended.
#[derive(Debug, Default, PartialEq)]
struct Count {
    passed: usize,
    failed: usize,
}

/// Runs the tests; words that are no option of ours go to the runner as filters.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if let Some(at) = words.iter().position(|word| word == "--kernel") {
        let name = words.get(at + 1).context("test: --kernel needs a name: debian")?;
        let filters = words.iter().enumerate().filter(|(place, _)| *place != at && *place != at + 1);
        return under(name, &filters.map(|(_, word)| word).collect::<Vec<_>>());
    }
    if let Some(at) = words.iter().position(|word| word == "--fuzz") {
        let targets = words.iter().enumerate().filter(|(place, _)| *place != at);
        return fuzzed(&targets.map(|(_, word)| word.clone()).collect::<Vec<_>>());
    }
    let unit = words.iter().any(|word| word == "--unit");
    let staged = words.iter().any(|word| word == STAGED);
    let filters: Vec<&String> = words.iter().filter(|word| *word != "--unit" && *word != STAGED).collect();
    if !unit {
        setup::run()?;
        peers::ensure();
    }
    if !unit && !staged {
        stage::all()?;
    }
    let nextest = output(cargo().args(["nextest", "--version"])).is_ok();
    let mut command = runner(nextest, unit, filters)?;
    if !unit && !is_root() {
        command = as_root_of_its_own(&command);
    }
    let notices = top().join("target/skips.txt");
    std::fs::create_dir_all(top().join("target")).context("cannot create target")?;
    write(&notices, "")?;
    let (text, good) = follow(command.env(SKIPS, &notices), nextest)?;
    close(&text, good, &notices)
}

/// Runs the fuzzer's targets for a bounded time: each is a test.
fn fuzzed(words: &[String]) -> Result<()> {
    let outcomes = fuzz::outcomes(words)?;
    let passed = outcomes.iter().filter(|one| one.good).count();
    let count = Count { passed, failed: outcomes.len() - passed };
    let summary = summary(&count, &BTreeSet::new())?;
    if count.failed > 0 {
        bail!("{summary}");
    }
    println!("\n{summary}");
    Ok(())
}

/// Runs tests under another kernel.
fn under(name: &str, filters: &[&String]) -> Result<()> {
    if name != "debian" {
        bail!("test: --kernel takes debian, not {name}");
    }
    setup::run()?;
    peers::ensure();
    if let Some(lack) = kernel::lacks() {
        println!("\nskipped, all of it: the tests under Debian's kernel need {lack}");
        return Ok(());
    }
    let (staged, filters): (Vec<&String>, Vec<&String>) =
        filters.iter().partition(|word| word.as_str() == STAGED);
    if staged.is_empty() {
        stage::all()?;
    }
    let mut guest = kernel::prepare(&kernel::tests(&filters)?)?;
    let notices = guest.shared.join("skips");
    write(&notices, "")?;
    let (text, good) = follow(&mut guest.command, false)?;
    let ended = std::fs::read_to_string(guest.shared.join("rc")).unwrap_or_default();
    close(&text, good && ended.trim() == "0", &notices)
}

fn runner(nextest: bool, unit: bool, filters: Vec<&String>) -> Result<Command> {
    let mut command = cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
        // Its output passes through us, so it cannot see the terminal.
        command.args(["--color", if std::io::stderr().is_terminal() { "always" } else { "never" }]);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast"]);
    }
    if unit {
        command.args(["--lib", "--bins"]);
    } else if !nextest {
        // No documentation tests, as nextest has none.
        command.args(["--lib", "--bins", "--tests"]);
    }
    if nextest {
        command.args(filters);
    } else {
        if filters.len() > 1 {
            bail!("test: without cargo-nextest only one filter can be given");
        }
        command.arg("--").args(filters);
    }
    Ok(command)
}

/// Wraps the runner so that it is root in a user namespace of its own.
///
/// The tests need to own network and mount namespaces, which an ordinary user can: in a user
/// namespace.
fn as_root_of_its_own(runner: &Command) -> Command {
    let mut command = program("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "--net"])
        .arg(runner.get_program())
        .args(runner.get_args());
    command
}

/// Runs the runner, shows what it says, and returns that and whether all is well.
///
/// nextest reports on stderr, libtest on stdout.
fn follow(command: &mut Command, nextest: bool) -> Result<(String, bool)> {
    if nextest {
        command.stderr(Stdio::piped())
    } else {
        command.stdout(Stdio::piped())
    };
    let mut child = command.spawn().context("cannot start the test runner")?;
    let text = if nextest {
        pass_on(child.stderr.take(), std::io::stderr())
    } else {
        pass_on(child.stdout.take(), std::io::stdout())
    };
    let status = child.wait().context("the test runner was lost")?;
    Ok((text?, status.success()))
}

fn pass_on(from: Option<impl Read>, mut to: impl Write) -> Result<String> {
    let mut from = BufReader::new(from.context("the test runner has no output")?);
    let mut all = String::new();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).context("cannot read what the runner says")? > 0 {
        to.write_all(&line).context("cannot pass on what the runner says")?;
        all += &String::from_utf8_lossy(&line);
        line.clear();
    }
    Ok(all)
}

/// Lists what was lacking, and ends with the summary.
fn close(text: &str, good: bool, notices: &Path) -> Result<()> {
    let notices = std::fs::read_to_string(notices).context("the file of notices is lost")?;
    let notices: BTreeSet<&str> = notices.lines().collect();
    if !notices.is_empty() {
        println!("\nskipped, in whole or in part:");
        notices.iter().for_each(|notice| println!("  {notice}"));
    }
    let summary = count(text).map(|count| summary(&count, &notices)).transpose()?;
    match summary {
        Some(summary) if good => println!("\n{summary}"),
        Some(summary) => bail!("{summary}"),
        None if good => bail!("the test runner gave no summary"),
        None => bail!("the test runner failed before it ran a test"),
    }
    Ok(())
}

/// Says how a run ended. A test that lacked something did not pass, whatever its runner thinks, and no test at all is
/// not what was asked for.
fn summary(count: &Count, notices: &BTreeSet<&str>) -> Result<String> {
    if count.passed + count.failed == 0 {
        bail!("no test has such a name");
    }
    let tests: BTreeSet<&str> =
        notices.iter().filter_map(|notice| Some(notice.split_once(": needs ")?.0)).collect();
    let skipped = tests.len().min(count.passed);
    Ok(format!("{} passed, {} failed, {skipped} skipped", count.passed - skipped, count.failed))
}

/// Reads the runner's summary: nextest's one line, or the sum of libtest's one per binary.
///
/// nextest shows what a failed test printed, and libtest's line of that one test is part of it.
fn count(text: &str) -> Option<Count> {
    let plain = without_colours(text);
    let lines: Vec<&str> = plain.lines().map(str::trim_start).collect();
    let of_nextest = lines.iter().rfind(|line| line.starts_with("Summary ["));
    let of_libtest = lines.iter().filter(|line| line.starts_with("test result: "));
    let summaries: Vec<&&str> = of_nextest.map_or_else(|| of_libtest.collect(), |line| vec![line]);
    summaries.into_iter().fold(None, |total, line| {
        let Count { passed, failed } = total.unwrap_or_default();
        Some(Count {
            passed: passed + number_before(line, "passed"),
            failed: failed + ["failed", "timed"].iter().map(|word| number_before(line, word)).sum::<usize>(),
        })
    })
}

/// Returns the number in front of a word, or zero where the word is not.
fn number_before(line: &str, word: &str) -> usize {
    let words: Vec<&str> =
        line.split([' ', ',', ';', ':', '(', ')']).filter(|word| !word.is_empty()).collect();
    let at = words.iter().position(|there| *there == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or_default()
}

/// Returns the text without the terminal's colour codes: ESC [ ... m.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        plain += part.split_once('m').map_or(part, |(_, rest)| rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Count, count, summary};

    #[test]
    fn the_summary_of_nextest_is_read() {
        let text = "     Summary [   1.5s] 12 tests run: 10 passed (1 slow, 1 leaky), 2 failed, 30 skipped\n";
        assert_eq!(count(text), Some(Count { passed: 10, failed: 2 }));
        let text = "\u{1b}[32;1m     Summary\u{1b}[0m [   1.5s] \u{1b}[1m4\u{1b}[0m tests run: \u{1b}[1m2\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, 1 failed, 1 timed out, 0 skipped\n";
        assert_eq!(count(text), Some(Count { passed: 2, failed: 2 }));
    }

    #[test]
    fn what_a_failed_test_printed_is_no_summary() {
        let text = "    Summary [ 1.0s] 3 tests run: 2 passed, 1 failed, 0 skipped\n        FAIL x\n  stdout ---\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out\n";
        assert_eq!(count(text), Some(Count { passed: 2, failed: 1 }));
    }

    #[test]
    fn the_summaries_of_libtest_are_added_up() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured\n";
        assert_eq!(count(text), Some(Count { passed: 5, failed: 1 }));
        assert_eq!(count("error: could not compile\n"), None);
    }

    #[test]
    fn no_test_at_all_is_no_success() {
        let nothing = count("     Summary [   0.0s] 0 tests run: 0 passed, 30 skipped\n").unwrap();
        summary(&nothing, &BTreeSet::new()).unwrap_err();
        let other = Count { passed: 0, failed: 1 };
        assert_eq!(summary(&other, &BTreeSet::new()).unwrap(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_test_that_lacked_something_is_no_test_that_passed() {
        let notices = BTreeSet::from(["weft-nft::kernel a: needs nft", "weft-nft::kernel a: needs ip"]);
        let count = Count { passed: 5, failed: 0 };
        assert_eq!(summary(&count, &notices).unwrap(), "4 passed, 0 failed, 1 skipped");
    }
}
