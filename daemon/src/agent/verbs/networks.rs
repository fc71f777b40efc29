//! Networks of the cluster: made, removed, and given addresses to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde_json::Value;
use weft_manager::overlay::protocol::{Made, NewNetwork, Refusal};
use weft_manager::{Kind, pools};
use weft_model::{Mtu, NetworkName};
use weft_overlay::blocks::Taken;
use weft_overlay::records::{AUTO, BlockState, Borrow, Egress, Encryption, FASTPATH, Network, Pool};
use weft_overlay::{HostId, NetworkId, Snapshot, Vni};
use weft_store::claims::{self, ClaimError};

use crate::agent::agent::Agent;
use crate::agent::known::Inner;
use crate::agent::socket::Reply;
use crate::agent::{blocks, claim, lending, status};

/// How long a network may take until it is to be had on this host.
const LIMIT: Duration = Duration::from_secs(20);
/// How often another subnet is chosen, and how soon, when another host was faster.
const ATTEMPTS: u32 = 20;
const AGAIN: Duration = Duration::from_millis(100);
/// How long another host may take to say whether it lends an address.
const ANSWER: Duration = Duration::from_secs(10);

/// Creates a network on all hosts. When this returns, this host has it.
pub(crate) async fn create(agent: &Rc<Agent>, new: NewNetwork, reply: &Reply) -> Result<Made, Refusal> {
    let name: NetworkName = new.name.parse().map_err(|error| {
        Refusal::new(Kind::Usage, format!("invalid network name {:?}: {error}", new.name))
    })?;
    let (membership, _) = agent.at_home()?;
    let mut record = agent.with(|inner| described(&inner.snapshot, &new, name.clone()))?;
    reply.progress(format!("creating network {name} in cluster {}", membership.cluster));
    let mut attempt = 0;
    let network = loop {
        match claim::network(agent, &record).await? {
            Ok(network) => break network,
            // Somebody else was faster with the subnet that was chosen here: it will be heard of.
            Err(ClaimError::Taken(Taken::Overlap { .. }))
                if record.subnets.len() > new.subnets.len() && attempt < ATTEMPTS =>
            {
                attempt += 1;
                tokio::time::sleep(AGAIN).await;
                record = agent.with(|inner| described(&inner.snapshot, &new, name.clone()))?;
            }
            Err(error) => return Err(claim::refused(&error)),
        }
    };
    reply.progress(format!("network {name} has vni {}; waiting until it is to be had here", network.vni));
    let id = network.id;
    let path = agent.root.networks_dir().join(format!("{name}.conflist"));
    let there = || {
        blocks::look(agent);
        let refused = agent.with(|inner| inner.refused(id).cloned());
        let why = |why| Err(Refusal::new(Kind::Conflict, why).hint(format!("weft network rm {name}")));
        refused.map(why).or_else(|| path.exists().then_some(Ok(())))
    };
    match agent.wait_for(&format!("network {name} on this host"), LIMIT, there).await {
        Ok(Ok(())) => Ok(Made { network: name.to_string() }),
        Ok(Err(refusal)) => {
            // It was made for whoever asked, and they cannot have it.
            claim::remove(agent, &network).await?;
            Err(Refusal { hint: None, ..refusal })
        }
        Err(refusal) => Err(refusal),
    }
}

