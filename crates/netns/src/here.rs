//! Starting a thread or a process on the CPU we are on.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread kept on its CPU while it starts another thread or a process to wait for.
///
/// KERNEL: what is started is put on the CPU that looks idlest and has to be woken there, while we only
/// wait for it. An idle CPU has to leave its sleep first; a busy one, in a kernel that does not preempt,
/// may let it wait for a whole tick: 3.7 ms were seen for a thread that needs 0.03 ms. Started on our own CPU it
/// runs as soon as we wait.
#[derive(Debug)]
pub struct Here {
    /// The CPUs to go back to; absent when we did not stay.
    before: Option<CpuSet>,
}

impl Here {
    /// Stays on this CPU from now on. Where that is refused, nothing changes.
    pub fn stay() -> Self {
        let stay = || {
            let before = sched_getaffinity(SELF)?;
            let mut here = CpuSet::new();
            here.set(sched_getcpu()?)?;
            sched_setaffinity(SELF, &here).map(|()| before)
        };
        Self { before: stay().ok() }
    }

    /// Lets the calling thread go where it could before: to be called by the one who stayed and, as they
    /// inherit its CPU, by those it started.
    pub fn leave(&self) {
        if let Some(before) = &self.before {
            // What was allowed a moment ago is allowed now, or the CPU has gone and the kernel knows better.
            sched_setaffinity(SELF, before).unwrap_or_default();
        }
    }
}

/// The calling thread, as the scheduler's system calls name it.
const SELF: Pid = Pid::from_raw(0);
