//! What goes to standard error, and the exit code that goes with it.

use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use weft_manager::{Error, Kind};
use weft_model::port::PublishSpec;

/// Collects failures: each on a line of its own, the first one's kind as the exit code.
#[derive(Debug, Default)]
pub(crate) struct Report {
    code: u8,
}

impl Report {
    /// Says why something was not done.
    pub(crate) fn error(&mut self, error: &Error) {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        say(&format!("weft: {error}{hint}"));
        self.fail(match error.kind() {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Conflict => 4,
        });
    }

    /// Says that the command makes no sense.
    pub(crate) fn usage(&mut self, what: impl std::fmt::Display) {
        say(&format!("weft: {what}"));
        self.fail(2);
    }

    /// Says what is wrong with the command line, in one line and a hint: what clap says of it
    /// is a paragraph and a usage.
    pub(crate) fn misuse(&mut self, error: &clap::Error) {
        let text = error.to_string();
        let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let words: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
        self.usage(words.join(" "));
        let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
        let general = usage.unwrap_or("weft --help, or --help after any command");
        say(&format!("hint: {}", grammar(error).unwrap_or(general)));
    }

    /// Says something that does not make the command fail.
    pub(crate) fn warn(&self, what: impl std::fmt::Display) {
        say(&format!("weft: {what}"));
    }

    /// Makes the command fail without saying anything.
    pub(crate) fn fail(&mut self, code: u8) {
        if self.code == 0 {
            self.code = code;
        }
    }

    /// Reports a failure if there is one.
    pub(crate) fn take<T>(&mut self, outcome: Result<T, Error>) -> Option<T> {
        outcome.map_err(|error| self.error(&error)).ok()
    }

    /// Prints the result. A reader that went away is no failure.
    pub(crate) fn print(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                say(&format!("weft: cannot write the result: {error}"));
                self.fail(1);
            }
            _ => {}
        }
    }

    /// Returns the exit code.
    pub(crate) fn exit(self) -> ExitCode {
        self.code.into()
    }
}

/// Returns how the argument is written that could not be read, where that is not plain.
fn grammar(error: &clap::Error) -> Option<&'static str> {
    let argument = error.get(ContextKind::InvalidArg)?.to_string();
    (error.kind() == ErrorKind::ValueValidation && argument.contains("PUBLISH"))
        .then_some(PublishSpec::GRAMMAR)
}

/// Prints a line for people in one write, so that those of several processes do not mix. Where nobody listens,
/// nothing can be done about it.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