/// Returns a network as it is asked for, with subnets of the cluster's pools where none are given.
fn described(
    snapshot: &Snapshot,
    new: &NewNetwork,
    name: NetworkName,
) -> Result<claims::NewNetwork, Refusal> {
    let cluster =
        snapshot.cluster().ok_or_else(|| Refusal::new(Kind::Failed, "the cluster is not known yet"))?;
    let flag = |key: &str| switch(new, key);
    let mut subnets = new.subnets.clone();
    for (v4, wanted) in [(true, new.ipv4), (false, new.ipv6)] {
        if wanted && !subnets.iter().any(|subnet| subnet.is_ipv4() == v4) {
            subnets.push(free(snapshot, &cluster.pools, &new.avoid, v4)?);
        }
    }
    subnets.sort_by_key(IpNetwork::is_ipv6);
    let isolated = flag("isolated")?;
    let encryption = if flag("encrypted")? { Encryption::Wireguard } else { Encryption::None };
    match new.options.get(FASTPATH).map(String::as_str) {
        None | Some("false") => {}
        Some("" | "true") => can_lead_past(encryption)?,
        Some(AUTO) => not_encrypted(encryption, AUTO)?,
        Some(other) => return Err(value(FASTPATH, other, "auto, true or false")),
    }
    let egress = match (new.internal, new.options.get("egress").map(String::as_str)) {
        (true, _) | (_, Some("none")) => Egress::None,
        // What others may have, too, is nowhere that it could be routed to.
        (_, Some("routed")) if isolated => {
            return Err(value("egress", "routed", "nat or none, for it is isolated"));
        }
        (_, Some("routed")) => Egress::Routed,
        (_, Some("nat")) => Egress::Nat,
        (_, None) => Egress::of(isolated),
        (_, Some(other)) => return Err(value("egress", other, "nat, routed or none")),
    };
    let mtu = new.options.get("mtu").map(|text| {
        let number = text.parse::<i64>().ok().and_then(|mtu| Mtu::try_from(mtu).ok());
        number.ok_or_else(|| value("mtu", text, "a number of bytes"))
    });
    Ok(claims::NewNetwork {
        id: NetworkId::random(),
        name,
        vni: wanted_vni(new)?,
        subnets,
        encryption,
        isolated,
        egress,
        mtu: mtu.transpose()?,
        labels: new.labels.clone(),
        options: with_defaults(new, encryption),
    })
}

/// Refuses the fast path where it could not be had at all, or would be of no use.
fn can_lead_past(encryption: Encryption) -> Result<(), Refusal> {
    not_encrypted(encryption, "true")?;
    weft_overlay::kernel::possible_shortcuts().map_err(|error| {
        Refusal::new(Kind::Failed, format!("option {FASTPATH}: {error}"))
            .hint("leave it out, or use a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS")
    })
}

/// What a network has that nobody has said anything about it: the option is in its record, so that networks of before stay as they were made.
fn with_defaults(new: &NewNetwork, encryption: Encryption) -> BTreeMap<String, String> {
    let mut options = new.options.clone();
    if encryption == Encryption::None {
        options.entry(FASTPATH.into()).or_insert_with(|| AUTO.into());
    }
    options
}

fn not_encrypted(encryption: Encryption, given: &str) -> Result<(), Refusal> {
    let why = "false, for it is encrypted, which costs many times as much";
    if encryption == Encryption::None { Ok(()) } else { Err(value(FASTPATH, given, why)) }
}

fn wanted_vni(new: &NewNetwork) -> Result<Option<Vni>, Refusal> {
    let parse = |text: &String| {
        let number = text.parse::<u32>().ok().and_then(|number| Vni::try_from(number).ok());
        number.ok_or_else(|| value("vni", text, "a number from 1 to 16777215"))
    };
    new.options.get("vni").map(parse).transpose()
}

/// DOCKER: `-o encrypted` alone says yes.
fn switch(new: &NewNetwork, key: &str) -> Result<bool, Refusal> {
    match new.options.get(key).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(value(key, other, "true or false")),
    }
}

fn value(key: &str, given: &str, expected: &str) -> Refusal {
    let why = format!("option {key}: {given:?} is given where {expected} is expected");
    Refusal::new(Kind::Usage, why).hint("weft plugin describe overlay")
}

fn free(snapshot: &Snapshot, pools: &[Pool], avoid: &[IpNetwork], v4: bool) -> Result<IpNetwork, Refusal> {
    let pools: Vec<pools::Pool> =
        pools.iter().map(|pool| pools::Pool { base: pool.base, size: pool.size }).collect();
    let networks = snapshot.networks().flat_map(|network| network.subnets.iter().copied());
    let underlays = snapshot.hosts().flat_map(|host| host.underlay.addresses()).map(IpNetwork::from);
    let taken: pools::Taken = networks.chain(underlays).chain(avoid.iter().copied()).collect();
    taken.first_free(&pools, v4).ok_or_else(|| {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let why = format!("no {family} subnet of the cluster's pools is free");
        Refusal::new(Kind::Failed, why).hint("give a --subnet")
    })
}

