//! The words behind `dhcp daemon`, as Go's flag package reads them.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::Patience;

/// What the daemon was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Where its number is written.
    pub(crate) pidfile: Option<PathBuf>,
    /// What the paths of namespaces and of the socket are below.
    pub(crate) hostprefix: PathBuf,
    /// The socket; absent means the usual one.
    pub(crate) socketpath: Option<PathBuf>,
    /// Whether answers are to be sent to everybody.
    pub(crate) broadcast: bool,
    /// How long it waits.
    pub(crate) patience: Patience,
}

impl Default for Flags {
    fn default() -> Self {
        let secs = Duration::from_secs;
        let patience = Patience { answer: secs(10), between: secs(62), whole: secs(208) };
        Self { pidfile: None, hostprefix: PathBuf::new(), socketpath: None, broadcast: false, patience }
    }
}

impl Flags {
    /// Reads the words.
    ///
    /// # Errors
    ///
    /// Names the word that is none, and all that there are.
    pub(crate) fn read(words: &[String]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let name = name.ok_or_else(|| format!("{word:?} is no option; {USAGE}"))?;
            let (name, given) =
                name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
            if name == "broadcast" {
                flags.broadcast = match given {
                    None | Some("true" | "1" | "t") => true,
                    Some("false" | "0" | "f") => false,
                    Some(other) => return Err(format!("-broadcast={other}: true or false is expected")),
                };
                continue;
            }
            let known = ["pidfile", "hostprefix", "socketpath", "timeout", "resendmax", "resendtimeout"];
            if !known.contains(&name) {
                return Err(format!("there is no option -{name}; {USAGE}"));
            }
            let value = given.or_else(|| words.next().map(String::as_str));
            let value = value.ok_or_else(|| format!("-{name} needs a value"))?;
            match name {
                "pidfile" => flags.pidfile = Some(value.into()),
                "hostprefix" => flags.hostprefix = value.into(),
                "socketpath" => flags.socketpath = Some(value.into()),
                "timeout" => flags.patience.answer = duration(name, value)?,
                "resendmax" => flags.patience.between = duration(name, value)?,
                _ => flags.patience.whole = duration(name, value)?,
            }
        }
        Ok(flags)
    }
}

const USAGE: &str = "dhcp daemon [-pidfile PATH] [-hostprefix PATH] [-socketpath PATH] [-timeout DURATION] \
    [-resendmax DURATION] [-resendtimeout DURATION] [-broadcast]";

/// Reads a duration as Go writes it: numbers with units, such as `1m30s` and `2.5s`.
fn duration(name: &str, text: &str) -> Result<Duration, String> {
    let bad = || format!("-{name} {text:?}: a duration such as 10s or 1m30s is expected");
    let (mut rest, mut whole) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let units = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(units);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(bad()),
        };
        whole += number.parse::<f64>().map_err(|_| bad())? * seconds;
        rest = tail;
    }
    let sensible = whole > 0.0 && whole <= 86_400.0 * 365.0;
    if sensible { Ok(Duration::from_secs_f64(whole)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Flags, String> {
        Flags::read(&words.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_read_as_go_reads_them() {
        assert_eq!(read("").unwrap(), Flags::default());
        let all = "-pidfile /p --hostprefix=/h -socketpath /s -broadcast -timeout 500ms -resendmax=1m30s --resendtimeout 1h";
        let flags = read(all).unwrap();
        assert_eq!(flags.pidfile, Some("/p".into()));
        assert_eq!((flags.hostprefix, flags.socketpath), ("/h".into(), Some("/s".into())));
        let ms = Duration::from_millis;
        let patience = Patience { answer: ms(500), between: ms(90_000), whole: ms(3_600_000) };
        assert_eq!((flags.patience, flags.broadcast), (patience, true));
        assert!(!read("-broadcast=false").unwrap().broadcast);
    }

    #[test]
    fn each_bad_word_is_named() {
        for (words, says) in [
            ("x", "\"x\" is no option"),
            ("-nonsense", "there is no option -nonsense"),
            ("-timeout", "-timeout needs a value"),
            ("-timeout 10", "-timeout \"10\": a duration"),
            ("-timeout 0s", "-timeout \"0s\": a duration"),
            ("-timeout -5s", "-timeout \"-5s\": a duration"),
            ("-timeout 5y", "-timeout \"5y\": a duration"),
            ("-broadcast=maybe", "-broadcast=maybe: true or false"),
        ] {
            let told = read(words).unwrap_err();
            assert!(told.starts_with(says), "{words}: {told}");
        }
    }
}
