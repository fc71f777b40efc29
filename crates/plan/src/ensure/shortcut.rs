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
        // Without it packets arrive all the same: no kernel and no link that has just gone keeps the network from anything else.
        // What is missing is observed.
        let Ok(program) = bpf::load(&code) else { return Ok(()) };
        let socket = self.kernel.socket(place)?;
        let queue_is_new = match socket.request(tc::watch_received(index)) {
            Ok(_) => true,
            Err(error) if error.is_exists() => false,
            Err(_) => return Ok(()),
        };
        let attached = socket.request(tc::decide_received(index, &program, &name));
        if queue_is_new && attached.is_err() {
            drop(socket.request(tc::ignore_received(index)));
        } else if queue_is_new {
            self.note(step, Undo::IgnoreReceived { place, dev: wanted.dev.clone(), index });
        }
        Ok(())
    }
}
