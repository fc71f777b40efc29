//! What we have in iptables, part by part. Each part knows the lines that lead from what is there to what it wants, so that any
//! number of them are written by one `iptables-restore` for each family.

use super::lock::Writer;
use super::tool::{Saved, Table, Tool};
use crate::error::all_but_refused;
use crate::{Change, FirewallError};

/// Something of ours in tables of iptables.
pub(crate) trait Part {
    /// What a person calls it.
    fn name(&self) -> String;

    /// The one program that it is written by, if that is not those that the administrator has chosen for each family.
    fn tool(&self) -> Option<Tool> {
        None
    }

    /// The tables that it has rules in.
    fn tables(&self) -> &'static [Table];

    /// Tells whether it has rules of this family: then the program must be there.
    fn is_in(&self, tool: Tool) -> bool;

    /// Tells whether it may have rules of this family that it no longer wants.
    fn may_leave(&self, tool: Tool) -> bool;

    /// Returns the lines that lead from what is there to what is wanted; none if that is the same.
    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts;
}

/// The lines for each table.
#[derive(Debug, Default)]
pub(crate) struct Scripts {
    pub(crate) nat: Vec<String>,
    pub(crate) filter: Vec<String>,
    pub(crate) raw: Vec<String>,
}

impl Scripts {
    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Protection comes first: of several tables in one run, each is a transaction of its own.
    pub(crate) fn as_tables(&self) -> [(Table, &[String]); 3] {
        [(Table::Raw, &self.raw), (Table::Filter, &self.filter), (Table::Nat, &self.nat)]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Table, &String)> {
        self.as_tables().into_iter().flat_map(|(table, lines)| lines.iter().map(move |line| (table, line)))
    }

    fn append(&mut self, mut other: Self) {
        self.nat.append(&mut other.nat);
        self.filter.append(&mut other.filter);
        self.raw.append(&mut other.raw);
    }
}

/// Brings parts to what they want, in one transaction for each table of each family.
pub(crate) fn write(writer: &Writer, parts: &[&dyn Part]) -> Result<Change, FirewallError> {
    let mut change = Change::AlreadyThere;
    for (tool, parts) in by_tool(parts) {
        if write_family(writer, &parts, tool)? == Change::Made {
            change = Change::Made;
        }
    }
    Ok(change)
}

/// Brings parts to what they want in one family.
pub(crate) fn write_family(
    _writer: &Writer,
    parts: &[&dyn Part],
    tool: Tool,
) -> Result<Change, FirewallError> {
    let (scripts, _) = scripts_of_all(saved(tool, parts)?, parts, tool);
    if scripts.is_empty() {
        return Ok(Change::AlreadyThere);
    }
    tool.restore_all(&scripts.as_tables()).map(|()| Change::Made)
}

/// Does the same as [`write`], and where rules of some parts are refused, for conditions that the program does not know, the
/// others get theirs. Returns everything that was refused.
pub(crate) fn write_what_can_be(_writer: &Writer, parts: &[&dyn Part]) -> Vec<FirewallError> {
    let mut refused = Vec::new();
    for (tool, parts) in by_tool(parts) {
        // What cannot even be listed is not for this or that part.
        let mut known = match saved(tool, &parts) {
            Ok(there) => Some(there),
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        let of_tool = all_but_refused(&parts, &mut |parts| {
            let there = known.take().map_or_else(|| tool.saved_all(), Ok)?;
            let (scripts, then) = scripts_of_all(there, parts, tool);
            // Of several tables those before the one that was refused are written: what is there has to be asked again.
            tool.restore_all(&scripts.as_tables()).map(|()| known = Some(then))
        });
        refused.extend(of_tool.into_iter().map(|(part, why)| FirewallError::unrestored(part.name(), why)));
    }
    refused
}

/// Returns each program that has something to do, with the parts that it is to write.
fn by_tool<'a>(parts: &[&'a dyn Part]) -> Vec<(Tool, Vec<&'a dyn Part>)> {
    let mut tools = Vec::from(Tool::BOTH);
    for named in parts.iter().filter_map(|part| part.tool()) {
        if !tools.contains(&named) {
            tools.push(named);
        }
    }
    let is_for = |part: &dyn Part, tool: Tool| match part.tool() {
        Some(named) => named == tool,
        None => Tool::BOTH.contains(&tool),
    };
    let of_tool = |tool: Tool| {
        let own: Vec<_> = parts.iter().copied().filter(|part| is_for(*part, tool)).collect();
        // A program that is not there has no rules to be taken back.
        let is_needed = own.iter().any(|part| part.is_in(tool))
            || own.iter().any(|part| part.may_leave(tool)) && tool.is_ready();
        is_needed.then_some((tool, own))
    };
    tools.into_iter().filter_map(of_tool).collect()
}

/// Returns the lines for several parts, each after those before it have been written, and what is there then.
pub(crate) fn scripts_of_all(mut there: Saved, parts: &[&dyn Part], tool: Tool) -> (Scripts, Saved) {
    let mut all = Scripts::default();
    for part in parts {
        let of_one = part.scripts(&there, tool);
        of_one.all().for_each(|(table, line)| there.write(table, line));
        all.append(of_one);
    }
    (all, there)
}

/// Returns what the tables have that these parts are in: of one table, no others are listed.
fn saved(tool: Tool, parts: &[&dyn Part]) -> Result<Saved, FirewallError> {
    let mut tables: Vec<Table> = parts.iter().flat_map(|part| part.tables()).copied().collect();
    tables.dedup();
    match tables[..] {
        [only] => tool.saved(only).map(|rules| Saved::of(only, rules)),
        _ => tool.saved_all(),
    }
}

/// The line that takes a rule away.
pub(crate) fn deletion(rule: &str) -> String {
    rule.replacen("-A ", "-D ", 1)
}
