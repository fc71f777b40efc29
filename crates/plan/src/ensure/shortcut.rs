//! Having a link's packets take a shortcut.

use weft_netlink::{bpf, tc};

use super::Ensure;
use crate::journal::Undo;
use crate::shortcut::Decider;
use crate::{Cause, Shortcut, Step};

impl Ensure<'_> {
    pub(super) fn shortcut(&mut self, step: &Step, wanted: &Shortcut) -> Result<(), Cause> {
        let place = step.place;
        let Some(Decider { index, code, name }) = self.kernel.lacks_shortcut(place, wanted)? else {
            return Ok(());
        };
        // Without it packets arrive all the same. Whoever wants to know why asks for it.
        let Ok(program) = bpf::load(&code) else { return Ok(()) };
        let socket = self.kernel.socket(place)?;
        match socket.request(tc::watch_received(index)) {
            Ok(_) => self.note(step, Undo::IgnoreReceived { place, dev: wanted.dev.clone(), index }),
            Err(error) if error.is_exists() => {}
            Err(error) => return Err(error.into()),
        }
        let attached = self.kernel.socket(place)?.request(tc::decide_received(index, &program, &name));
        Ok(attached.map(drop)?)
    }
}
