//! The functions of a template, and how its values print.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;

/// Calls a function.
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let value = match (name, args) {
        ("json", [value]) => value.to_string().into(),
        ("lower", [value]) => print(value).to_lowercase().into(),
        ("upper", [value]) => print(value).to_uppercase().into(),
        ("title", [value]) => title(&print(value)).into(),
        ("join", [Value::Array(items), by]) => join(items, &print(by)).into(),
        ("split", [text, by]) => print(text).split(&print(by)).collect::<Vec<_>>().into(),
        ("truncate", [text, Value::Number(length)]) => {
            print(text).chars().take(count(length)).collect::<String>().into()
        }
        ("pad", [text, Value::Number(before), Value::Number(after)]) => {
            format!("{}{}{}", " ".repeat(count(before)), print(text), " ".repeat(count(after))).into()
        }
        ("print", values) => join(values, " ").into(),
        ("println", values) => (join(values, " ") + "\n").into(),
        ("printf", [format, values @ ..]) => printf(&print(format), values)?.into(),
        ("len", [value]) => length(value)?.into(),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("not", [value]) => (!truth(value)).into(),
        ("and", [first, rest @ ..]) => {
            rest.iter().fold(first, |all, next| if truth(all) { next } else { all }).clone()
        }
        ("or", [first, rest @ ..]) => {
            rest.iter().fold(first, |any, next| if truth(any) { any } else { next }).clone()
        }
        ("eq", [first, rest @ ..]) if !rest.is_empty() => rest.contains(first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("lt", [a, b]) => (compare(a, b) == Ordering::Less).into(),
        ("le", [a, b]) => (compare(a, b) != Ordering::Greater).into(),
        ("gt", [a, b]) => (compare(a, b) == Ordering::Greater).into(),
        ("ge", [a, b]) => (compare(a, b) != Ordering::Less).into(),
        _ => return Err(unknown(name, args)),
    };
    Ok(value)
}

fn unknown(name: &str, args: &[Value]) -> TemplateError {
    const KNOWN: [&str; 20] = [
        "json", "lower", "upper", "title", "join", "split", "truncate", "pad", "printf", "len", "index",
        "not", "and", "or", "eq", "ne", "lt", "le", "gt", "ge",
    ];
    match KNOWN.contains(&name) {
        true => TemplateError::new(format!(
            "wrong number of args for {name}, or of the wrong kind: {}",
            join(args, ", ")
        )),
        false => TemplateError::new(format!("function {name:?} is not defined")),
    }
}

/// Returns a value as Go prints it.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", join(items, " ")),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(key, value)| format!("{key}:{}", print(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

/// Returns whether a value counts as true: anything but false, zero and what is empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

fn join(values: &[Value], by: &str) -> String {
    let texts: Vec<String> = values.iter().map(print).collect();
    texts.join(by)
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn count(number: &serde_json::Number) -> usize {
    number.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default().min(10_000)
}

fn length(value: &Value) -> Result<usize, TemplateError> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(members) => Ok(members.len()),
        other => Err(TemplateError::new(format!("{} has no length", print(other)))),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, TemplateError> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Array(items), Value::Number(nth)) => items
                .get(count(nth))
                .cloned()
                .ok_or_else(|| TemplateError::new(format!("index {nth} is out of range")))?,
            (Value::Object(members), key) => members.get(&print(key)).cloned().unwrap_or_else(|| "".into()),
            (other, _) => return Err(TemplateError::new(format!("cannot index {}", print(other)))),
        };
    }
    Ok(value)
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => print(a).cmp(&print(b)),
    }
}

/// Fills in `%s`, `%d`, `%v`, `%q` and `%%`.
fn printf(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let wrong = |what: String| Err(TemplateError::new(format!("printf: {what}")));
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => text.push('%'),
            Some(verb @ ('q' | 's' | 'd' | 'v')) => match values.next() {
                Some(value) if verb == 'q' => text.push_str(&format!("{:?}", print(value))),
                Some(value) => text.push_str(&print(value)),
                None => return wrong(format!("there is no value for %{verb}")),
            },
            Some(verb) => return wrong(format!("%{verb} is not supported")),
            None => return wrong("% at the end".into()),
        }
    }
    Ok(text)
}
