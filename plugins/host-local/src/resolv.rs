//! Reading a `resolv.conf`.

use std::path::Path;

use weft_cni::Dns;
use weft_state::{StateError, file};

/// Returns what a `resolv.conf` says: the last `domain` counts, and everything else adds up.
///
/// # Errors
///
/// When the file cannot be read.
pub(crate) fn read(path: &Path) -> Result<Dns, StateError> {
    let bytes = file::read(path).map_err(StateError::io("read", path))?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(String::from);
        let Some(keyword) = words.next() else { continue };
        let add = |list: &mut Option<Vec<String>>, words: &mut dyn Iterator<Item = String>| {
            let mut words = words.peekable();
            if words.peek().is_some() {
                list.get_or_insert_default().extend(words);
            }
        };
        match keyword.as_str() {
            "nameserver" => add(&mut dns.nameservers, &mut words.take(1)),
            "domain" => dns.domain = words.next().or(dns.domain),
            "search" => add(&mut dns.search, &mut words),
            "options" => add(&mut dns.options, &mut words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_keyword_is_read() {
        let text = "# a comment\n; another\nnameserver 192.0.2.0\nnameserver 192.0.2.1 ignored\n\
                    \tsearch a.example b.example\nsearch c.example\ndomain one.example\ndomain two.example\n\
                    options ndots:2 inet6\noptions four\nsortlist 10.0.0.0\nnameserver\ndomain\n";
        let dns = parse(text);
        assert_eq!(dns.nameservers, list(&["192.0.2.0", "192.0.2.1"]));
        assert_eq!(dns.domain.as_deref(), Some("two.example"));
        assert_eq!(dns.search, list(&["a.example", "b.example", "c.example"]));
        assert_eq!(dns.options, list(&["ndots:2", "inet6", "four"]));
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert!(!parse("\n# nothing\nnameserver\n").is_set());
        let error = read(Path::new("/nonexistent/resolv.conf")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/resolv.conf: No such file"), "{error}");
    }
}
