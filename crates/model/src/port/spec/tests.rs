use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

#[test]
fn dockers_forms_are_read() {
    let table = [
        ("80", "80/tcp"),
        ("80/UDP", "80/udp"),
        ("80/", "80/tcp"),
        ("8080:80", "8080:80/tcp"),
        (":80", "80/tcp"),
        ("0:80", "80/tcp"),
        ("127.0.0.1::80", "127.0.0.1::80/tcp"),
        ("127.0.0.1:0:80", "127.0.0.1::80/tcp"),
        ("127.0.0.1:8080:80/sctp", "127.0.0.1:8080:80/sctp"),
        (":8080:80", "8080:80/tcp"),
        ("[::1]:8080:80", "[::1]:8080:80/tcp"),
        ("::1:8080:80", "[::1]:8080:80/tcp"),
        (":::8080:80", "[::]:8080:80/tcp"),
        ("fd00::5::80", "[fd00::5]::80/tcp"),
        ("8000-8009:80-89/tcp", "8000-8009:80-89/tcp"),
        ("8000-8009:80", "8000-8009:80/tcp"),
        ("80-89", "80-89/tcp"),
        ("8080:80,from=192.0.2.7/24", "8080:80/tcp,from=192.0.2.0/24"),
        ("80,from=fd00::/8,from=192.0.2.1,from=192.0.2.1", "80/tcp,from=192.0.2.1/32,from=fd00::/8"),
        ("published=8080,target=80", "8080:80/tcp"),
        ("target=80,protocol=udp,from=10.0.0.0/8", "80/udp,from=10.0.0.0/8"),
        ("published=127.0.0.1:8080,target=80", "127.0.0.1:8080:80/tcp"),
    ];
    for (text, canonical) in table {
        let spec: PublishSpec = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(spec.to_string(), canonical, "{text:?}");
        assert_eq!(canonical.parse::<PublishSpec>().unwrap(), spec, "{text:?}");
    }
}

#[test]
fn a_host_range_for_one_port_is_a_choice() {
    let host_ports = |text: &str| text.parse::<PublishSpec>().unwrap().host_ports;
    let range: PortRange = "8000-8009".parse().unwrap();
    assert_eq!(host_ports("8000-8009:80"), HostPorts::FirstOf(range));
    assert_eq!(host_ports("8000-8009:80-89"), HostPorts::These(range));
    assert_eq!(host_ports("8000:80"), HostPorts::These(PortRange::single(8000).unwrap()));
    assert_eq!(host_ports("80-89"), HostPorts::Any);
}

