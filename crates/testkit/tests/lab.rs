//! The lab keeps its promises: private, complete, and gone afterwards.

use std::net::IpAddr;

use weft_testkit::Lab;

#[test]
fn a_lab_is_a_host_of_its_own() {
    let lab = Lab::new();
    let links = lab.ip_json("link show");
    assert_eq!(links.as_array().map(Vec::len), Some(1), "{links}");
    assert_eq!(links[0]["ifname"], "lo");
    assert_eq!(std::fs::read_dir("/sys/class/net").unwrap().count(), 1);
    assert_eq!(std::fs::read_dir("/run").unwrap().count(), 0);
}

#[test]
fn a_snapshot_sees_what_changes_and_what_returns() {
    let lab = Lab::new();
    let before = lab.snapshot();
    lab.ip("link add br7 type bridge");
    lab.ip("address add 10.7.0.1/24 dev br7");
    lab.write("var/lib/cni/networks/n1/10.7.0.2", "red\r\neth0");
    lab.sh("nft 'add table inet weft; add chain inet weft nat'").expect_ok();
    let now = lab.snapshot();
    assert_ne!(now, before);
    for word in [
        "+ link br7",
        "+ address br7 10.7.0.1/24",
        "+ file var/lib/cni/networks/n1/10.7.0.2",
        "table inet weft",
    ] {
        assert!(before.difference(&now).contains(word), "{word}: {}", before.difference(&now));
    }
    lab.ip("link delete br7");
    lab.sh("nft delete table inet weft").expect_ok();
    std::fs::remove_file(lab.path("var/lib/cni/networks/n1/10.7.0.2")).unwrap();
    lab.assert_restored(&before);
}

#[test]
fn the_outside_answers_the_host_and_traffic_says_who_called() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let red = lab.container("red");
    lab.ip("link add ve0 type veth peer name eth0 netns red");
    lab.ip("address add 10.7.0.1/24 dev ve0");
    lab.ip("link set ve0 up");
    red.ip("address add 10.7.0.2/24 dev eth0");
    red.ip("link set lo up");
    red.ip("link set eth0 up");
    assert!(red.ping("10.7.0.1"));
    assert!(!red.ping("192.0.2.2"), "there is no route outside");
    assert!(outside.ping("192.0.2.1"));

    let own: IpAddr = "10.7.0.2".parse().unwrap();
    let (tcp, udp) = (red.serve_tcp(0), red.serve_udp(0));
    assert_eq!(red.call_tcp(own, tcp.port()).unwrap(), own);
    assert_eq!(red.call_udp(own, udp.port()).unwrap(), own);
    assert!(outside.call_tcp(own, tcp.port()).is_err());
}

#[test]
fn a_container_vanishes() {
    let lab = Lab::new();
    let red = lab.container("red");
    assert!(red.netns().exists());
    red.vanish();
    assert!(!red.netns().exists());
    let green = lab.container("green");
    green.vanish_leaving_a_file();
    assert!(green.netns().is_file());
    drop(lab);
}

#[test]
fn packets_made_by_hand_arrive_and_are_heard() {
    let lab = Lab::new();
    let outside = lab.uplink();
    for (host, own) in [("192.0.2.1", "192.0.2.2"), ("2001:db8:ffff::1", "2001:db8:ffff::2")] {
        let (host, own) = (host.parse().unwrap(), own.parse().unwrap());
        let ear = outside.ear(own);
        assert_eq!(ear.so_far(&outside).iter().filter(|heard| heard.protocol == 132).count(), 0);
        lab.send_sctp(own, 5000).unwrap();
        let heard = ear.expect(132, 5000);
        assert_eq!((heard.source, heard.destination), (host, own));
    }
}

#[test]
fn what_was_started_in_a_lab_ends_with_it() {
    let lab = Lab::new();
    let red = lab.container("red");
    let detached = "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!";
    let said = [lab.sh(detached), red.inside(|| lab.sh(detached))];
    let ids = said.map(|said| said.expect_ok().trim().to_string());
    // What has ended and is waited for by nobody has no namespace any more.
    let lives = |id: &String| std::fs::metadata(format!("/proc/{id}/ns/net")).is_ok();
    assert!(ids.iter().all(lives));
    drop(lab);
    assert!(!ids.iter().any(lives));
}
