//! Ports follow the default route.
//!
//! DOCKER: a container's ports are programmed on the endpoint that provides its default gateway, and move with it.
//!
//! INVARIANT: before ports are taken from an attachment to be published at another one, the books say that they are
//! on their way ([`Books::set_out`](weft_state::ports::Books::set_out)). Whoever looks at the container next publishes
//! what has not arrived.

use weft_model::ContainerId;
use weft_model::port::Publication;
use weft_state::attachment::Record;
use weft_state::ports::{Asked, Moving};

use super::mapping::of_asked;
use super::way::Ways;
use crate::locks::Mine;
use crate::namespace::identity;
use crate::{Error, Manager};

impl Manager {
    /// Moves a container's ports to where its packets go out now. Returns what did not work, which leaves the ports
    /// where they were.
    pub(crate) fn follow(&self, mine: &Mine, live: &[Record]) -> Vec<String> {
        let ways = Ways::of(live);
        let mut warnings = Vec::new();
        for from in live {
            let known = self.asked_at(&from.endpoint);
            for to in ways.each().map(|way| &live[way]).filter(|to| to.endpoint != from.endpoint) {
                let belongs = |one: &&Asked| {
                    ways.of_publication(&one.publication).is_some_and(|way| live[way].endpoint == to.endpoint)
                };
                let belonging: Vec<_> = known.iter().filter(belongs).cloned().collect();
                if belonging.is_empty() {
                    continue;
                }
                let stay = |error| {
                    let (container, network) = (mine.container(), &from.endpoint.network);
                    format!("{error}; ports of {container} stay on network {network}")
                };
                let (moving, refused) = self.welcome(to, belonging);
                warnings.extend(refused.into_iter().map(stay));
                if moving.is_empty() {
                    continue;
                }
                warnings.extend(self.move_ports(mine, from, to, &moving).err().map(stay));
            }
        }
        warnings
    }

    fn move_ports(&self, mine: &Mine, from: &Record, to: &Record, moving: &[Asked]) -> Result<(), Error> {
        let _network = self.locks.shared(&from.endpoint.network)?;
        let known = self.asked_at(&from.endpoint);
        let staying: Vec<_> = known.iter().filter(|one| !moving.contains(one)).cloned().collect();
        self.books.set_out(mine.container(), moving)?;
        // Two attachments cannot have the same port at once.
        let moved = self.have(mine, from, of_asked(&staying)).and_then(|()| self.settle(mine, to, moving));
        if moved.is_err() {
            // What it cannot put back is still noted; the first error tells more.
            self.have(mine, from, of_asked(&known)).ok();
        }
        self.note_arrivals(mine, &[from, to])?;
        moved
    }

    /// Publishes what is on its way within a container where its packets go out now. Returns what did not work, which
    /// stays noted. A container that is connected to nothing has lost its ports with everything else.
    pub(crate) fn finish_moving(&self, mine: &Mine, live: &[Record]) -> Result<Vec<String>, Error> {
        let live: Vec<&Record> = live.iter().collect();
        if self.note_arrivals(mine, &live)?.is_empty() {
            return Ok(Vec::new());
        }
        let moving = self.books.moving(mine.container())?;
        let live: Vec<Record> = live.into_iter().cloned().collect();
        let warnings = self.resettle(mine, &live, &moving);
        self.note_arrivals(mine, &live.iter().collect::<Vec<_>>())?;
        Ok(warnings)
    }

    /// Strikes from what is on its way what these attachments publish. Returns the rest.
    fn note_arrivals(&self, mine: &Mine, live: &[&Record]) -> Result<Vec<Asked>, Error> {
        let mut moving = self.books.moving(mine.container())?;
        if moving.is_empty() {
            return Ok(moving);
        }
        let there: Vec<Publication> =
            live.iter().flat_map(|record| self.published_at(&record.endpoint)).collect();
        let count = moving.len();
        moving.retain(|one| !live.is_empty() && !there.iter().any(|other| one.is_met_by(other)));
        if moving.len() != count {
            self.books.note_moving(mine.container(), moving.clone())?;
        }
        Ok(moving)
    }

    /// Publishes ports that stood at an attachment which is gone where the container's packets go out now. Returns
    /// what did not work.
    fn resettle(&self, mine: &Mine, live: &[Record], ports: &[Asked]) -> Vec<String> {
        let ways = Ways::of(live);
        let mut warnings = Vec::new();
        for way in ways.each() {
            let own = ports.iter().filter(|one| ways.of_publication(&one.publication) == Some(way));
            let own: Vec<_> = own.cloned().collect();
            let gone = |error| format!("{error}; ports of {} are not published any more", mine.container());
            let (own, refused) = self.welcome(&live[way], own);
            warnings.extend(refused.into_iter().map(gone));
            if !own.is_empty() {
                warnings.extend(self.settle(mine, &live[way], &own).err().map(gone));
            }
        }
        let stranded = ports.iter().map(|one| &one.publication);
        let stranded = stranded.filter(|one| ways.of_publication(one).is_none());
        let gone =
            |one| format!("{one} is not published any more: {} has no other way out", mine.container());
        warnings.extend(stranded.map(gone));
        warnings
    }

    /// Returns which ports an attachment's network can publish as they were asked for, and why not the others.
    fn welcome(&self, to: &Record, ports: Vec<Asked>) -> (Vec<Asked>, Vec<Error>) {
        let publisher = match self.publisher_at(&to.endpoint) {
            Ok(publisher) => publisher,
            Err(error) => return (Vec::new(), vec![error]),
        };
        let mut refused = Vec::new();
        let mut can = |one: &Asked| {
            let outcome = publisher.check_reach(one.publication.host, &one.publication);
            outcome.map_err(|error| refused.push(error)).is_ok()
        };
        let ports = ports.into_iter().filter(|one| can(one)).collect();
        (ports, refused)
    }

    /// Adds ports to what an attachment publishes.
    fn settle(&self, mine: &Mine, at: &Record, ports: &[Asked]) -> Result<(), Error> {
        let _network = self.locks.shared(&at.endpoint.network)?;
        let mut all = self.asked_at(&at.endpoint);
        let new = ports.iter().filter(|one| !all.iter().any(|other| one.is_met_by(&other.publication)));
        let new: Vec<_> = new.cloned().collect();
        all.extend(new);
        self.have(mine, at, of_asked(&all))
    }

    /// Returns the containers with ports on their way that nobody is just moving.
    pub(crate) fn stranded(&self) -> Result<Vec<Moving>, Error> {
        let mut all = self.books.all_moving()?;
        all.retain(|moving| !self.locks.is_busy(&moving.container));
        Ok(all)
    }

    /// Finishes what a process that was killed had begun to move within a container. Returns what did not work.
    pub(crate) fn mend_moving(&self, container: &ContainerId) -> Result<Vec<String>, Error> {
        let mine = self.locks.container(container)?;
        let records = self.records.of_container(container);
        let here = records.iter().find_map(|record| identity(record.netns.as_deref()?));
        let live = self.heal(&mine, here.as_ref())?;
        let warnings = self.finish_moving(&mine, &live);
        self.let_go(mine)?;
        warnings
    }
}
