//! The calls of one verb: the plugins of a network take turns, and who is next gets ready meanwhile.

use std::iter::Peekable;

use serde_json::Value;
use weft_cni::{Conflist, Verb};

use crate::call::{CallError, Caller, Ready, Target};
use crate::request::{Attachment, Extra, derive, kind};

/// The plugins whose turn is yet to come.
pub(crate) struct Turns<'a, I: Iterator<Item = &'a Value>> {
    caller: Caller<'a>,
    list: &'a Conflist,
    plugins: Peekable<I>,
    verb: Verb,
    attachment: Option<&'a Attachment>,
    args: String,
    next: Option<Ready>,
}

impl<'a, I: Iterator<Item = &'a Value>> Turns<'a, I> {
    /// Nobody has been called yet.
    pub(crate) fn new(
        caller: Caller<'a>,
        list: &'a Conflist,
        plugins: I,
        verb: Verb,
        attachment: Option<&'a Attachment>,
    ) -> Self {
        let args = attachment.map(Attachment::joined_args).unwrap_or_default();
        Self { caller, list, plugins: plugins.peekable(), verb, attachment, args, next: None }
    }

    /// The first plugin was started already.
    pub(crate) fn beginning_with(self, ready: Option<Ready>) -> Self {
        Self { next: ready, ..self }
    }

    /// Calls the next plugin, and returns it with what it printed.
    pub(crate) fn next(&mut self, extra: Extra<'_>) -> Option<(&'a Value, Result<Vec<u8>, CallError>)> {
        let plugin = self.plugins.next()?;
        Some((plugin, self.call(plugin, extra)))
    }

    fn call(&mut self, plugin: &Value, extra: Extra<'_>) -> Result<Vec<u8>, CallError> {
        let mut ready = match self.next.take() {
            Some(ready) => ready,
            None => self.caller.ready(kind(plugin), self.verb, self.target())?,
        };
        ready.begin(derive(self.list, plugin, extra))?;
        self.next = self
            .plugins
            .peek()
            .copied()
            .and_then(|next| self.caller.ahead(kind(next), self.verb, self.target(), &ready));
        ready.finish()
    }

    fn target(&self) -> Target<'_> {
        self.attachment.map(|attachment| attachment.target(&self.args)).unwrap_or_default()
    }
}
