//! `CNI_ARGS`: pairs of key and value in one environment variable.

use crate::{Code, Failure};

/// The pairs a plugin knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs(Vec<(String, String)>);

impl CniArgs {
    /// Reads `K=V;K2=V2`. `IgnoreUnknown` is always known; the other `known` keys match exactly.
    ///
    /// # Errors
    ///
    /// Code 4 for a pair without exactly one `=`, and for unknown keys unless `IgnoreUnknown` is true.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        if text.is_empty() {
            return Ok(Self(pairs));
        }
        for pair in text.split(';') {
            let halves = pair.split_once('=').filter(|(_, value)| !value.contains('='));
            let Some((key, value)) = halves else {
                return Err(refuse(format!("ARGS: invalid pair {pair:?}")));
            };
            if key == "IgnoreUnknown" {
                ignore_unknown = parse_bool(value).ok_or_else(|| {
                    let why = "boolean unmarshal error: invalid input";
                    refuse(format!("ARGS: error parsing value of pair {pair:?}: {why} {value}"))
                })?;
            } else if known.contains(&key) {
                pairs.push((key.into(), value.into()));
            } else {
                unknown.push(pair);
            }
        }
        if !ignore_unknown && !unknown.is_empty() {
            let list: Vec<String> = unknown.iter().map(|pair| format!("{pair:?}")).collect();
            return Err(refuse(format!("ARGS: unknown args [{}]", list.join(" "))));
        }
        Ok(Self(pairs))
    }

    /// Returns the value of a known key; the last one when there are several.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn refuse(msg: String) -> Failure {
    Failure::text(Code::InvalidEnvironment, msg)
}

/// Reads the spellings of a boolean that CNI's environment variables may have.
pub fn parse_bool(text: &str) -> Option<bool> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    match text {
        _ if is("1") || is("true") => Some(true),
        _ if is("0") || is("false") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_pairs_are_found() {
        let args = CniArgs::parse("IP=10.0.0.1/8;MAC=;IP=10.0.0.2", &["IP", "MAC", "GATEWAY"]).unwrap();
        assert_eq!(args.get("IP"), Some("10.0.0.2"));
        assert_eq!(args.get("MAC"), Some(""));
        assert_eq!(args.get("GATEWAY"), None);
        assert_eq!(CniArgs::parse("", &["IP"]), Ok(CniArgs::default()));
    }

    #[test]
    fn unknown_pairs_are_refused_unless_told_otherwise() {
        let kubernetes = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b";
        assert_eq!(CniArgs::parse(kubernetes, &[]), Ok(CniArgs::default()));
        for yes in ["1", "true", "TRUE", "True"] {
            assert!(CniArgs::parse(&format!("A=b;IgnoreUnknown={yes}"), &[]).is_ok());
        }
        for (text, why) in [
            ("A=b;ip=c", r#"ARGS: unknown args ["A=b" "ip=c"]"#),
            ("IgnoreUnknown=0;A=b", r#"ARGS: unknown args ["A=b"]"#),
            ("IgnoreUnknown=false;A=b", r#"ARGS: unknown args ["A=b"]"#),
            ("A=b;", r#"ARGS: invalid pair """#),
            ("A", r#"ARGS: invalid pair "A""#),
            ("A=b=c", r#"ARGS: invalid pair "A=b=c""#),
            (
                "IgnoreUnknown=x",
                r#"ARGS: error parsing value of pair "IgnoreUnknown=x": boolean unmarshal error: invalid input x"#,
            ),
        ] {
            let failure = CniArgs::parse(text, &["IP"]).unwrap_err();
            assert_eq!((failure.code, failure.msg.as_str()), (Code::InvalidEnvironment, why));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            drop(CniArgs::parse(&text, &["IP"]));
        }
    }
}
