//! From words to a tree.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::TemplateError;
use super::lex::{Token, tokens};

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// Text that stays as it is.
    Text(String),
    /// A value to print, or a variable to set.
    Action(Pipeline),
    /// `{{if}}`
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// `{{with}}`
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// `{{range}}`
    Range { over: Pipeline, each: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// The variables that get the result.
    pub(super) variables: Vec<String>,
    /// The commands.
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A part of a command.
#[derive(Debug)]
pub(super) enum Operand {
    /// A field of the dot.
    Field(Vec<String>),
    /// A field of a variable; the nameless one is the whole data.
    Variable(String, Vec<String>),
    /// A function.
    Function(String),
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// A truth value.
    Bool(bool),
    /// A pipeline in parentheses, and a field of its result.
    Group(Pipeline, Vec<String>),
}

/// Text or the words of an action.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut pieces = pieces(text)?.into_iter().peekable();
    let nodes = block(&mut pieces)?;
    match pieces.next() {
        None => Ok(nodes),
        Some(Piece::Action(words)) => {
            Err(TemplateError::new(format!("unexpected {{{{{}}}}}", keyword(&words))))
        }
        Some(Piece::Text(text)) => Err(TemplateError::new(format!("unexpected {text:?}"))),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, mut tail) = after
            .split_once("}}")
            .ok_or_else(|| TemplateError::new(format!("unclosed action in {text:?}")))?;
        let (action, trims_before) = match action.strip_prefix("- ") {
            Some(action) => (action, true),
            None => (action, false),
        };
        let action = match action.strip_suffix(" -") {
            Some(action) => {
                tail = tail.trim_start();
                action
            }
            None => action,
        };
        pieces.push(Piece::Text(if trims_before { before.trim_end() } else { before }.into()));
        let comment = action.trim_start().starts_with("/*");
        if !comment {
            pieces.push(Piece::Action(tokens(action)?));
        }
        rest = tail;
    }
    pieces.push(Piece::Text(rest.into()));
    Ok(pieces)
}

/// Returns the keyword an action begins with.
fn keyword(words: &[Token]) -> &str {
    match words.first() {
        Some(Token::Word(word)) => word,
        _ => "",
    }
}

/// Reads up to the end of the block: an `end` or `else`, which is left, or the end of the text.
fn block(pieces: &mut Peekable<IntoIter<Piece>>) -> Result<Vec<Node>, TemplateError> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next_if(|piece| match piece {
        Piece::Text(_) => true,
        Piece::Action(words) => !matches!(keyword(words), "end" | "else"),
    }) {
        nodes.push(match piece {
            Piece::Text(text) => Node::Text(text),
            Piece::Action(words) => node(words, pieces)?,
        });
    }
    Ok(nodes)
}

fn node(words: Vec<Token>, pieces: &mut Peekable<IntoIter<Piece>>) -> Result<Node, TemplateError> {
    let kind = keyword(&words).to_owned();
    if !matches!(kind.as_str(), "if" | "with" | "range") {
        return Ok(Node::Action(pipeline(words)?));
    }
    let head = pipeline(words.into_iter().skip(1).collect())?;
    let then = block(pieces)?;
    let otherwise = otherwise(pieces)?;
    Ok(match kind.as_str() {
        "if" => Node::If { condition: head, then, otherwise },
        "with" => Node::With { value: head, then, otherwise },
        _ => Node::Range { over: head, each: then, otherwise },
    })
}

/// Reads `{{end}}`, or `{{else}}` and what belongs to it.
fn otherwise(pieces: &mut Peekable<IntoIter<Piece>>) -> Result<Vec<Node>, TemplateError> {
    let Some(Piece::Action(words)) = pieces.next() else {
        return Err(TemplateError::new("unexpected end of the template: {{end}} is missing"));
    };
    if keyword(&words) == "end" {
        return Ok(Vec::new());
    }
    let rest: Vec<Token> = words.into_iter().skip(1).collect();
    if !rest.is_empty() {
        // `{{else if}}` shares the `{{end}}`.
        return Ok(vec![node(rest, pieces)?]);
    }
    let nodes = block(pieces)?;
    match pieces.next() {
        Some(Piece::Action(words)) if keyword(&words) == "end" => Ok(nodes),
        _ => Err(TemplateError::new("unexpected end of the template: {{end}} is missing")),
    }
}

fn pipeline(words: Vec<Token>) -> Result<Pipeline, TemplateError> {
    let mut words = words.into_iter().peekable();
    let pipeline = commands(&mut words)?;
    match words.next() {
        None => Ok(pipeline),
        Some(_) => Err(TemplateError::new("unexpected right parenthesis")),
    }
}

/// Reads commands up to a closing parenthesis, which is left, or the end.
fn commands(words: &mut Peekable<IntoIter<Token>>) -> Result<Pipeline, TemplateError> {
    let mut pipeline = Pipeline { variables: Vec::new(), commands: Vec::new() };
    let mut command = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(word, Token::Close(_))) {
        match word {
            Token::Pipe => pipeline.commands.push(complete(&mut command)?),
            Token::Comma => {}
            Token::Declare => pipeline.variables = declared(&mut command)?,
            Token::Open => {
                let inner = commands(words)?;
                match words.next() {
                    Some(Token::Close(names)) => command.push(Operand::Group(inner, names)),
                    _ => return Err(TemplateError::new("unclosed parenthesis")),
                }
            }
            word => command.push(operand(word)),
        }
    }
    pipeline.commands.push(complete(&mut command)?);
    Ok(pipeline)
}

fn complete(command: &mut Vec<Operand>) -> Result<Vec<Operand>, TemplateError> {
    match command.is_empty() {
        true => Err(TemplateError::new("missing value for command")),
        false => Ok(std::mem::take(command)),
    }
}

fn declared(command: &mut Vec<Operand>) -> Result<Vec<String>, TemplateError> {
    let name = |operand: Operand| match operand {
        Operand::Variable(name, names) if names.is_empty() && !name.is_empty() => Ok(name),
        _ => Err(TemplateError::new("unexpected \":=\"")),
    };
    std::mem::take(command).into_iter().map(name).collect()
}

fn operand(word: Token) -> Operand {
    match word {
        Token::Field(names) => Operand::Field(names),
        Token::Variable(name, names) => Operand::Variable(name, names),
        Token::Text(text) => Operand::Text(text),
        Token::Number(number) => Operand::Number(number),
        Token::Word(word) => match word.as_str() {
            "true" => Operand::Bool(true),
            "false" => Operand::Bool(false),
            _ => Operand::Function(word),
        },
        // INVARIANT: `commands` keeps these to itself.
        Token::Pipe | Token::Open | Token::Close(_) | Token::Declare | Token::Comma => Operand::Bool(false),
    }
}
