//! Kernel parameters.

use weft_netlink::netconf;

use super::{Ensure, Meaning, at};
use crate::journal::Undo;
use crate::sysctl::{self, Change};
use crate::{ApplyError, Cause, Place, Resource, Step, Sysctl};

impl<'a> Ensure<'a> {
    /// Sees to the parameters at the head of `steps` that are in one place; returns the rest. What netlink tells and
    /// takes goes that way; what is left is written on one visit.
    pub(super) fn sysctls(&mut self, steps: &'a [Step]) -> Result<&'a [Step], ApplyError> {
        self.flush()?;
        let (run, rest) = steps.split_at(leading(steps).count());
        let mut files = Vec::new();
        for (step, wanted) in run.iter().zip(leading(run)) {
            if !self.is_so(step.place, wanted).map_err(at(step))? && !self.by_netlink(step, wanted)? {
                files.push((step, wanted));
            }
        }
        self.write(&files).map(|()| rest)
    }

    /// Returns whether a parameter is known to have its value, without opening its file.
    fn is_so(&mut self, place: Place, wanted: &Sysctl) -> Result<bool, Cause> {
        let v4 = match wanted.key.as_str() {
            "net/ipv4/ip_forward" => true,
            "net/ipv6/conf/all/forwarding" => false,
            _ => {
                let told = wanted.of_link().and_then(|(family, dev, name)| {
                    let known = self.kernel.known(place, &dev).filter(|known| !known.fresh)?;
                    known.parameters.get(family, name)
                });
                return Ok(told.is_some_and(|value| value.to_string() == wanted.value));
            }
        };
        let forwards = netconf::forwards(self.kernel.socket(place)?, v4)?;
        Ok(forwards.is_some_and(|on| wanted.value == if on { "1" } else { "0" }))
    }

    /// Gathers the request that sets a parameter of a link we created, if there is one. It goes with the link.
    fn by_netlink(&mut self, step: &'a Step, wanted: &Sysctl) -> Result<bool, ApplyError> {
        let request = wanted.of_link().and_then(|(family, dev, name)| {
            let known = self.kernel.known(step.place, &dev).filter(|known| known.fresh)?;
            netconf::set(known.facts.index, family, name, wanted.value.parse().ok()?)
        });
        let Some(request) = request else { return Ok(false) };
        let meaning = if wanted.required { Meaning::Made(None) } else { Meaning::Attempted };
        self.queue(step, request, meaning).map(|()| true)
    }

    fn write(&mut self, files: &[(&Step, &Sysctl)]) -> Result<(), ApplyError> {
        let Some((first, _)) = files.first() else { return Ok(()) };
        let sysctls: Vec<_> =
            files.iter().map(|(step, wanted)| (*wanted, self.is_of_fresh(step.place, wanted))).collect();
        let write = || sysctls.iter().map(|(one, fresh)| sysctl::ensure(one, *fresh)).collect::<Vec<_>>();
        let results = self.kernel.run(first.place, write).map_err(at(first))?;
        let mut refused = Ok(());
        for ((step, wanted), result) in files.iter().zip(results) {
            match result {
                Ok(Change::Written(value)) => {
                    let key = wanted.key.clone();
                    self.note(step, Undo::RestoreSysctl { place: step.place, key, value });
                }
                Ok(Change::AlreadyThere) => {}
                Err(cause) => refused = refused.and(Err(at(step)(cause))),
            }
        }
        refused
    }

    /// Returns whether a parameter is that of a link we created.
    fn is_of_fresh(&self, place: Place, sysctl: &Sysctl) -> bool {
        let dev = sysctl.link().and_then(|dev| dev.parse().ok());
        dev.is_some_and(|dev| self.is_fresh(place, &dev))
    }
}

fn leading(steps: &[Step]) -> impl Iterator<Item = &Sysctl> {
    let place = steps.first().map(|step| step.place);
    steps.iter().map_while(move |step| match &step.resource {
        Resource::Sysctl(sysctl) if Some(step.place) == place => Some(sysctl),
        _ => None,
    })
}
