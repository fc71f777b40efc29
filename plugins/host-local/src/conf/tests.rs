use super::*;

fn read(version: &str, rest: &str, args: &str) -> Result<Settings, Failure> {
    let text = format!(r#"{{"cniVersion": "{version}", "name": "n1", "type": "bridge"{rest}}}"#);
    Settings::new(&NetConf::parse(text.as_bytes())?, args, &Root::new(Some("/lab".into())))
}

fn ipam(rest: &str) -> Result<Settings, Failure> {
    read("1.0.0", &format!(r#", "ipam": {{"type": "host-local"{rest}}}"#), "")
}

fn sets(settings: &Settings) -> Vec<String> {
    settings.pool.sets().iter().map(ToString::to_string).collect()
}

#[test]
fn the_old_single_range() {
    let text = r#", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.30""#;
    let settings = ipam(text).unwrap();
    assert_eq!(sets(&settings), ["10.1.2.9-10.1.2.20"]);
    assert_eq!(settings.pool.sets()[0].ranges()[0].gateway().to_string(), "10.1.2.30");
    assert_eq!(settings.location.dir, Path::new("/lab/var/lib/cni/networks/n1"));
    assert_eq!(settings.location.index, Path::new("/lab/var/lib/cni/networks/.index/n1"));
}

#[test]
fn the_list_and_the_mixture_in_order() {
    let list = r#", "ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.2.2.0/24", "rangeStart": "10.2.2.9"}], [{"subnet": "2001:db8::/126"}]]"#;
    assert_eq!(
        sets(&ipam(list).unwrap()),
        ["10.1.2.1-10.1.2.254,10.2.2.9-10.2.2.254", "2001:db8::1-2001:db8::3"]
    );
    let mixed = r#", "Subnet": "10.9.0.0/24", "dataDir": "/d", "RANGES": [[{"SUBNET": "10.1.2.0/24"}]]"#;
    let runtime = r#", "runtimeConfig": {"ipRanges": [[{"Subnet": "10.8.0.0/24"}]]}"#;
    let all = read("1.0.0", &format!(r#", "ipam": {{"type": "host-local"{mixed}}}{runtime}"#), "").unwrap();
    assert_eq!(sets(&all), ["10.8.0.1-10.8.0.254", "10.9.0.1-10.9.0.254", "10.1.2.1-10.1.2.254"]);
    assert_eq!(all.location.dir, Path::new("/d/n1"));
}

#[test]
fn requests_add_up() {
    let rest = r#", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"},
        "args": {"cni": {"ips": ["10.1.2.11", "10.1.2.12/24"]}}, "runtimeConfig": {"ips": ["10.1.2.13/32", "10.1.2.11"]}"#;
    let settings = read("1.0.0", rest, "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.2.10").unwrap();
    let texts: Vec<String> = settings.requested.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.1.2.10", "10.1.2.11", "10.1.2.12", "10.1.2.13"]);
    let none = read("1.0.0", r#", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}"#, "IP=").unwrap();
    assert!(none.requested.is_empty());
}

#[test]
fn our_own_keys() {
    let text = r#", "subnet": "10.1.2.0/24", "reserved": ["10.1.2.5"], "avoid": ["10.1.2.9"], "requestable": "subnet", "sync": true"#;
    let settings = ipam(text).unwrap();
    assert_eq!(settings.policy.requestable, Requestable::Subnet);
    assert_eq!((settings.policy.reserved.len(), settings.policy.avoid.len()), (1, 1));
    assert!(settings.location.sync);
}

#[test]
fn nonsense_is_refused_with_the_known_texts() {
    let table = [
        ("", "no IP ranges specified"),
        (r#", "ranges": [[]]"#, "invalid range set 0: empty range set"),
        (r#", "subnet": "10.1.2.0""#, "range set 0, range 0: invalid CIDR address: 10.1.2.0"),
        (r#", "ranges": [[{"gateway": "10.1.2.1"}]]"#, "range set 0, range 0: it has no subnet"),
        (
            r#", "subnet": "10.1.2.0/31""#,
            "invalid range set 0: Network 10.1.2.0/31 too small to allocate from",
        ),
        (
            r#", "subnet": "10.1.2.10/24""#,
            "invalid range set 0: Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0",
        ),
        (
            r#", "subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1""#,
            "invalid range set 0: RangeStart 10.1.3.1 not in network 10.1.2.0/24",
        ),
        (
            r#", "subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.1""#,
            "invalid range set 0: RangeEnd 10.1.3.1 not in network 10.1.2.0/24",
        ),
        (
            r#", "ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "2001:db8::/64"}]]"#,
            "invalid range set 0: mixed address families",
        ),
        (
            r#", "ranges": [[{"subnet": "10.1.0.0/20"}, {"subnet": "10.1.2.0/24"}]]"#,
            "invalid range set 0: subnets 10.1.0.1-10.1.15.254 and 10.1.2.1-10.1.2.254 overlap",
        ),
        (
            r#", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.2.0/25"}]]"#,
            "range set 0 overlaps with 1",
        ),
        (r#", "subnet": "10.1.2.0/24", "reserved": ["x"]"#, "ipam.reserved[0]: invalid IP address: x"),
        (
            r#", "subnet": "10.1.2.0/24", "requestable": "any""#,
            "ipam.requestable is \"any\", and only \"range\" and \"subnet\" are known",
        ),
    ];
    for (text, expected) in table {
        let failure = ipam(text).unwrap_err();
        assert_eq!((failure.code, failure.msg.as_str()), (Code::InvalidConfig, expected));
    }
    assert_eq!(read("1.0.0", "", "").unwrap_err().msg, "IPAM config missing 'ipam' key");
    let single = r#", "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"}"#;
    assert_eq!(
        read("1.0.0", single, "IP=10.1.2").unwrap_err().msg,
        "cannot understand ip: invalid IP address: 10.1.2"
    );
    assert!(read("1.0.0", single, "bogus").unwrap_err().msg.starts_with("ARGS: invalid pair"));
    let wrong_type = ipam(r#", "ranges": [[{"subnet": 5}]]"#).unwrap_err();
    assert!(wrong_type.msg.contains("ipam.ranges[0][0].subnet"), "{}", wrong_type.msg);
}

#[test]
fn early_versions_have_room_for_one_address_of_a_family() {
    let two = r#", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}"#;
    let dual = r#", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]]}"#;
    assert_eq!(
        read("0.2.0", two, "").unwrap_err().msg,
        "CNI version 0.2.0 does not support more than 1 address per family"
    );
    read("0.3.0", two, "").unwrap();
    read("0.2.0", dual, "").unwrap();
}

#[test]
fn a_del_finds_its_leases_with_a_broken_configuration() {
    let find = |rest: &str| {
        let text = format!(r#"{{"cniVersion": "1.0.0", "name": "n1", "type": "bridge"{rest}}}"#);
        location(&NetConf::parse(text.as_bytes()).unwrap(), &Root::new(None)).dir
    };
    assert_eq!(find(r#", "ipam": {"dataDir": "/d", "ranges": "none"}"#), Path::new("/d/n1"));
    assert_eq!(find(r#", "ipam": {"datadir": "/d", "subnet": "10.0.0.0/99"}"#), Path::new("/d/n1"));
    assert_eq!(find(r#", "ipam": {"dataDir": 5}"#), Path::new("/var/lib/cni/networks/n1"));
    assert_eq!(find(""), Path::new("/var/lib/cni/networks/n1"));
}
