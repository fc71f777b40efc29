//! Routes.

use weft_netlink::Error;
use weft_netlink::route::{self, RouteInfo, RouteKind};

use super::{Ensure, Meaning};
use crate::journal::Undo;
use crate::{ApplyError, Blackhole, Cause, Rivals, Route, Step};

impl<'a> Ensure<'a> {
    pub(super) fn route(&mut self, step: &'a Step, route: &'a Route) -> Result<(), ApplyError> {
        let index = self.index(step, step.place, &route.dev)?;
        let wanted = info(route, index);
        let request = route::add(&wanted, route.rivals == Rivals::Join);
        self.queue(step, request, Meaning::Route { wanted, rivals: route.rivals })
    }

    pub(super) fn blackhole(&mut self, step: &'a Step, hole: &Blackhole) -> Result<(), ApplyError> {
        let route = blackhole(hole);
        let undo = Undo::DeleteRoute { place: step.place, route };
        self.queue(step, route::add(&route, false), Meaning::MadeOrThere(undo))
    }

    pub(super) fn route_answered(
        &mut self,
        step: &Step,
        wanted: &RouteInfo,
        rivals: Rivals,
        refused: Option<Error>,
    ) -> Result<(), Cause> {
        match refused {
            None => {
                self.note(step, Undo::DeleteRoute { place: step.place, route: *wanted });
                Ok(())
            }
            Some(error) if error.is_exists() => {
                let found = route::of_link(self.kernel.socket(step.place)?, wanted.table, wanted.index)?;
                match rivals {
                    _ if found.iter().any(|one| wanted.is_met_by(one)) => Ok(()),
                    Rivals::Replace => self.replace_route(step, wanted),
                    _ => Err(error.into()),
                }
            }
            Some(error) => Err(error.into()),
        }
    }

    /// Takes the place of another route. It comes back if this is undone.
    fn replace_route(&mut self, step: &Step, wanted: &RouteInfo) -> Result<(), Cause> {
        let socket = self.kernel.socket(step.place)?;
        let others = route::of_table(socket, wanted.table)?;
        socket.request(route::replace(wanted))?;
        for other in others.into_iter().filter(|other| wanted.is_rival_of(other)) {
            self.note(step, Undo::AddRoute { place: step.place, route: other });
        }
        self.note(step, Undo::DeleteRoute { place: step.place, route: *wanted });
        Ok(())
    }
}

/// Returns the kernel's view of a route that leaves by the link `index`.
pub(crate) fn info(route: &Route, index: u32) -> RouteInfo {
    // As `ip route add` chooses: what has no next hop is on the link.
    let scope = if route.gateway.is_some() { 0 } else { route::SCOPE_LINK };
    RouteInfo {
        dst: route.dst,
        gateway: route.gateway,
        src: route.src,
        index,
        metric: route.metric,
        // CNI: 0 is what a Go program prints for a table that nobody chose; the kernel reads it so, too.
        table: route.table.filter(|table| *table != 0).unwrap_or(route::MAIN),
        scope: route.scope.unwrap_or(scope),
        mtu: route.mtu,
        mtu_locked: false,
        advmss: route.advmss,
        kind: RouteKind::Unicast,
        protocol: route::BY_HAND,
        onlink: false,
    }
}

/// Returns the kernel's view of a black hole.
pub(crate) fn blackhole(hole: &Blackhole) -> RouteInfo {
    RouteInfo {
        dst: hole.dst,
        gateway: None,
        src: None,
        index: 0,
        metric: Some(hole.metric),
        table: route::MAIN,
        scope: 0,
        mtu: None,
        mtu_locked: false,
        advmss: None,
        kind: RouteKind::Blackhole,
        protocol: hole.protocol,
        onlink: false,
    }
}
