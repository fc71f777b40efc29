//! How fast a container sends and receives: buckets, and the link that makes receiving a kind of sending.

use std::fmt;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_netlink::link::{self, LinkInfo};
use weft_netlink::tc::{self, End, Queue, Rate};
use weft_netlink::{Error, Request};

use crate::{Cause, Kernel, Place};

/// A part of shaping a link's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// An intermediate functional block with the MTU of another link. Without the other there is nothing to make.
    Ifb {
        /// Its name.
        name: IfName,
        /// The link whose packets it takes.
        of: Option<IfName>,
    },
    /// What a link sends passes a bucket.
    Shape(Shape),
    /// What a link receives is sent by another.
    Redirect {
        /// The link that receives.
        dev: IfName,
        /// The link that sends.
        to: IfName,
    },
}

/// A bucket at a link's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The link that sends.
    pub dev: IfName,
    /// How fast.
    pub rate: Rate,
    /// What passes the bucket.
    pub traffic: Share,
    /// Which end of a packet's way the subnets are about.
    pub end: End,
}

/// What passes a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Everything.
    #[default]
    All,
    /// What these subnets send or receive.
    Only(Vec<IpNetwork>),
    /// What they do not.
    Except(Vec<IpNetwork>),
}

impl Traffic {
    /// Returns the link that is worked on.
    fn dev(&self) -> &IfName {
        match self {
            Self::Ifb { name, .. } => name,
            Self::Shape(shape) => &shape.dev,
            Self::Redirect { dev, .. } => dev,
        }
    }
}

impl Shape {
    /// Returns what makes it so, each request with the option of a kernel that understands it.
    pub(crate) fn requests(&self, index: u32) -> Vec<(Request, &'static str)> {
        let (subnets, only) = match &self.traffic {
            Share::All => return vec![(tc::shape(index, &self.rate), "CONFIG_NET_SCH_TBF")],
            Share::Only(subnets) => (subnets, true),
            Share::Except(subnets) => (subnets, false),
        };
        // A queue and a class, then filters.
        let requests = tc::shape_some(index, &self.rate, subnets, only, self.end);
        let option = |place| if place < 2 { "CONFIG_NET_SCH_HTB" } else { "CONFIG_NET_CLS_U32" };
        requests.into_iter().enumerate().map(|(place, request)| (request, option(place))).collect()
    }

