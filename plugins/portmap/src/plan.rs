//! Plans: what publishing ports needs of the host.

use ipnetwork::IpNetwork;
use weft_firewall::{Conditions, Fragment, Hairpin, Localnet, Loopback, Publish};
use weft_model::{Endpoint, IfName};
use weft_plan::{Link, Plan};
use weft_plugin::Leases;

use crate::Settings;

/// Returns what one attachment publishes.
///
/// What the network shares is not taken back: an ADD that fails must not turn it off for others. A link that is the
/// container's own, as behind `ptp`, is shared with nobody.
pub(crate) fn attachment(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    if let Some(publish) = publish(settings, endpoint, leases) {
        plan.host(Fragment::Publish(Box::new(publish)));
    }
    // KERNEL: a packet from 127.0.0.1 leaves a host only by links that route loopback addresses
    // (ip_route_output_key_hash_rcu, fib_validate_source). Others' packets to 127.0.0.0/8 are dropped by the firewall, as
    // long as the link does.
    let own = endpoint.host_ifname();
    let known = |link: Option<&IfName>| if settings.dismantles { Some(own.clone()) } else { link.cloned() };
    let mut push = |link: &IfName, fragment: Fragment| {
        if *link == own {
            plan.host(fragment)
        } else {
            plan.network(fragment)
        };
    };
    if let Some(link) = known(settings.loopback_link.as_ref()) {
        push(&link, Fragment::Localnet(localnet(settings, Some(&link))));
    }
    if let Some(link) = known(settings.loopback6_link.as_ref()) {
        push(&link, Fragment::Loopback(loopback(settings, Some(&link))));
    }
    if let Some((name, port)) = &settings.hairpin_port {
        plan.network(Link::existing(name).port(port.clone()));
    }
    plan
}

/// Returns what all attachments of the network share.
pub(crate) fn network(settings: &Settings) -> Plan {
    let mut plan = Plan::new();
    plan.network(Fragment::Hairpin(Hairpin {
        network: settings.network.clone(),
        subnets: Vec::new(),
        backend: settings.rules.backend,
        claims: settings.folders.claims.clone(),
    }));
    plan.network(Fragment::Loopback(loopback(settings, None)));
    plan.network(Fragment::Localnet(localnet(settings, None)));
    plan
}

/// A link by which the host calls ports from `127.0.0.1`.
fn localnet(settings: &Settings, link: Option<&IfName>) -> Localnet {
    Localnet {
        network: settings.network.clone(),
        link: link.cloned(),
        backend: settings.rules.backend,
        claims: settings.folders.claims.clone(),
    }
}

/// Packets to the host's `::1` that come in by a link are answers to its own.
fn loopback(settings: &Settings, link: Option<&IfName>) -> Loopback {
    Loopback {
        network: settings.network.clone(),
        link: link.cloned(),
        backend: settings.rules.backend,
        claims: settings.folders.claims.clone(),
    }
}

