//! `network create`: what is written, and what is refused.

use std::fs;

use serde_json::{Value, json};
use weft_manager::{Create, Kind};
use weft_state::atomic::{self, Durability};

use crate::{Host, program, subnet, text};

#[test]
fn a_network_is_a_conflist_any_runtime_can_read() {
    let host = Host::new();
    let mut request = subnet("n1", "198.18.1.0/24");
    request.labels.insert("k".into(), "v".into());
    request.options.insert("com.docker.network.driver.mtu".into(), "1400".into());
    let network = host.manager.create(&request).unwrap();

    let file = fs::read(host.path("root/etc/weft/networks.d/n1.conflist")).unwrap();
    let conflist: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(conflist["cniVersion"], "1.1.0");
    assert_eq!(conflist["name"], "n1");
    assert_eq!(conflist["plugins"][0]["type"], "fake");
    assert_eq!(conflist["weft"]["id"], network.about.id.to_string());
    assert_eq!(conflist["weft"]["labels"], json!({"k": "v"}));
    assert_eq!(
        conflist["weft"]["options"],
        json!({"com.docker.network.driver.mtu": "1400"}),
        "as the user said it"
    );
    let asked = host.asked("compose");
    assert_eq!(asked["options"], json!({"mtu": "1400"}), "as the driver knows it");
    assert_eq!(asked["subnets"][0]["gateway"], "198.18.1.1");

    let shown = serde_json::to_value(host.manager.inspect("n1").unwrap()).unwrap();
    assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], "198.18.1.0/24");
    for reference in [network.about.id.to_string(), network.about.id.short()[..5].into()] {
        assert_eq!(serde_json::to_value(host.manager.inspect(&reference).unwrap()).unwrap(), shown);
    }
}

#[test]
fn the_settings_choose_the_firewall_where_the_driver_lets_them() {
    let host = Host::with_settings("firewall = \"iptables\"\n");
    host.network("n1", 1);
    assert_eq!(host.asked("compose")["options"], json!({"masquerade-backend": "iptables"}));
    let mut request = subnet("n2", "198.18.2.0/24");
    request.options.insert("masquerade-backend".into(), "nftables".into());
    host.manager.create(&request).unwrap();
    assert_eq!(host.asked("compose")["options"], json!({"masquerade-backend": "nftables"}));
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    let with_driver = |driver: &str| Create { driver: Some(driver.into()), ..subnet("n9", "198.18.9.0/24") };
    let mut bad_option = subnet("n9", "198.18.9.0/24");
    bad_option.options.insert("bad".into(), "1".into());
    let mut no_family = Create { name: "n9".into(), ..Create::default() };
    (no_family.ipv4, no_family.ipv6) = (Some(false), Some(false));
    let v4_refused = Create { ipv4: Some(false), ..subnet("n9", "198.18.9.0/24") };
    let v6_refused = Create { ipv6: Some(false), ..subnet("n9", "fd01::/64") };
    let table = [
        (subnet("n1", "198.18.9.0/24"), Kind::Conflict, "network with name n1 already exists"),
        (
            subnet("host", "198.18.9.0/24"),
            Kind::Conflict,
            "operation is not permitted on predefined host network",
        ),
        (
            subnet("default", "198.18.9.0/24"),
            Kind::Conflict,
            "operation is not permitted on predefined default network",
        ),
        (subnet("-x", "198.18.9.0/24"), Kind::Usage, "invalid network name \"-x\": "),
        (
            subnet("n9", "198.18.1.0/25"),
            Kind::Conflict,
            "198.18.1.0/25 conflicts with network n1 (198.18.1.0/24)",
        ),
        (
            subnet("n9", "198.18.9.1/24"),
            Kind::Usage,
            "invalid subnet 198.18.9.1/24: it should be 198.18.9.0/24",
        ),
        (with_driver("missing"), Kind::NotFound, "plugin \"missing\" not found: "),
        (with_driver("../fake"), Kind::Usage, "invalid driver \"../fake\": "),
        (with_driver("loopback"), Kind::Failed, "plugin \"loopback\" cannot create networks: "),
        (v4_refused, Kind::Usage, "subnet 198.18.9.0/24 is given, but its family is refused (--ipv4=false)"),
        (v6_refused, Kind::Usage, "subnet fd01::/64 is given, but its family is refused (--ipv6=false)"),
        (bad_option, Kind::Usage, "driver fake: the fake driver has no option \"bad\""),
        (no_family, Kind::Usage, "IPv4 or IPv6 must be enabled"),
    ];
    for (request, kind, part) in table {
        let error = host.manager.create(&request).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(host.state(), before);
        assert!(!host.path("root/run/weft/locks/network-n9").exists(), "{error}");
    }
}

