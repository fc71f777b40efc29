//! What is said, where the reference plugins' tests, or what `tests/conformance/differences/words.txt` has reasons for, hang
//! on it: whole sentences, of ADD and of CHECK.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, Lack};

fn bridge(host: &Host) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
        "ipam": host.ipam(&["10.1.2.0/24"]),
    })
}

/// The code of whatever has none of the specification's.
const OTHERWISE: u64 = 999;
/// Ours say that it is the configuration that lacks something.
const CONFIGURATION: [u64; 2] = [7, OTHERWISE];

#[track_caller]
fn says(refused: &weft_testkit::Output, codes: &[u64], words: &str) {
    assert_ne!(refused.code, 0, "{refused}");
    let error: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(error["msg"], words);
    assert!(error["code"].as_u64().is_some_and(|code| codes.contains(&code)), "{refused}");
}

/// The same where the reference plugin says before it what it was about to do.
#[track_caller]
fn ends_with(refused: &weft_testkit::Output, words: &str) {
    assert_ne!(refused.code, 0, "{refused}");
    let error: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert!(error["msg"].as_str().unwrap().ends_with(words), "{refused}");
}

/// CHECK after something was changed in the container or in the result.
fn check_says(host: &Host, change: fn(&Container, &mut Value), words: impl Fn(&Container) -> String) -> Done {
    let red = host.lab.container("red");
    let conf = bridge(host);
    let mut result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    host.plugin("bridge").json(&conf).prev_result(&result).check(&red).expect_ok();
    change(&red, &mut result);
    let refused = host.plugin("bridge").json(&conf).prev_result(&result).check(&red);
    says(&refused, &[OTHERWISE], &words(&red));
    Ok(())
}

pub(crate) fn add_where_the_name_is_taken(host: &Host) -> Done {
    let red = host.lab.container("red");
    red.ip("link add eth0 type veth peer name far0");
    let refused = host.plugin("bridge").json(&bridge(host)).add(&red);
    let (before, after) = (r#"container veth name ("eth0") peer provided ("veth"#, r#"") already exists"#);
    assert_ne!(refused.code, 0, "{refused}");
    let error: Value = serde_json::from_str(&refused.stdout).unwrap();
    let said = error["msg"].as_str().unwrap();
    assert!(said.starts_with(before) && said.ends_with(after), "{said}");
    Ok(())
}

pub(crate) fn add_on_what_is_no_bridge(host: &Host) -> Done {
    host.lab.ip("link add br0 type veth peer name far0");
    let red = host.lab.container("red");
    ends_with(
        &host.plugin("bridge").json(&bridge(host)).add(&red),
        r#""br0" already exists but is not a bridge"#,
    );
    Ok(())
}

pub(crate) fn add_beside_another_gateway(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.ip("link add br0 type bridge");
    host.lab.ip("address add 10.9.9.1/24 dev br0");
    let refused = host.plugin("bridge").json(&bridge(host)).add(&red);
    ends_with(&refused, r#""br0" already has an IP address different from 10.1.2.1/24"#);
    Ok(())
}

pub(crate) fn add_of_ptp_without_an_address_plugin(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "ptp"});
    says(&host.plugin("ptp").json(&conf).add(&red), &CONFIGURATION, "no plugin name provided");
    Ok(())
}

pub(crate) fn add_of_ipvlan_without_an_address_plugin(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.wire();
    if !host.lab.has_link_type_on("up0", "ipvlan mode l2") {
        return Err(Lack("CONFIG_IPVLAN"));
    }
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "ipvlan", "master": "up0"});
    says(&host.plugin("ipvlan").json(&conf).add(&red), &CONFIGURATION, "no plugin name provided");
    Ok(())
}

pub(crate) fn check_without_a_result(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = bridge(host);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    says(&host.plugin("bridge").json(&conf).check(&red), &CONFIGURATION, "Required prevResult missing");
    Ok(())
}

