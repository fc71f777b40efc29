use super::*;
use crate::entry::{ALL, ISOLATION, MASQUERADING};

fn subnet(text: &str) -> Entry {
    Entry::Subnet(text.parse().unwrap())
}

#[test]
fn a_claim_in_our_table_shows_who_carries_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let claims = Claims(dir.path());
    let [n1, n2] = ["n1", "n2"].map(|name| name.parse::<NetworkName>().unwrap());
    assert!(!claims.is_in_our_table(&n1));
    claims.take(&n1, &subnet("10.1.0.0/16")).unwrap();
    assert!(claims.is_in_our_table(&n1) && !claims.is_in_our_table(&n2));
    claims.note_carrier(&n1, true).unwrap();
    assert!(!claims.is_in_our_table(&n1), "its rules are in chains of iptables");
    claims.note_carrier(&n1, false).unwrap();
    assert!(claims.is_in_our_table(&n1));
    claims.drop_all(&n1, &MASQUERADING).unwrap();
    assert!(!claims.is_in_our_table(&n1));
}

#[test]
fn a_subnet_is_wanted_until_its_last_network_drops_it() {
    let dir = tempfile::tempdir().unwrap();
    let claims = Claims(dir.path());
    let [n1, n2] = ["n1", "n2"].map(|name| name.parse::<NetworkName>().unwrap());
    let [v4, v6] = ["10.1.2.3/16", "fd00::1/64"].map(subnet);
    claims.take(&n1, &v4).unwrap();
    claims.take(&n1, &v4).unwrap();
    claims.take(&n1, &v6).unwrap();
    claims.take(&n2, &v4).unwrap();
    assert!(claims.has(&n2, &subnet("10.1.0.0/16")), "host bits do not count");
    assert!(!claims.has(&n2, &v6));

    let mut dropped = claims.drop_all(&n1, &MASQUERADING).unwrap();
    dropped.sort();

    let networks = ["10.1.0.0/16", "fd00::/64"].map(subnet);
    assert_eq!(dropped, networks);
    assert!(claims.is_wanted(&v4).unwrap());
    assert!(!claims.is_wanted(&v6).unwrap());
    assert_eq!(claims.all(&ALL).unwrap(), networks[..1]);
    assert_eq!(claims.drop_all(&n1, &MASQUERADING).unwrap(), []);
    claims.drop_all(&n2, &MASQUERADING).unwrap();
    assert!(!claims.is_wanted(&v4).unwrap());
}

#[test]
fn kinds_are_dropped_apart() {
    let dir = tempfile::tempdir().unwrap();
    let claims = Claims(dir.path());
    let network = "n1".parse().unwrap();
    let bridge = "br0".parse::<IfName>().unwrap();
    let wanted = [subnet("10.1.0.0/16"), Entry::Isolated(bridge.clone()), Entry::Internal(bridge.clone())];
    for entry in &wanted {
        claims.take(&network, entry).unwrap();
    }
    assert_eq!(claims.all(&ALL).unwrap(), wanted);

    assert_eq!(claims.drop_all(&network, &MASQUERADING).unwrap(), wanted[..1]);
    assert_eq!(claims.all(&ISOLATION).unwrap(), wanted[1..]);
    claims.drop_all(&network, &ISOLATION).unwrap();

    assert_eq!(claims.all(&ALL).unwrap(), []);
    assert!(listed(&dir.path().join("networks")).unwrap().is_empty());
}