    fn subnets(&self) -> &[IpNetwork] {
        match &self.traffic {
            Share::All => &[],
            Share::Only(subnets) | Share::Except(subnets) => subnets,
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ifb { name, of: Some(of) } => write!(out, "link {name} type ifb for {of}"),
            Self::Ifb { name, of: None } => write!(out, "link {name} type ifb"),
            Self::Shape(shape) => shape.fmt(out),
            Self::Redirect { dev, to } => write!(out, "redirect what {dev} receives to {to}"),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { rate, burst, limit } = self.rate;
        write!(out, "shape {} rate {rate} burst {burst} limit {limit} bytes", self.dev)?;
        match &self.traffic {
            Share::All => return Ok(()),
            Share::Only(_) => out.write_str(", only")?,
            Share::Except(_) => out.write_str(", except")?,
        }
        out.write_str(if self.end == End::Source { " from" } else { " to" })?;
        self.subnets().iter().try_for_each(|subnet| write!(out, " {subnet}"))
    }
}

/// Returns whether there is nothing to take away. KERNEL: EINVAL for a qdisc that the link was born with.
pub(crate) fn is_bare(error: &Error) -> bool {
    error.is_missing() || error.errno() == Some(nix::errno::Errno::EINVAL)
}

impl Kernel {
    pub(crate) fn remove_traffic(&mut self, place: Place, traffic: &Traffic) -> Result<(), Cause> {
        if place == Place::Container && !self.has_container() {
            return Ok(());
        }
        let Some(link) = self.look(place, traffic.dev())? else { return Ok(()) };
        let request = match traffic {
            Traffic::Ifb { name, .. } if link.kind.as_deref() == Some("ifb") => {
                self.forget(place, name);
                link::delete_index(link.index)
            }
            // A link of that name which is none was never ours.
            Traffic::Ifb { .. } => return Ok(()),
            Traffic::Shape(_) if self.is_shaped(place, link.index)? => tc::unshape(link.index),
            Traffic::Redirect { to, .. } if self.is_redirected(place, link.index, to)? => {
                tc::ignore_received(link.index)
            }
            Traffic::Shape(_) | Traffic::Redirect { .. } => return Ok(()),
        };
        match self.socket(place)?.request(request) {
            Err(error) if !is_bare(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns whether a link sends by a bucket of ours, or of the reference plugin's.
    fn is_shaped(&mut self, place: Place, index: u32) -> Result<bool, Cause> {
        let queues = tc::queues(self.socket(place)?, index)?;
        let bucket = |queue: &Queue| matches!(queue.kind.as_str(), "tbf" | "htb") && queue.handle == 1 << 16;
        Ok(queues.iter().any(|queue| queue.is_root() && bucket(queue)))
    }

    /// Returns whether what a link receives goes to `to`, or to a link that has gone.
    fn is_redirected(&mut self, place: Place, index: u32, to: &IfName) -> Result<bool, Cause> {
        let target = self.look(place, to)?.map_or(0, |link| link.index);
        let targets = tc::redirections(self.socket(place)?, index)?;
        Ok(targets.iter().any(|one| *one == target || *one == 0))
    }

    /// CNI: the texts are those of the reference plugin.
    pub(crate) fn observe_traffic(
        &mut self,
        place: Place,
        wanted: &Traffic,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        if let Traffic::Ifb { name, .. } = wanted {
            let link = self.look(place, name)?;
            if link.is_none_or(|link| link.kind.as_deref() != Some("ifb")) {
                found.push(format!("get ifb device: {name} is not there"));
            }
            return Ok(());
        }
        let Some(link) = self.find(place, wanted.dev(), found)? else { return Ok(()) };
        match wanted {
            Traffic::Shape(shape) => self.observe_shape(place, shape, &link, found),
            Traffic::Redirect { dev, to } => {
                let target = self.look(place, to)?.map(|link| link.index);
                let targets = tc::redirections(self.socket(place)?, link.index)?;
                if !target.is_some_and(|target| targets.contains(&target)) {
                    found.push(format!("what {dev} receives does not go to {to}"));
                }
                Ok(())
            }
            Traffic::Ifb { .. } => Ok(()),
        }
    }

    fn observe_shape(
        &mut self,
        place: Place,
        wanted: &Shape,
        link: &LinkInfo,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let socket = self.socket(place)?;
        let (kind, all) =
            (if wanted.subnets().is_empty() { "tbf" } else { "htb" }, wanted.subnets().is_empty());
        let root = tc::queues(socket, link.index)?.into_iter().find(Queue::is_root);
        let mut queue = root.filter(|queue| queue.kind == kind);
        if queue.is_some() && !all {
            queue = tc::classes(socket, link.index)?.into_iter().find(|class| class.bucket.is_some());
        }
        let Some((rate, limit, buffer)) = queue.and_then(|queue| queue.bucket) else {
            found.push(format!("Failed to find qdisc on {}", wanted.dev));
            return Ok(());
        };
        let is = &wanted.rate;
        for (wrong, what) in [
            (rate != is.rate, "Rate"),
            (all && limit != is.limit, "Limit"),
            (buffer != is.buffer(), "Buffer"),
        ] {
            found.extend(wrong.then(|| format!("{what} doesn't match on {}", wanted.dev)));
        }
        if !all && tc::exceptions(self.socket(place)?, link.index)? != wanted.subnets().len() {
            found.push(format!("the subnets don't match on {}", wanted.dev));
        }
        Ok(())
    }

    /// Returns the name of the host's end of the pair whose other end is this link of the container.
    ///
    /// # Errors
    ///
    /// When there is no such link, it is no end of a pair, or the other is not in the host.
    pub fn other_end(&mut self, ifname: &IfName) -> Result<IfName, Cause> {
        let missing = || Cause::NoPeer { name: ifname.clone() };
        let inside = self.look(Place::Container, ifname)?.filter(LinkInfo::is_veth).ok_or_else(missing)?;
        let index = inside.peer.ok_or_else(missing)?;
        let outside = self.socket(Place::Host)?.link(link::get_index(index))?.filter(LinkInfo::is_veth);
        let outside = outside.filter(|link| link.peer == Some(inside.index));
        outside.and_then(|link| link.name.parse().ok()).ok_or(Cause::NotInHost { index })
    }
}
