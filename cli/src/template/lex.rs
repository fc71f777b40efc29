//! From the text inside `{{` and `}}` to words.

use super::TemplateError;

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `.A.B`; a single dot has no names.
    Field(Vec<String>),
    /// `$x.A`, with the names after it.
    Variable(String, Vec<String>),
    /// A name without a dot: a function or a keyword.
    Word(String),
    /// A text in quotes.
    Text(String),
    /// A whole number.
    Number(i64),
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`, with the names after it.
    Close(Vec<String>),
    /// `:=`
    Declare,
    /// `,`
    Comma,
}

/// Splits an action into words.
pub(super) fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, tail) = match first {
            '|' => (Token::Pipe, &rest[1..]),
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (names, tail) = names(&rest[1..]);
                (Token::Close(names), tail)
            }
            ',' => (Token::Comma, &rest[1..]),
            ':' if rest.starts_with(":=") => (Token::Declare, &rest[2..]),
            '"' | '`' => quoted(rest, first)?,
            '.' => {
                let (names, tail) = names(rest);
                let tail = if names.is_empty() { &rest[1..] } else { tail };
                (Token::Field(names), tail)
            }
            '$' => {
                let (name, tail) = word(&rest[1..]);
                let (names, tail) = names(tail);
                (Token::Variable(name.into(), names), tail)
            }
            '-' | '0'..='9' => number(rest)?,
            _ => match word(rest) {
                ("", _) => {
                    return Err(TemplateError::new(format!("unexpected {first:?} in {{{{{action}}}}}")));
                }
                (name, tail) => (Token::Word(name.into()), tail),
            },
        };
        tokens.push(token);
        rest = tail.trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// Splits off `.A.B`.
fn names(text: &str) -> (Vec<String>, &str) {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let (name, tail) = word(after);
        if name.is_empty() {
            break;
        }
        names.push(name.into());
        rest = tail;
    }
    (names, rest)
}

fn number(text: &str) -> Result<(Token, &str), TemplateError> {
    let digits = text[1..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |end| end + 1);
    let (number, tail) = text.split_at(digits);
    let value = number.parse().map_err(|_| TemplateError::new(format!("bad number {number:?}")))?;
    Ok((Token::Number(value), tail))
}

fn quoted(text: &str, quote: char) -> Result<(Token, &str), TemplateError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((Token::Text(value), &text[at + 1..])),
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c)) => value.push(c),
                None => break,
            },
            _ => value.push(c),
        }
    }
    Err(TemplateError::new(format!("unterminated text {text:?}")))
}