#[test]
fn a_chain_knows_its_users() {
    let dir = tempfile::tempdir().unwrap();
    let claims = Claims(dir.path());
    let addresses = ["10.1.2.3/16".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    let [network, container] = ["n1", "c.1-x"];
    let endpoint = |ifname: &str| Endpoint {
        network: network.parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    let user = |ifname: &str, addresses: &[IpNetwork]| ChainUser {
        ifname: ifname.into(),
        of: Some((network.parse().unwrap(), container.parse().unwrap())),
        addresses: addresses.into(),
    };
    let chain = chain_of(&endpoint("eth0"));
    let users = || {
        let mut users = claims.chain_users(Way::Iptables, &chain).unwrap();
        users.sort_by(|one, other| one.ifname.cmp(&other.ifname));
        users
    };
    let take = |ifname: &str, addresses: &[IpNetwork]| {
        claims.take_chain(Way::Iptables, &endpoint(ifname), addresses).unwrap();
    };
    assert!(claims.masqueraded(Way::Iptables).unwrap().is_empty());
    take("eth0", &addresses);
    take(".odd", &[]);
    take("eth0", &addresses[..1]);
    File::create(dir.path().join("iptables/lock")).unwrap();
    assert_eq!(users(), [user(".odd", &[]), user("eth0", &addresses[..1])]);
    let all = [(endpoint(".odd"), Vec::new()), (endpoint("eth0"), addresses[..1].to_vec())];
    assert_eq!(claims.masqueraded(Way::Iptables).unwrap(), all);
    assert_eq!(claims.masqueraded(Way::Nftables).unwrap(), []);
    assert!(claims.is_masqueraded(Way::Iptables, &endpoint("eth0"), &addresses[..1]));
    assert!(!claims.is_masqueraded(Way::Iptables, &endpoint("eth0"), &addresses));
    assert!(!claims.is_masqueraded(Way::Nftables, &endpoint("eth0"), &addresses[..1]));
    let earlier = ChainUser::parse("eth0".into(), "10.1.2.3/16\nfd00::1/64\n");
    assert_eq!((earlier.of, earlier.addresses), (None, addresses.to_vec()));
    let pipe = dir.path().join("iptables").join(&chain).join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(users().len(), 3, "nobody waits for what a pipe would say");
    assert_eq!(claims.masqueraded(Way::Iptables).unwrap(), all);

    let drop = |ifname: &str| claims.drop_chain(Way::Iptables, &endpoint(ifname)).unwrap();
    drop("pipe");
    drop("eth0");
    drop("eth0");
    assert_eq!(users().len(), 1);
    drop(".odd");
    assert_eq!(users(), []);
}

#[test]
fn a_record_that_nobody_finished_is_no_record_and_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let root = weft_state::Root::new(Some(dir.path().into()));
    let at = dir.path().join("run/weft/firewall");
    let claims = Claims(&at);
    let [network, container, ifname] = ["n1", "c1", "eth0"];
    let endpoint = Endpoint {
        network: network.parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
    };
    claims.take_chain(Way::Nftables, &endpoint, &[]).unwrap();
    claims.take_spoof_check(&"veth0".parse().unwrap(), &endpoint, Mac([2; 6])).unwrap();
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    // Where one is written that cannot get its name: a directory has it.
    for (beside, taken) in
        [(at.clone(), at.join("spoof/veth1")), (at.join("nftables"), at.join("nftables/CNI-x/eth0"))]
    {
        fs::create_dir_all(taken.join("full")).unwrap();
        let before = listed(&beside).unwrap();
        assert!(record(&taken, &beside, "text").is_err());
        assert_eq!(listed(&beside).unwrap(), before, "what failed leaves nothing");
        let killed = beside.join(atomic::temporary_name());
        File::create(&killed).unwrap().set_modified(hour_ago).unwrap();
    }
    assert_eq!(claims.masqueraded(Way::Nftables).unwrap(), [(endpoint.clone(), Vec::new())]);
    assert_eq!(claims.spoof_checks().unwrap().len(), 1);
    assert_eq!(weft_state::leftovers::collect(&root).unwrap(), 2);
    assert_eq!(claims.masqueraded(Way::Nftables).unwrap(), [(endpoint, Vec::new())]);
    assert_eq!(claims.spoof_checks().unwrap().len(), 1);
}

#[test]
fn a_record_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    File::create(&file).unwrap();
    let error = Claims(&file).take(&"n1".parse().unwrap(), &subnet("10.0.0.0/8"));
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("cannot keep the claim ") && text.ends_with("10.0.0.0_8/n1"), "{text}");
}
