//! Arguments that clap learns of when their command is typed: most of what a start would tell it is about the others.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand};

/// A command's arguments, or its subcommands.
#[derive(Debug)]
pub(crate) struct Later<T>(pub(crate) T);

/// Whether nothing is put off.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// From now on nothing is put off: for who wants to know every word, as a completion script does.
pub(crate) fn at_once() {
    AT_ONCE.store(true, Ordering::Relaxed);
}

fn put_off(command: Command, tell: fn(Command) -> Command) -> Command {
    if AT_ONCE.load(Ordering::Relaxed) { tell(command) } else { command.defer(tell) }
}

impl<T: FromArgMatches> FromArgMatches for Later<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: Args> Args for Later<T> {
    fn augment_args(command: Command) -> Command {
        put_off(command, T::augment_args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        put_off(command, T::augment_args_for_update)
    }
}

impl<T: Subcommand> Subcommand for Later<T> {
    fn augment_subcommands(command: Command) -> Command {
        put_off(command, T::augment_subcommands)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        put_off(command, T::augment_subcommands_for_update)
    }

    fn has_subcommand(name: &str) -> bool {
        T::has_subcommand(name)
    }
}
