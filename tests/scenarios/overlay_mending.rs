//! What somebody breaks under an agent that runs, it mends.

use crate::overlay_agent::{addresses, pair};

/// What is broken by a line, and how to see that it is whole.
struct Damage {
    line: String,
    whole: String,
}

#[test]
fn what_is_broken_under_a_running_agent_is_mended() {
    let (cluster, red, green) = pair();
    let host = cluster.host(1);
    let said = |line: &str| host.sh(line).expect_ok().trim().to_owned();
    let vxlan = said("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '");
    let bridge = said("ip -o link show type bridge | cut -d: -f2 | tr -d ' '");
    let block = |family: u8| said(&format!("ip -{family} route show proto 201 | grep via | cut -d' ' -f1"));
    let gateway =
        |family: u8| said(&format!("ip -{family} neigh show dev {vxlan} nud permanent | cut -d' ' -f1"));
    let own = |family: u8| {
        said(&format!(
            "ip -o -{family} address show dev {bridge} scope global | grep -o 'inet[6 ]* [^ ]*' | tr -s ' ' | cut -d' ' -f2"
        ))
    };
    let mac = said(&format!("bridge fdb show dev {vxlan} | grep 'dst 192.0.2.2' | cut -d' ' -f1"));
    let mut damages = vec![
        Damage {
            line: format!("bridge fdb replace {mac} dev {vxlan} dst 192.0.2.99 self permanent"),
            whole: format!("bridge fdb show dev {vxlan} | grep '{mac} dst 192.0.2.2 '"),
        },
        Damage {
            line: "nft delete table inet weft_tunnels".into(),
            whole: "nft list table inet weft_tunnels | grep 192.0.2.2".into(),
        },
        Damage {
            line: format!("ip link del {vxlan}"),
            whole: format!("ip -d link show {vxlan} up | grep vxlan"),
        },
    ];
    for family in [4, 6] {
        let (block, gateway, own) = (block(family), gateway(family), own(family));
        assert!([&block, &gateway, &own].iter().all(|found| !found.is_empty()), "{block}, {gateway}, {own}");
        damages.extend([
            Damage {
                line: format!("ip -{family} route del {block} dev {vxlan}"),
                whole: format!("ip -{family} route show proto 201 | grep '^{block} via'"),
            },
            Damage {
                line: format!("ip -{family} neigh del {gateway} dev {vxlan}"),
                whole: format!("ip -{family} neigh show dev {vxlan} nud permanent | grep '^{gateway} '"),
            },
            Damage {
                line: format!("ip -{family} address del {own} dev {bridge}"),
                whole: format!("ip -{family} address show dev {bridge} | grep '{own}'"),
            },
        ]);
    }
    let mended = || cluster.status(1)["mended"].as_u64().unwrap();
    let is_whole = |damage: &Damage| host.sh(&damage.whole).code == 0;
    for damage in &damages {
        assert!(is_whole(damage), "{}: {}", damage.line, host.sh(&damage.whole));
        let before = mended();
        host.sh(&damage.line).expect_ok();
        cluster.eventually(&damage.line, || mended() > before && is_whole(damage));
        cluster.eventually(&damage.line, || addresses(&green).iter().all(|address| red.ping(address)));
        cluster.eventually(&damage.line, || host.weft(["overlay", "peers", "--verify"]).code == 0);
    }
    assert!(damages.iter().all(is_whole), "what was mended first has gone again");
    // The twin: it is the agent who mends.
    cluster.signal(1, nix::sys::signal::Signal::SIGSTOP);
    for damage in &damages {
        host.sh(&damage.line);
        assert!(!is_whole(damage), "{}", damage.line);
    }
    cluster.signal(1, nix::sys::signal::Signal::SIGCONT);
    for damage in &damages {
        cluster.eventually(&damage.line, || is_whole(damage));
    }
    cluster.eventually("all is well", || addresses(&green).iter().all(|address| red.ping(address)));
}