#[test]
fn what_docker_refuses_is_refused_in_its_words() {
    let table = [
        ("", "no port specified: <empty>"),
        ("127.0.0.1::", "no port specified: 127.0.0.1::<empty>"),
        ("8080:", "no port specified: 8080:<empty>"),
        ("/tcp", "no port specified: /tcp<empty>"),
        ("foo", "invalid containerPort: foo: \"foo\" is neither a port (1 to 65535) nor a range of ports"),
        ("0", "invalid containerPort: 0: port 0 cannot be published"),
        ("8080:0", "invalid containerPort: 0: port 0 cannot be published"),
        (
            "65536",
            "invalid containerPort: 65536: \"65536\" is neither a port (1 to 65535) nor a range of ports",
        ),
        ("90-80", "invalid containerPort: 90-80: the range 90-80 is reversed"),
        ("foo:80", "invalid hostPort: foo: \"foo\" is neither a port (1 to 65535) nor a range of ports"),
        (
            "70000:80",
            "invalid hostPort: 70000: \"70000\" is neither a port (1 to 65535) nor a range of ports",
        ),
        ("-1:80", "invalid hostPort: -1: \"-1\" is neither a port (1 to 65535) nor a range of ports"),
        ("0-5:80", "invalid hostPort: 0-5: port 0 cannot be published"),
        ("8009-8000:80-89", "invalid hostPort: 8009-8000: the range 8009-8000 is reversed"),
        (
            "65530-65540:80-90",
            "invalid hostPort: 65530-65540: \"65530-65540\" is neither a port (1 to 65535) nor a range of ports",
        ),
        (
            "1.2.3.4.5:80:80",
            "invalid IP address: 1.2.3.4.5: it is neither an IPv4 nor an IPv6 address of the host",
        ),
        (
            "localhost:80:80",
            "invalid IP address: localhost: it is neither an IPv4 nor an IPv6 address of the host",
        ),
        (
            "[127.0.0.1]:80:80",
            "invalid IP address: [127.0.0.1]: it is neither an IPv4 nor an IPv6 address of the host",
        ),
        ("[::1:80:80", "invalid IP address: [::1: it is neither an IPv4 nor an IPv6 address of the host"),
        ("[]:80:80", "invalid IP address: []: it is neither an IPv4 nor an IPv6 address of the host"),
        (
            "fe80::1%eth0:80:80",
            "invalid IP address: fe80::1%eth0: it is neither an IPv4 nor an IPv6 address of the host",
        ),
        ("80/icmp", "invalid proto: icmp: it is tcp, udp or sctp"),
        ("80/tcp/udp", "invalid proto: tcp/udp: it is tcp, udp or sctp"),
        ("8000-8001:90-92", "invalid ranges specified for container and host Ports: 90-92 and 8000-8001"),
        ("8000:90-92", "invalid ranges specified for container and host Ports: 90-92 and 8000"),
        ("80/tcp,udp", "invalid field \"80/tcp\": there are published=, target=, protocol= and from="),
        ("foo=80,target=80", "invalid field \"foo=80\": there are published=, target=, protocol= and from="),
        ("published=80", "no port specified: <empty>"),
        ("from=10.0.0.0/8", "no port specified: <empty>"),
        ("80,from=", "invalid source: \"\" is neither an address nor a network in CIDR notation"),
        (
            "80,from=10.0.0.0/33",
            "invalid source: \"10.0.0.0/33\" is neither an address nor a network in CIDR notation",
        ),
        (
            "127.0.0.1:80:80,from=fd00::/8",
            "invalid source: fd00::/8 is not of the same family as host address 127.0.0.1",
        ),
    ];
    for (text, why) in table {
        assert_eq!(text.parse::<PublishSpec>().unwrap_err().to_string(), why, "{text:?}");
    }
}

fn range() -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX, 0..100_u16)
        .prop_map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap())
}

fn spec() -> impl Strategy<Value = PublishSpec> {
    let host = prop_oneof![
        Just(None),
        any::<[u8; 4]>().prop_map(|raw| Some(IpAddr::V4(Ipv4Addr::from(raw)))),
        any::<[u8; 16]>().prop_map(|raw| Some(IpAddr::V6(Ipv6Addr::from(raw)))),
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (host, range(), 0..3_u8, protocol, any::<Option<[u8; 4]>>()).prop_map(
        |(host, range, kind, protocol, from)| {
            let one = PortRange::single(range.first()).unwrap();
            let (host_ports, ports) = match kind {
                0 => (HostPorts::Any, range),
                1 if !range.is_single() => (HostPorts::FirstOf(range), one),
                _ => (HostPorts::These(range), range),
            };
            let from = from
                .filter(|_| host.is_none_or(|host| host.is_ipv4()))
                .map(|raw| IpNetwork::from(IpAddr::V4(Ipv4Addr::from(raw))));
            PublishSpec { host, host_ports, ports, protocol, from: from.into_iter().collect() }
        },
    )
}

proptest! {
    #[test]
    fn a_spec_reads_back_as_it_was_written(spec in spec()) {
        prop_assert_eq!(spec.to_string().parse::<PublishSpec>().unwrap(), spec);
    }

    #[test]
    fn no_text_is_more_than_an_error(text in "[0-9a-f:.,/\\[\\]=-]{0,24}") {
        if let Ok(spec) = text.parse::<PublishSpec>() {
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>().unwrap(), spec);
        }
    }
}