#[test]
fn subnets_are_chosen_from_the_pools_until_none_is_left() {
    let host = Host::with_settings("[[pool]]\nbase = \"198.19.0.0/22\"\nsize = 24\n");
    let mut chosen = Vec::new();
    // The first one is for the network `bridge`, which nobody has used yet.
    for name in ["n1", "n2", "n3"] {
        let network = host.manager.create(&Create { name: name.into(), ..Create::default() }).unwrap();
        chosen.push(network.subnets().next().unwrap().to_string());
    }
    assert_eq!(chosen, ["198.19.1.0/24", "198.19.2.0/24", "198.19.3.0/24"]);
    let error = host.manager.create(&Create { name: "n4".into(), ..Create::default() }).unwrap_err();
    assert_eq!(error.to_string(), "all predefined address pools have been fully subnetted");

    let bridge = serde_json::to_value(host.manager.inspect("bridge").unwrap()).unwrap();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "198.19.0.0/24");
    assert!(!host.state().iter().any(|path| path.contains("bridge")), "looking at it makes no file");
    host.connect("bridge", "c1").unwrap();
    let bridge = serde_json::to_value(host.manager.inspect("bridge").unwrap()).unwrap();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "198.19.0.0/24");

    assert_eq!(host.removed("n2", false), [""; 0]);
    let again = host.manager.create(&Create { name: "n5".into(), ..Create::default() }).unwrap();
    assert_eq!(again.subnets().next().unwrap().to_string(), "198.19.2.0/24");
}

#[test]
fn ipv6_gets_a_private_prefix_of_this_host() {
    let host = Host::new();
    let prefix = |name: &str, n: u8| {
        let request = Create { ipv6: Some(true), ..subnet(name, &format!("198.18.{n}.0/24")) };
        let network = host.manager.create(&request).unwrap();
        let [v4, v6] = &network.about.ipam.subnets[..] else { panic!("two subnets: {network:?}") };
        assert!(v4.subnet.is_ipv4());
        assert_eq!(v6.subnet.prefix(), 64);
        v6.subnet.to_string()
    };
    let (first, second) = (prefix("n1", 1), prefix("n2", 2));
    assert!(first.starts_with("fd") && second.starts_with("fd"));
    assert_ne!(first, second);
    assert_eq!(first[..14], second[..14], "the same /48");
}

#[test]
fn two_networks_do_not_share_a_bridge() {
    let host = Host::new();
    let driver = "#!/bin/sh\ncase \"$1\" in describe) echo '{\"type\":\"bridge\",\"summary\":\"\",\"driver\":{\"addressing\":true}}';;\n\
        compose) sed 's/.*\"options\":\\({[^}]*}\\).*/{\"plugins\":[\\1]}/; s/{\"bridge\"/{\"type\":\"bridge\",\"bridge\"/';; esac\n";
    program(&host.path("bin/bridge"), driver);
    let create = |name: &str, n: u8, options: &[(&str, &str)]| {
        let mut request = subnet(name, &format!("198.18.{n}.0/24"));
        request.driver = Some("bridge".into());
        request.options = options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        host.manager.create(&request)
    };
    create("n1", 1, &[("bridge", "br7")]).unwrap();
    let error = create("n2", 2, &[("bridge", "br7")]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Conflict, "bridge br7 belongs to network n1".into())
    );
    assert_eq!(text(create("n2", 2, &[("bridge", "weft0")])), "bridge weft0 belongs to network bridge");
    create("n2", 2, &[("bridge", "br8")]).unwrap();
    create("n3", 3, &[("bridge", "br7"), ("vlan", "5")]).unwrap();
}

#[test]
fn a_damaged_network_keeps_its_subnet() {
    let host = Host::new();
    host.network("n1", 1);
    let put = |name: &str| {
        let path = host.path(&format!("root/etc/weft/networks.d/{name}.conflist"));
        atomic::write(&path, b"{", Durability::Boot, 0o644).unwrap();
        path.display().to_string()
    };
    put("n1");
    let error = text(host.manager.create(&subnet("n2", "198.18.1.0/25")));
    assert!(error.ends_with("conflicts with network n1 (198.18.1.0/24)"), "{error}");
    let hint = |network: &str| host.connect(network, "c1").unwrap_err().hint().unwrap();
    assert_eq!(hint("n1"), "mend the file, or weft network rm -f n1");
    let path = put("bridge");
    assert_eq!(hint("bridge"), format!("delete {path}: it is made again when it is needed"));
}