/// Returns nothing for an attachment that nobody asked to publish anything for, and never had.
fn publish(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Option<Publish> {
    let (rules, folders) = (&settings.rules, settings.folders.clone());
    if settings.is_idle {
        return None;
    }
    Some(Publish {
        publications: settings.wanted.publications.clone(),
        choices: settings.wanted.choices.clone(),
        open: settings.wanted.open.clone(),
        occupied: settings.occupied.clone(),
        addresses: leases.addresses().iter().map(IpNetwork::ip).collect(),
        subnets: settings.subnets.clone(),
        snat: rules.snat,
        masquerade_all: rules.masquerade_all,
        gateways: rules.gateways,
        conditions: Conditions { v4: rules.conditions_v4.clone(), v6: rules.conditions_v6.clone() },
        mark: rules.mark.clone(),
        ..Publish::nothing(endpoint.clone(), rules.backend, folders.ports, folders.locks, folders.claims)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_cni::NetConf;
    use weft_plugin::{Call, Linked, Verb};
    use weft_state::Root;
    use weft_state::ports::{Books, Owner};

    use super::*;

    /// The plan of an ADD for a container with both families, as far as it does not depend on the host.
    fn plan(verb: Verb, portmap: Value) -> String {
        let dir = tempfile::tempdir().unwrap();
        plan_at(&Root::new(Some(dir.path().into())), verb, portmap)
    }

    fn red() -> Endpoint {
        Endpoint {
            network: "n1".parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn plan_at(root: &Root, verb: Verb, portmap: Value) -> String {
        let mut conf = portmap;
        conf["cniVersion"] = "1.1.0".into();
        conf["name"] = "n1".into();
        conf["prevResult"] = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/run/netns/red"}],
            "ips": [
                {"address": "10.1.0.2/24", "interface": 1},
                {"address": "fd00::2/64", "interface": 1},
            ],
        });
        let stdin = conf.to_string().into_bytes();
        let call = Call {
            verb,
            conf: NetConf::parse(&stdin).unwrap(),
            stdin,
            paths: Vec::new(),
            root: root.clone(),
            args: String::new(),
            linked: Linked::default(),
        };
        let endpoint = red();
        let mut settings = Settings::of(&call).unwrap();
        if verb == Verb::Check {
            settings.fit(&endpoint).unwrap();
            let port = weft_plan::Port { hairpin: true, ..weft_plan::Port::of(&"br0".parse().unwrap()) };
            settings.loopback_link = (!settings.is_idle).then(|| "br0".parse().unwrap());
            settings.loopback6_link.clone_from(&settings.loopback_link);
            settings.hairpin_port = (!settings.is_idle).then(|| ("veth0".parse().unwrap(), port));
        }
        let mut plan = attachment(&settings, &endpoint, &Leases::default());
        if verb == Verb::Gc {
            plan.extend(network(&settings).steps);
        }
        plan.to_string()
    }

    #[test]
    fn ports_are_published_and_then_the_loopback_route_opened() {
        let conf = json!({"backend": "weft", "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 5000, "containerPort": 53, "protocol": "udp", "hostIP": "::1"},
            {"containerPort": 443, "choose": true},
        ]}});
        insta::assert_snapshot!(plan(Verb::Check, conf), @r"
        host       publish tcp 0.0.0.0:8080 -> 10.1.0.2:80, tcp [::]:8080 -> [fd00::2]:80, udp [::1]:5000 -> [fd00::2]:53, tcp any free port on 0.0.0.0 -> 10.1.0.2 port 443 and on :: -> fd00::2 port 443 for eth0 of red on n1 by weft
        network    calls from 127.0.0.1 by br0 of n1 by weft
        network    answers to ::1 by br0 of n1
        network    link veth0 master br0 hairpin
        ");
    }

    #[test]
    fn what_is_taken_apart_is_in_the_books() {
        insta::assert_snapshot!(plan(Verb::Del, json!({"backend": "no such thing"})), @r"
        host       publish for eth0 of red on n1 by weft
        host       calls from 127.0.0.1 by veth6355b07527c of n1 by weft
        host       answers to ::1 by veth6355b07527c of n1
        ");
        insta::assert_snapshot!(plan(Verb::Gc, json!({"backend": "iptables"})), @r"
        host       publish for eth0 of red on n1 by iptables
        host       calls from 127.0.0.1 by veth6355b07527c of n1 by iptables
        host       answers to ::1 by veth6355b07527c of n1
        network    hairpin of n1 by iptables
        network    answers to ::1 of n1
        network    calls from 127.0.0.1 of n1 by iptables
        ");
    }

    #[test]
    fn who_asks_for_nothing_and_had_nothing_gets_nothing() {
        assert_eq!(plan(Verb::Check, json!({"backend": "weft"})), "");
    }

    #[test]
    fn who_asks_for_nothing_undoes_what_a_killed_process_began() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let mut change = Books::new(&root).change(&red()).unwrap();
        change.claim(Owner::new(red(), "weft").unwrap(), &[], &mut |_, _, _| true).unwrap();
        drop(change);
        let plan = plan_at(&root, Verb::Check, json!({"backend": "weft"}));
        assert_eq!(plan.lines().next(), Some("host       publish for eth0 of red on n1 by weft"));
    }
}
