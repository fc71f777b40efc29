//! What upstream's `portmap` has published for an attachment that is in no books.
//!
//! CNI: plugins/meta/portmap/portmap_iptables.go. The names of its chains know of no interface. Before version 0.7 a container
//! had a second chain:
//!
//! ```text
//! nat     CNI-HOSTPORT-SNAT -m comment --comment "snat name: \"blue\" id: \"red\"" -j CNI-SN-<21 hex digits>
//! ```

use std::path::Path;

use weft_model::Endpoint;
use weft_model::port::Publication;
use weft_nft::{self as nft, Socket};
use weft_state::ports::Books;

use super::rules::{UPSTREAMS_INTERFACE, chain_name, masquerading_chain_name};
use super::{keeps_localhost, retirement};
use crate::iptables::lock::Writer;
use crate::iptables::tool::{Table, Tool};
use crate::{Backend, Firewall, FirewallError, exact, inherited};

/// The chains that such an attachment may have.
pub(crate) struct Unknown {
    /// Where ports are translated: ours, if the books have been lost, and upstream's.
    translating: Vec<String>,
    /// Where connections from the host were masqueraded.
    masquerading: Option<String>,
}

impl Unknown {
    /// Returns which these are. Upstream's are left to a first interface that has them by the books.
    pub(crate) fn of(endpoint: &Endpoint, books: &Books) -> Self {
        let mut translating = vec![chain_name(endpoint)];
        let Ok(ifname) = UPSTREAMS_INTERFACE.parse() else { return Self { translating, masquerading: None } };
        let first = Endpoint { ifname, ..endpoint.clone() };
        let owner = books.owner(&first.container, &first.ifname);
        if owner.is_some_and(|owner| {
            owner.endpoint == first && Backend::named(&owner.backend) == Backend::Iptables
        }) {
            return Self { translating, masquerading: None };
        }
        if first != *endpoint {
            translating.push(chain_name(&first));
        }
        Self { translating, masquerading: Some(masquerading_chain_name(endpoint)) }
    }

    fn all(&self) -> Vec<&str> {
        self.translating.iter().chain(&self.masquerading).map(String::as_str).collect()
    }

    /// Returns the programs that may know any of them. Starts nothing.
    fn tools(&self, firewall: &mut Firewall) -> Vec<Tool> {
        let has_any = |socket: &mut Socket, table: nft::Table| {
            self.all().into_iter().any(|chain| socket.has_chain(table, chain).unwrap_or_default())
        };
        inherited::tools(firewall, has_any).into_iter().map(Tool::or_chosen).collect()
    }

    /// Takes them back. What the administrator has chosen is looked through in any case if the configuration `names` it.
    pub(crate) fn remove(
        &self,
        firewall: &mut Firewall,
        claims: &Path,
        names: bool,
    ) -> Result<(), FirewallError> {
        let mut tools = self.tools(firewall);
        if names {
            let chosen = Tool::usable().filter(|tool| tool.is_ready() && !tools.contains(tool));
            tools = chosen.chain(tools.iter().copied()).collect();
        }
        if tools.is_empty() {
            return Ok(());
        }
        let _writer = Writer::alone(claims)?;
        let keeps = keeps_localhost(claims)?;
        for tool in tools {
            tool.restore_all(&retirement(&tool.saved_all()?, &self.all(), keeps).as_tables())?;
        }
        Ok(())
    }

    /// Returns which publications have no rule there, if there is any such chain.
    pub(crate) fn observe(
        &self,
        firewall: &mut Firewall,
        publications: &[Publication],
    ) -> Result<Option<Vec<String>>, FirewallError> {
        let mut found = Vec::new();
        for tool in self.tools(firewall) {
            let there = tool.saved(Table::Nat)?;
            let chains = self.translating.iter().filter_map(|chain| there.chain(chain));
            found.extend(chains.map(|rules| (tool.is_v6(), rules.to_vec())));
        }
        if found.is_empty() {
            return Ok(None);
        }
        let is_there = |one: &Publication| {
            let own = found.iter().filter(|(is_v6, _)| *is_v6 == one.target.is_ipv6());
            own.flat_map(|(_, rules)| rules).any(|rule| translates(rule, one))
        };
        let chains = self.translating.join(" or ");
        let missing = publications.iter().flat_map(exact::singles).filter(|one| !is_there(one));
        Ok(Some(missing.map(|one| format!("publication {one} in chain {chains}")).collect()))
    }
}

/// Whether a rule of upstream's leads a port to where it should.
fn translates(rule: &str, one: &Publication) -> bool {
    let Publication { protocol, host, host_ports, target, target_ports, .. } = one;
    let to = std::net::SocketAddr::new(*target, target_ports.first());
    rule.contains(&format!(" -p {protocol} "))
        && rule.contains(&format!(" --dport {} ", host_ports.first()))
        && (host.is_unspecified() || rule.contains(&format!(" -d {host}/")))
        && rule.ends_with(&format!(" -j DNAT --to-destination {to}"))
}