/// Removes a network from all hosts.
pub(crate) async fn remove(
    agent: &Rc<Agent>,
    name: &str,
    force: bool,
    reply: &Reply,
) -> Result<Value, Refusal> {
    let (membership, _) = agent.at_home()?;
    let network = find(agent, name)?;
    if let Some(record) = agent.manager.connected_to(&network.name).first() {
        let why =
            format!("container {} is connected to network {name} on this host", record.endpoint.container);
        return Err(Refusal::new(Kind::Conflict, why).hint("weft ps"));
    }
    if force {
        claim::remove(agent, &network).await?;
    } else {
        agent.with(|inner| unused(&inner.snapshot, &network, membership.host))?;
        reply.progress(format!("asking all hosts to let go of network {name}"));
        let lease = claim::announce_removal(agent, &network).await?;
        let removed = let_go_by_all(agent, &network, membership.host).await;
        if removed.is_err() {
            claim::call_off(agent, lease).await;
        }
        removed?;
    }
    reply.progress(format!("network {name} is removed from the cluster; waiting until it is gone here"));
    let path = agent.root.networks_dir().join(format!("{name}.conflist"));
    let gone = || (!path.exists()).then_some(());
    agent.wait_for(&format!("the end of network {name} on this host"), LIMIT, gone).await?;
    Ok(Value::Null)
}

/// Waits until no host takes part in a network any more, and removes it; refuses as soon as one cannot let go.
async fn let_go_by_all(agent: &Rc<Agent>, network: &Network, own: HostId) -> Result<(), Refusal> {
    let let_go = || {
        let here = agent.manager.connected_to(&network.name);
        if let Some(record) = here.first() {
            let container = &record.endpoint.container;
            let why = format!("container {container} is connected to network {} on this host", network.name);
            return Some(Err(Refusal::new(Kind::Conflict, why).hint("weft ps")));
        }
        agent.with(|inner| {
            let used = unused(&inner.snapshot, network, own).err();
            let members = inner.snapshot.members_of(network.id).count();
            used.map(Err).or((members == 0).then_some(Ok(())))
        })
    };
    agent.wait_for(&format!("all hosts to let go of network {}", network.name), LIMIT, let_go).await??;
    claim::finish_removal(agent, network).await
}

/// Refuses when another host has containers on a network, or cannot be asked.
fn unused(snapshot: &Snapshot, network: &Network, own: HostId) -> Result<(), Refusal> {
    for member in snapshot.members_of(network.id).filter(|member| member.host != own) {
        let host = snapshot.host(member.host).map_or_else(|| member.host.short(), |host| host.name.clone());
        let name = &network.name;
        match snapshot.alive(member.host).map(|alive| alive.used_of(network.id)) {
            Some(0) => {}
            Some(count) => {
                let why = format!("network {name} is in use: {count} addresses on host {host}");
                return Err(Refusal::new(Kind::Conflict, why).hint(format!("weft ps, on {host}")));
            }
            None => {
                let why = format!("host {host} is not heard of, and may have containers on network {name}");
                let hint = format!(
                    "weft network rm -f {name}, or weft overlay forget {host} if it will not come back"
                );
                return Err(Refusal::new(Kind::Conflict, why).hint(hint));
            }
        }
    }
    Ok(())
}

/// Sees to it that this host may give out single addresses of a network.
pub(crate) async fn borrow(
    agent: &Rc<Agent>,
    name: &str,
    addresses: &[IpAddr],
    container: &str,
) -> Result<Value, Refusal> {
    let network = find(agent, name)?;
    let (membership, _) = agent.at_home()?;
    blocks::keep(agent, network.id, addresses, LIMIT).await?;
    for address in addresses {
        if let Some(asked) = claim::borrow(agent, &network, *address, container).await? {
            lent(agent, &network, &asked).await?;
        }
    }
    let path = agent.root.networks_dir().join(format!("{name}.conflist"));
    let has = |address: &IpAddr| {
        let known = agent.with(|inner| status::own_blocks(&inner.snapshot, network.id, membership.host));
        known.iter().any(|block| block.contains(*address))
    };
    let made = || {
        let local = agent.with(|inner| inner.made.get(&network.id).map(|made| made.local.borrowed.clone()));
        let listed = |address: &IpAddr| local.as_ref().is_some_and(|local| local.contains(address));
        let all = addresses
            .iter()
            .all(|address| has(address) && (listed(address) || in_block(agent, network.id, *address)));
        (all && path.exists()).then_some(())
    };
    agent.wait_for(&format!("addresses of network {name}"), LIMIT, made).await?;
    Ok(Value::Null)
}