pub(crate) fn check_of_an_old_version(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = bridge(host);
    conf["cniVersion"] = "0.3.1".into();
    let refused = host.plugin("bridge").json(&conf).check(&red);
    says(&refused, &[1], "config version does not allow CHECK");
    Ok(())
}

pub(crate) fn check_in_another_sandbox(host: &Host) -> Done {
    let edit =
        |_: &Container, result: &mut Value| result["interfaces"][2]["sandbox"] = "/run/netns/green".into();
    check_says(host, edit, |red| {
        format!(
            "Sandbox in prevResult /run/netns/green doesn't match configured netns: {}",
            red.netns().display()
        )
    })
}

pub(crate) fn check_of_another_address_of_the_link(host: &Host) -> Done {
    let edit = |red: &Container, result: &mut Value| {
        red.ip("link set eth0 address 02:00:00:00:00:07");
        result["interfaces"][2]["mac"] = "02:00:00:00:00:08".into();
    };
    check_says(host, edit, |_| {
        "interface eth0 Mac 02:00:00:00:00:08 doesn't match container Mac: 02:00:00:00:00:07".into()
    })
}

pub(crate) fn check_of_a_result_without_the_interface(host: &Host) -> Done {
    let edit = |_: &Container, result: &mut Value| {
        result["interfaces"].as_array_mut().unwrap().truncate(2);
        result["ips"][0].as_object_mut().unwrap().remove("interface");
    };
    check_says(host, edit, |_| "CNI created interface in container eth0 not found".into())
}

pub(crate) fn check_of_a_lost_address(host: &Host) -> Done {
    let edit = |red: &Container, _: &mut Value| {
        red.ip("address delete 10.1.2.2/24 dev eth0");
        red.ip("address add 10.1.2.9/24 dev eth0");
        red.ip("route add default via 10.1.2.1");
    };
    check_says(host, edit, |_| "container interface eth0 does not have address 10.1.2.2/24".into())
}

pub(crate) fn check_of_a_lost_route(host: &Host) -> Done {
    let edit = |red: &Container, _: &mut Value| {
        red.ip("route delete default");
    };
    check_says(host, edit, |_| "container route default via 10.1.2.1 dev eth0 does not exist".into())
}

pub(crate) fn check_of_a_lost_way_to_the_neighbours(host: &Host) -> Done {
    let edit = |red: &Container, _: &mut Value| {
        red.ip("route add 10.1.2.1/32 dev eth0");
        red.ip("route delete 10.1.2.0/24 dev eth0");
    };
    check_says(host, edit, |_| "container route 10.1.2.0/24 dev eth0 does not exist".into())
}

pub(crate) fn check_of_a_lost_interface(host: &Host) -> Done {
    let rename = |red: &Container, _: &mut Value| {
        red.ip("link set eth0 down");
        red.ip("link set eth0 name eth9");
    };
    check_says(host, rename, |_| "container interface eth0 does not exist".into())
}

pub(crate) fn check_of_macvlan_in_another_mode(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.wire();
    let conf = |mode: &str| {
        json!({
            "cniVersion": "1.0.0", "name": "n1", "type": "macvlan", "master": "up0", "mode": mode,
            "ipam": host.ipam(&["10.1.2.0/24"]),
        })
    };
    let result = host.plugin("macvlan").json(&conf("bridge")).add(&red).expect_json();
    let refused = host.plugin("macvlan").json(&conf("private")).prev_result(&result).check(&red);
    says(&refused, &[OTHERWISE], "container macvlan mode bridge does not match expected value: private");
    Ok(())
}

crate::suite::stories! { words:
    add_where_the_name_is_taken
    add_on_what_is_no_bridge
    add_beside_another_gateway
    add_of_ptp_without_an_address_plugin
    add_of_ipvlan_without_an_address_plugin
    check_without_a_result
    check_of_an_old_version
    check_in_another_sandbox
    check_of_another_address_of_the_link
    check_of_a_result_without_the_interface
    check_of_a_lost_address
    check_of_a_lost_route
    check_of_a_lost_way_to_the_neighbours
    check_of_a_lost_interface
    check_of_macvlan_in_another_mode
}
