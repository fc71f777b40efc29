//! Attributes of links that somebody else made.

use std::collections::BTreeMap;

use weft_netlink::link::{self, Change, LinkInfo};

use super::Ensure;
use super::existing::inverse;
use crate::journal::Undo;
use crate::sysctl::{self, Change as SysctlChange};
use crate::tuning::Kept;
use crate::{Cause, Step, Tuning};

impl Ensure<'_> {
    /// What was before is on disk before anything is changed: whoever comes after a crash can put it back.
    pub(super) fn tuning(&mut self, step: &Step, tuning: &Tuning) -> Result<(), Cause> {
        let place = step.place;
        let before = self.kernel.look(place, &tuning.dev)?;
        let before = before.ok_or_else(|| Cause::NoLink { place, name: tuning.dev.clone() })?;
        let change = tuning.change();
        let mut sysctls = BTreeMap::new();
        if !tuning.sysctls.is_empty() {
            let values = || tuning.sysctls.iter().map(|one| sysctl::value(&one.key)).collect::<Vec<_>>();
            for (one, value) in tuning.sysctls.iter().zip(self.kernel.run(place, values)?) {
                sysctls.extend(value?.map(|value| (one.key.clone(), value)));
            }
        }
        if Kept::of(&before, &change, sysctls).write(&tuning.kept)? {
            self.note(step, Undo::RemoveFile(tuning.kept.clone()));
        }
        self.retune(step, tuning, &before, &change)?;
        for one in &tuning.sysctls {
            let written = self.kernel.run(place, || sysctl::ensure(one, false))??;
            if let SysctlChange::Written(value) = written {
                self.note(step, Undo::RestoreSysctl { place, key: one.key.clone(), value });
            }
        }
        Ok(())
    }

    fn retune(
        &mut self,
        step: &Step,
        tuning: &Tuning,
        before: &LinkInfo,
        change: &Change,
    ) -> Result<(), Cause> {
        let back = inverse(before, change);
        if back == Change::default() {
            return Ok(());
        }
        let (place, index) = (step.place, before.index);
        self.kernel.socket(place)?.request(link::change(index, change))?;
        self.note(step, Undo::ChangeLink { place, name: tuning.dev.clone(), index, change: back });
        self.kernel.look(place, &tuning.dev).map(drop)
    }
}
