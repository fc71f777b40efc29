//! What this host's kernel knows of the way.

use std::fmt::Display;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_manager::Kind;
use weft_manager::overlay::protocol::Refusal;
use weft_netlink::{Socket, link, route};
use weft_overlay::desired::{DesiredNetwork, MESH_LINKS, Peer};
use weft_overlay::kernel::{self, Drift, Reconciler, Subject, Trouble};

use super::{Broken, Ground, Way};

/// Whose way it is.
pub(super) struct Kernelside<'a> {
    pub(super) ground: &'a Ground,
    pub(super) ours: &'a DesiredNetwork,
    pub(super) peer: &'a Peer,
    pub(super) part: IpNetwork,
    pub(super) address: IpAddr,
}

impl Kernelside<'_> {
    /// Goes on with a way; returns by which device outer packets leave, too.
    pub(super) fn walk(&self, mut way: Way) -> Result<(Way, String), Broken> {
        let drifts = self.drifts()?;
        let local = &self.ours.local;
        let mine = |drift: &&Drift| drift.network.as_ref().is_none_or(|name| *name == local.name);
        let mut devices = drifts.iter().filter(mine).filter(|drift| drift.subject.is_of_all_peers());
        if let Some(drift) = devices.next() {
            return Err(way.broken("device", drift.what.clone(), self.ground.mend()));
        }
        way.sound("device", format!("{}, mtu {}", local.vxlan, local.mtu.get()));
        for (name, subject, found) in self.steps() {
            let broken = drifts.iter().filter(mine).find(|drift| Some(drift.subject) == subject);
            if let Some(drift) = broken {
                return Err(way.broken(name, drift.what.clone(), self.ground.mend()));
            }
            if name == "route"
                && let Some(other) = self.elsewhere()?
            {
                return Err(way.broken(name, other, format!("ip route show to match {}", self.address)));
            }
            way.sound(name, found);
        }
        self.underlay(way)
    }

    fn drifts(&self) -> Result<Vec<Drift>, Refusal> {
        Reconciler::new(&self.ground.root).verify(&self.ground.desired).map_err(|error| {
            let hint = error.hint();
            Refusal { hint, ..failed(&Trouble { network: None, error }) }
        })
    }

    /// Returns the links inside the network: their names, what a difference of each is about, and what is found if all is well.
    fn steps(&self) -> [(&'static str, Option<Subject>, String); 3] {
        let (peer, vxlan) = (self.peer, &self.ours.local.vxlan);
        let next = peer.next_hop(self.part.is_ipv4());
        let hop = next.map(|hop| hop.to_string()).unwrap_or_default();
        let (route, fdb) = (Subject::Route(self.part), Subject::Forwarding(peer.mac));
        [
            ("route", Some(route), format!("{} via {hop} dev {vxlan}", self.part)),
            ("neighbour", next.map(Subject::Neighbour), format!("{hop} is at {}", peer.mac)),
            ("fdb", Some(fdb), format!("{} is behind {}", peer.mac, peer.outer)),
        ]
    }

    /// Returns where packets to the address go, if that is not the network's device.
    fn elsewhere(&self) -> Result<Option<String>, Refusal> {
        let local = &self.ours.local;
        let look = || -> Result<Option<String>, weft_netlink::Error> {
            let mut socket = Socket::open()?;
            let Some(path) = route::get(&mut socket, self.address)? else {
                return Ok(Some(format!("packets to {} go nowhere: another route takes them", self.address)));
            };
            let by = socket.link(link::get_index(path.index))?.map(|link| link.name).unwrap_or_default();
            Ok((by != local.vxlan.as_str()).then(|| format!("packets to {} leave by {by}", self.address)))
        };
        match kernel::home(local, &self.ground.root, false).map_err(|error| failed(&error))? {
            Some(home) => home.run(look).map_err(|error| failed(&error))?.map_err(|error| failed(&error)),
            None => look().map_err(|error| failed(&error)),
        }
    }

    /// Looks whether outer packets have a way: those of an encrypted network into the mesh, and nowhere else.
    fn underlay(&self, mut way: Way) -> Result<(Way, String), Broken> {
        let outer = self.peer.outer;
        let found = Socket::open().and_then(|mut socket| {
            let Some(path) = route::get(&mut socket, outer)? else { return Ok(None) };
            Ok(socket.link(link::get_index(path.index))?.map(|link| link.name))
        });
        let secure = self.ours.local.secure;
        let name = if secure { "mesh" } else { "underlay" };
        let look = format!("ip route get {outer}");
        // The mesh is the agent's to mend, the underlay is not.
        let mend = if secure { self.ground.mend().to_owned() } else { look.clone() };
        match found {
            Ok(Some(by)) if secure && !by.starts_with(MESH_LINKS) => {
                Err(way.broken(name, format!("{outer} by {by}, which is no device of the mesh"), look))
            }
            Ok(Some(by)) => {
                way.sound(name, format!("{outer} by {by}"));
                Ok((way, by))
            }
            Ok(None) => Err(way.broken(name, format!("no route to {outer}"), mend)),
            Err(error) => Err(way.broken(name, format!("{outer}: {error}"), look)),
        }
    }
}

fn failed(error: &dyn Display) -> Refusal {
    Refusal::new(Kind::Failed, error.to_string())
}
