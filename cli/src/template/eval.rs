//! Filling a template in.

use serde_json::Value;

use super::TemplateError;
use super::function;
use super::parse::{Node, Operand, Pipeline};

/// What names mean at one place of a template.
#[derive(Clone)]
struct Scope<'a> {
    data: &'a Value,
    dot: Value,
    variables: Vec<(String, Value)>,
}

pub(super) fn render(nodes: &[Node], data: &Value) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut scope = Scope { data, dot: data.clone(), variables: Vec::new() };
    scope.nodes(nodes, &mut text)?;
    Ok(text)
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], text: &mut String) -> Result<(), TemplateError> {
        nodes.iter().try_for_each(|node| self.node(node, text))
    }

    fn node(&mut self, node: &Node, text: &mut String) -> Result<(), TemplateError> {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline)?;
                match &pipeline.variables[..] {
                    [] => text.push_str(&function::print(&value)),
                    [name, ..] => self.variables.push((name.clone(), value)),
                }
            }
            Node::If { condition, then, otherwise } => {
                let holds = function::truth(&self.pipeline(condition)?);
                self.clone().nodes(if holds { then } else { otherwise }, text)?;
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value)?;
                match function::truth(&value) {
                    true => self.inside(value).nodes(then, text)?,
                    false => self.clone().nodes(otherwise, text)?,
                }
            }
            Node::Range { over, each, otherwise } => self.range(over, each, otherwise, text)?,
        }
        Ok(())
    }

    fn range(
        &self,
        over: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        text: &mut String,
    ) -> Result<(), TemplateError> {
        let entries: Vec<(Value, Value)> = match self.pipeline(over)? {
            Value::Array(items) => {
                items.into_iter().enumerate().map(|(nth, item)| (nth.into(), item)).collect()
            }
            Value::Object(members) => members.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            Value::Null => Vec::new(),
            other => {
                return Err(TemplateError::new(format!("cannot range over {}", function::print(&other))));
            }
        };
        if entries.is_empty() {
            return self.clone().nodes(otherwise, text);
        }
        for (key, value) in entries {
            let mut scope = self.inside(value.clone());
            match &over.variables[..] {
                [] => {}
                [item] => scope.variables.push((item.clone(), value)),
                [index, item, ..] => {
                    scope.variables.extend([(index.clone(), key), (item.clone(), value)]);
                }
            }
            scope.nodes(each, text)?;
        }
        Ok(())
    }

    fn inside(&self, dot: Value) -> Self {
        Self { dot, ..self.clone() }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(&self, command: &[Operand], piped: Option<Value>) -> Result<Value, TemplateError> {
        let Some((head, tail)) = command.split_first() else { return Ok(Value::Null) };
        let mut args = tail.iter().map(|operand| self.operand(operand)).collect::<Result<Vec<Value>, _>>()?;
        args.extend(piped);
        match head {
            Operand::Function(name) => function::call(name, &args),
            // DOCKER: `.Label "key"` is a method of a row of a list.
            Operand::Field(names) if names[..] == ["Label"] && args.len() == 1 => {
                function::call("index", &[self.operand(head)?, args.remove(0)])
            }
            operand if args.is_empty() => self.operand(operand),
            operand => {
                let value = function::print(&self.operand(operand)?);
                Err(TemplateError::new(format!("{value:?} is not a function but has arguments")))
            }
        }
    }

    fn operand(&self, operand: &Operand) -> Result<Value, TemplateError> {
        match operand {
            Operand::Field(names) => field(&self.dot, names),
            Operand::Variable(name, names) if name.is_empty() => field(self.data, names),
            Operand::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) =
                    found.ok_or_else(|| TemplateError::new(format!("undefined variable \"${name}\"")))?;
                field(value, names)
            }
            Operand::Function(name) => function::call(name, &[]),
            Operand::Text(text) => Ok(text.clone().into()),
            Operand::Number(number) => Ok((*number).into()),
            Operand::Bool(value) => Ok((*value).into()),
            Operand::Group(pipeline, names) => field(&self.pipeline(pipeline)?, names),
        }
    }
}

/// Follows names into a value.
///
/// Go tells the fields of a struct, which must be there, from the keys of a map, which need not. JSON does not;
/// but exported fields begin with a capital letter, and labels and options rarely do.
fn field(value: &Value, names: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for name in names {
        value = match value.get(name) {
            Some(value) => value,
            None if value.is_object() && !name.starts_with(char::is_uppercase) => return Ok("".into()),
            None => {
                return Err(TemplateError::new(format!("there is no field {}", names.join("."))));
            }
        };
    }
    Ok(value.clone())
}
