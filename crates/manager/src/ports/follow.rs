//! Ports follow the default route.
//!
//! DOCKER: a container's ports are programmed on the endpoint that provides its default gateway, and move with it.

use weft_model::port::Publication;
use weft_state::attachment::Record;

use super::mapping::of_publications;
use super::way::Ways;
use crate::locks::Mine;
use crate::{Error, Manager};

impl Manager {
    /// Moves a container's ports to where its packets go out now. Returns what did not work, which leaves the ports
    /// where they were.
    pub(crate) fn follow(&self, mine: &Mine, live: &[Record]) -> Vec<String> {
        let ways = Ways::of(live);
        let mut warnings = Vec::new();
        for from in live {
            let known = self.published_at(&from.endpoint);
            for to in ways.each().map(|way| &live[way]).filter(|to| to.endpoint != from.endpoint) {
                let belongs = |one: &&Publication| {
                    ways.of_publication(one).is_some_and(|way| live[way].endpoint == to.endpoint)
                };
                let moving: Vec<_> = known.iter().filter(belongs).cloned().collect();
                if moving.is_empty() {
                    continue;
                }
                let stay = |error| {
                    let (container, network) = (mine.container(), &from.endpoint.network);
                    format!("{error}; ports of {container} stay on network {network}")
                };
                warnings.extend(self.move_ports(mine, from, to, &moving).err().map(stay));
            }
        }
        warnings
    }

    fn move_ports(
        &self,
        mine: &Mine,
        from: &Record,
        to: &Record,
        moving: &[Publication],
    ) -> Result<(), Error> {
        self.publisher_at(&to.endpoint)?;
        let _network = self.locks.shared(&from.endpoint.network)?;
        let known = self.published_at(&from.endpoint);
        let staying: Vec<_> = known.iter().filter(|one| !moving.contains(one)).cloned().collect();
        // Two attachments cannot have the same port at once.
        self.have(mine, from, of_publications(&staying))?;
        self.settle(mine, to, moving).inspect_err(|_| {
            self.have(mine, from, of_publications(&known)).ok();
        })
    }

    /// Publishes ports that stood at an attachment which is gone where the container's packets go out now. Returns
    /// what did not work. A container that is connected to nothing has lost its ports with everything else.
    pub(crate) fn resettle(&self, mine: &Mine, live: &[Record], ports: &[Publication]) -> Vec<String> {
        let ways = Ways::of(live);
        let mut warnings = Vec::new();
        for way in ways.each() {
            let own = ports.iter().filter(|one| ways.of_publication(one) == Some(way));
            let own: Vec<_> = own.cloned().collect();
            if !own.is_empty() {
                let gone =
                    |error| format!("{error}; ports of {} are not published any more", mine.container());
                warnings.extend(self.settle(mine, &live[way], &own).err().map(gone));
            }
        }
        let stranded = ports.iter().filter(|one| !live.is_empty() && ways.of_publication(one).is_none());
        let gone =
            |one| format!("{one} is not published any more: {} has no other way out", mine.container());
        warnings.extend(stranded.map(gone));
        warnings
    }

    /// Adds ports to what an attachment publishes.
    fn settle(&self, mine: &Mine, at: &Record, ports: &[Publication]) -> Result<(), Error> {
        let _network = self.locks.shared(&at.endpoint.network)?;
        let all = [&self.published_at(&at.endpoint), ports].concat();
        self.have(mine, at, of_publications(&all))
    }
}
