//! The namespace that an isolated network has in the host's place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use weft_model::NetworkName;
use weft_netns::{Identity, Netns, NetnsError};
use weft_plan::{ApplyError, Cause, Journal, Kernel, Plan};
use weft_state::Root;
use weft_state::lock::FileLock;

use super::error::KernelError;
use crate::local::LocalNetwork;

/// How often identifiers that a namespace in the place of another needs are asked for, five seconds long.
const ATTEMPTS: usize = 250;
/// How long it is between two times.
const BREATH: Duration = Duration::from_millis(20);

/// Returns where the namespace of an isolated network is pinned.
pub fn netns_path(root: &Root, name: &NetworkName) -> PathBuf {
    root.overlay_run_dir().join("netns").join(name.as_str())
}

/// Returns the namespace that a network has in the host's place: none unless it is isolated. With `make` it is made if
/// it is not there.
///
/// # Errors
///
/// When the kernel refuses.
pub fn home(local: &LocalNetwork, root: &Root, make: bool) -> Result<Option<Netns>, KernelError> {
    if !local.isolated {
        return Ok(None);
    }
    let path = netns_path(root, &local.name);
    match find(&path)? {
        None if make => {
            // An agent that starts and plugins may all find none.
            let _alone = FileLock::exclusive(&root.locks_dir().join("overlay-netns"))?;
            match find(&path)? {
                None => make_anew(&path).map(Some),
                found => Ok(found),
            }
        }
        found => Ok(found),
    }
}

fn find(path: &Path) -> Result<Option<Netns>, NetnsError> {
    match Netns::open(path) {
        Ok(netns) => Ok(Some(netns)),
        Err(NetnsError::Missing { .. } | NetnsError::NotANamespace { .. }) => Ok(None),
        // Anything else says nothing about the namespace, and the one that is there is full of containers.
        Err(error) => Err(error),
    }
}

fn make_anew(path: &Path) -> Result<Netns, KernelError> {
    // A plain file is what a reboot, or an unmount by hand, has left of a pin.
    match weft_netns::unpin(path) {
        Ok(()) | Err(NetnsError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(folder) = path.parent() {
        weft_netns::pin_folder(folder)?;
    }
    Ok(weft_netns::pin(path)?)
}

/// Makes devices in networks' own namespaces, and waits for identifiers that one which is gone has still; once for each namespace.
///
/// KERNEL: a namespace that nobody has any more is taken apart later (cleanup_net, net/core/net_namespace.c), and its devices keep
/// their identifiers until then. Whoever has one after that is somebody else, and may keep it for good.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Arc<Mutex<BTreeMap<NetworkName, Identity>>>);

impl Patience {
    /// Makes a plan so, in a network's own namespace or the host's.
    pub(super) fn ensure(
        &self,
        kernel: &mut Kernel,
        plan: &Plan,
        name: &NetworkName,
        home: Option<&Netns>,
    ) -> Result<(), ApplyError> {
        self.attempt(kernel, plan, name, home, || thread::sleep(BREATH))
    }

    fn attempt(
        &self,
        kernel: &mut Kernel,
        plan: &Plan,
        name: &NetworkName,
        home: Option<&Netns>,
        mut rest: impl FnMut(),
    ) -> Result<(), ApplyError> {
        let home = home.map(Netns::identity);
        let in_vain = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = if in_vain().get(name).copied() == home { 0 } else { ATTEMPTS };
        loop {
            let outcome = kernel.ensure(plan, &mut Journal::default());
            let is_hidden = |error: &ApplyError| matches!(error.cause, Cause::VniTaken { holder: None, .. });
            match (outcome, home) {
                (Err(error), Some(home)) if is_hidden(&error) => {
                    if left == 0 {
                        in_vain().insert(name.clone(), home);
                        return Err(error);
                    }
                    left -= 1;
                    rest();
                }
                (outcome, _) => {
                    in_vain().remove(name);
                    return outcome;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use weft_plan::{Link, Place, Removal, VxlanOptions};

    use super::*;
    use crate::local::tests::network;

    /// Makes the namespace many times at once, and returns how many others there were besides the one that is pinned.
    fn made_at_once(local: &LocalNetwork, root: &Root) -> usize {
        const MANY: usize = 16;
        let start = Barrier::new(MANY);
        let make = || {
            start.wait();
            home(local, root, true).unwrap().unwrap()
        };
        let all: Vec<Netns> = thread::scope(|scope| {
            let running: Vec<_> = (0..MANY).map(|_| scope.spawn(make)).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        all.iter().filter(|home| !home.is_at(&netns_path(root, &local.name))).count()
    }

    #[test]
    fn whoever_comes_at_the_same_time_gets_the_same_namespace() {
        weft_netns::isolate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(Some(folder.path().into()));
        let local = LocalNetwork { isolated: true, ..network() };
        let path = netns_path(&root, &local.name);
        assert!(home(&local, &root, false).unwrap().is_none(), "nobody has made it");
        for round in 0..10 {
            assert_eq!(made_at_once(&local, &root), 0, "round {round}");
            match round % 3 {
                0 => weft_netns::unpin(&path).unwrap(),
                // The file stays, as after a reboot.
                1 => nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap(),
                _ => {}
            }
        }
    }

    /// A VXLAN device of somebody's, in a namespace.
    fn device(home: &Netns, alias: &str) -> (Kernel, Plan) {
        let options = VxlanOptions {
            vni: 7,
            port: 4789,
            local: "127.0.0.1".parse().unwrap(),
            checksum: true,
            alias: alias.into(),
        };
        let mut plan = Plan::new();
        plan.network(Link::vxlan(&"vx7".parse().unwrap(), options));
        (Kernel::at(Some(home), None).unwrap(), plan)
    }

    #[test]
    fn a_new_namespace_is_waited_with_once_and_no_more_if_somebody_else_has_the_identifier() {
        weft_netns::isolate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [before, first, second] =
            ["before", "first", "second"].map(|name| weft_netns::pin(folder.path().join(name)).unwrap());
        let (mut theirs, their_plan) = device(&before, "theirs");
        theirs.ensure(&their_plan, &mut Journal::default()).unwrap();
        let (name, patience) = (network().name, Patience::default());
        let mut rests = 0;
        let (mut ours, plan) = device(&first, "ours");
        patience.attempt(&mut ours, &plan, &name, Some(&first), || rests += 1).unwrap_err();
        assert_eq!(rests, ATTEMPTS);
        let never = || panic!("it waits in every round");
        let error = patience.clone().attempt(&mut ours, &plan, &name, Some(&first), never).unwrap_err();
        assert!(matches!(error.cause, Cause::VniTaken { holder: None, .. }), "{error}");
        // Another namespace of the same network, and the other device goes while it is waited for.
        let (mut ours, plan) = device(&second, "ours");
        let going = || assert!(theirs.remove(&their_plan, Removal::Synchronous).is_empty());
        patience.attempt(&mut ours, &plan, &name, Some(&second), going).unwrap();
        assert!(ours.exists(Place::Host, &"vx7".parse().unwrap()).unwrap());
        // Nothing is remembered of what is well.
        assert!(patience.0.lock().unwrap().is_empty());
    }
}
