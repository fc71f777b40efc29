//! How fast links send.

use weft_netlink::{Batch, Error, link, tc};

use super::Ensure;
use crate::journal::Undo;
use crate::kernel::Known;
use crate::{Cause, Place, Shape, Step, Traffic};
use weft_model::IfName;

impl Ensure<'_> {
    pub(super) fn traffic(&mut self, step: &Step, traffic: &Traffic) -> Result<(), Cause> {
        match traffic {
            Traffic::Ifb { of: None, .. } => Ok(()),
            Traffic::Ifb { name, of: Some(of) } => self.ifb(step, name, of),
            Traffic::Shape(shape) => self.shape(step, shape),
            Traffic::Redirect { dev, to } => self.redirect(step, dev, to),
        }
    }

    fn ifb(&mut self, step: &Step, name: &IfName, of: &IfName) -> Result<(), Cause> {
        let place = step.place;
        let mtu = self.found(place, of)?.facts.mtu;
        let reply = match self.kernel.socket(place)?.request(link::create_ifb(name, mtu)) {
            Err(error) if error.is_exists() => {
                let found = self.kernel.look(place, name)?;
                let ours = found.is_some_and(|link| link.kind.as_deref() == Some("ifb"));
                return if ours {
                    Ok(())
                } else {
                    Err(Cause::OtherKind { name: name.clone(), wanted: "ifb" })
                };
            }
            Err(error) if error.is_unknown_kind() => {
                return Err(Cause::NoKind { kind: "ifb", option: "CONFIG_IFB" });
            }
            outcome => outcome?,
        };
        let created = self.kernel.socket(place)?.created(&reply, name)?;
        self.kernel.learn(place, name, Known { fresh: true, ..Known::from(&created) });
        self.note(step, Undo::DeleteLink { place, name: name.clone(), index: created.index });
        Ok(())
    }

    /// What was at the root is not put back by the undo: a container's link is born without.
    fn shape(&mut self, step: &Step, shape: &Shape) -> Result<(), Cause> {
        let mut differences = Vec::new();
        let traffic = Traffic::Shape(shape.clone());
        self.kernel.observe_traffic(step.place, &traffic, &mut differences)?;
        if differences.is_empty() {
            return Ok(());
        }
        let index = self.found(step.place, &shape.dev)?.facts.index;
        let socket = self.kernel.socket(step.place)?;
        let mut batch = Batch::new();
        let bare = batch.push(tc::unshape(index));
        let asked = shape.requests(index).into_iter();
        let tickets: Vec<_> = asked.map(|(request, option)| (batch.push(request), option)).collect();
        let replies = socket.call(&mut batch)?;
        // A link without one of its own has none to remove.
        replies.of(bare).ok();
        self.note(step, Undo::Unshape { place: step.place, dev: shape.dev.clone(), index });
        for (ticket, option) in tickets {
            replies.of(ticket).map_err(|error| lacking(error, "traffic shaping", option))?;
        }
        Ok(())
    }

    fn redirect(&mut self, step: &Step, dev: &IfName, to: &IfName) -> Result<(), Cause> {
        let place = step.place;
        let (index, target) = (self.found(place, dev)?.facts.index, self.found(place, to)?.facts.index);
        let socket = self.kernel.socket(place)?;
        if tc::redirections(socket, index)?.contains(&target) {
            return Ok(());
        }
        match socket.request(tc::watch_received(index)) {
            Err(error) if !error.is_exists() => {
                return Err(lacking(error, "queue for what arrives", "CONFIG_NET_SCH_INGRESS"));
            }
            _ => {}
        }
        self.note(step, Undo::IgnoreReceived { place, dev: dev.clone(), index });
        let redirected = self.kernel.socket(place)?.request(tc::redirect(index, target));
        redirected.map(drop).map_err(|error| {
            // KERNEL: "Failed to load TC action module" (tcf_action_load_ops, net/sched/act_api.c).
            let option = match error.message() {
                Some(message) if message.contains("action") => "CONFIG_NET_ACT_MIRRED",
                _ => "CONFIG_NET_CLS_U32",
            };
            lacking(error, "redirection", option)
        })
    }

    fn found(&mut self, place: Place, name: &IfName) -> Result<Known, Cause> {
        if self.kernel.known(place, name).is_none() {
            self.kernel.look(place, name)?;
        }
        self.kernel.known(place, name).ok_or_else(|| Cause::NoLink { place, name: name.clone() })
    }
}

/// KERNEL: it has no entry for the kind of queue, of class, of filter or of action (qdisc_create, net/sched/sch_api.c).
fn lacking(error: Error, feature: &'static str, option: &'static str) -> Cause {
    match error.is_missing() || error.is_unsupported() {
        true => Cause::Lacks { feature, option },
        false => error.into(),
    }
}
