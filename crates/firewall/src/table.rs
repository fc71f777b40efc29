//! What is there under the name of one of our tables.

use weft_nft::{Error, Socket, Table};

use crate::{FirewallError, layout};

/// What is there under the name of one of our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// The table as this version of weft writes it.
    Ours,
    /// The table as another version of weft wrote it.
    Other,
}

/// Returns what is there under a table's name; an error if it is someone else's.
///
/// KERNEL: tables have comments since Linux 5.10. Without one it is ours.
pub(crate) fn state(socket: &mut Socket, table: Table) -> Result<State, FirewallError> {
    match socket.table(table).map_err(|source| refused(table, source))? {
        None => Ok(State::Absent),
        Some(None) => Ok(State::Ours),
        Some(Some(comment)) if comment == version(table) => Ok(State::Ours),
        Some(Some(comment)) if comment.starts_with(layout::ANY_VERSION) => Ok(State::Other),
        Some(Some(comment)) => Err(FirewallError::NotOurs { table, comment }),
    }
}

/// Returns the comment that our present layout of a table has.
fn version(table: Table) -> &'static str {
    match table {
        layout::BRIDGE => layout::BRIDGE_VERSION,
        layout::loopback::NETDEV => layout::loopback::NETDEV_VERSION,
        _ => layout::VERSION,
    }
}

/// Returns the error for what the kernel refused in a table.
pub(crate) fn refused(table: Table, source: Error) -> FirewallError {
    FirewallError::Nft { table, source }
}