/// Waits until the host whose block an address is in has answered. If it does not, the question is taken back.
async fn lent(agent: &Rc<Agent>, network: &Network, asked: &Borrow) -> Result<(), Refusal> {
    let address = asked.address;
    let owner = agent.with(|inner| {
        let mut blocks = inner.snapshot.blocks_of(network.id);
        let around = blocks.find(|block| block.cidr.contains(address) && block.state == BlockState::Active);
        around.and_then(|block| inner.snapshot.host(block.host)).map(|host| host.name.clone())
    });
    let owner = owner.unwrap_or_else(|| "its host".into());
    let answer = || agent.with(|inner| lending::answered(inner.snapshot.borrow(network.id, address), asked));
    let answered = agent.wait_for(&format!("host {owner} to lend {address}"), ANSWER, answer).await;
    let refusal = match answered {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => Refusal::new(Kind::Conflict, format!("host {owner} does not lend {address}: {why}"))
            .hint(format!("weft ps, on {owner}")),
        Err(late) => late,
    };
    claim::give_back(agent, network, address).await.ok();
    Err(refusal)
}

/// Returns whether an address is in a block that this host's plugins know of.
fn in_block(agent: &Agent, network: NetworkId, address: IpAddr) -> bool {
    let blocks = agent.with(|inner| inner.made.get(&network).map(|made| made.local.blocks.clone()));
    blocks.is_some_and(|blocks| blocks.iter().any(|block| block.cidr.contains(address)))
}

/// Sees to it that this host has addresses of a network to give out, and returns when its plugins know of them.
pub(crate) async fn need_block(agent: &Rc<Agent>, name: &str) -> Result<Value, Refusal> {
    let network = find(agent, name)?;
    let silent = agent.with(|inner| match inner.hearing.connected {
        true => None,
        false => Some(inner.hearing.error.clone().unwrap_or_else(|| "the store was not asked yet".into())),
    });
    if let Some(why) = silent {
        let why = format!("no block of network {name}: {why}");
        let hint = "this host gets another block when the store answers: weft overlay status";
        return Err(Refusal::new(Kind::Failed, why).hint(hint));
    }
    blocks::hurry(agent, network.id);
    let room = || {
        let room = agent.change(|inner| inner.has_room(&network))?;
        let why = |why| Refusal::new(Kind::Failed, why);
        room.map_err(why).map(|()| agent.with(|inner| knows_all(inner, &network)).then_some(())).transpose()
    };
    agent.wait_for(&format!("another block of network {name}"), LIMIT, room).await?.map(|()| Value::Null)
}

/// Returns whether this host's plugins know of all its blocks.
fn knows_all(inner: &Inner, network: &Network) -> bool {
    let Some(own) = inner.membership.as_ref().map(|membership| membership.host) else { return false };
    let made = inner.made.get(&network.id).map(|made| made.local.blocks.as_slice()).unwrap_or_default();
    let blocks = inner.snapshot.blocks_of(network.id);
    let mut own = blocks.filter(|block| block.host == own && block.state == BlockState::Active);
    own.all(|block| made.iter().any(|known| known.cidr == block.cidr))
}

fn find(agent: &Agent, name: &str) -> Result<Network, Refusal> {
    let missing =
        || Refusal::new(Kind::NotFound, format!("the cluster has no network {name}")).hint("weft network ls");
    let parsed: NetworkName = name.parse().map_err(|_| missing())?;
    agent.with(|inner| inner.snapshot.network_named(&parsed).cloned()).ok_or_else(missing)
}
