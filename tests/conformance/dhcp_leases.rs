//! `dhcp` with its daemon and a server: leases that are got, kept and given back.

use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use weft_testkit::{Background, Container, DhcpServer, PluginCall, Program, until};

use crate::suite::{Done, Host, Lack};

/// A host with a server, and the daemon of the plugins under test.
struct Net<'host> {
    server: DhcpServer,
    daemon: Option<Background>,
    host: &'host Host,
}

impl<'host> Net<'host> {
    /// Starts both, the server with further options of dnsmasq's.
    fn new(host: &'host Host, further: &[&str]) -> Result<Self, Lack> {
        let server = DhcpServer::start(&host.lab, further).ok_or(Lack("/usr/sbin/dnsmasq"))?;
        let mut net = Self { server, daemon: None, host };
        net.start(&["-timeout=3s"]);
        Ok(net)
    }

    /// Starts the daemon, in the place of one that runs.
    fn start(&mut self, further: &[&str]) {
        self.daemon = None;
        let socket = self.host.lab.path("run/dhcp.sock");
        std::fs::remove_file(&socket).ok();
        let dhcp = || Program::new(self.host.program("dhcp")).args(["daemon"]);
        let program =
            dhcp().args(["-socketpath", socket.to_str().unwrap(), "-resendmax=100ms"]).args(further);
        // Before there was this flag, the other one ended the attempts as well.
        let knows = dhcp().args(["-h"]).run().stderr.contains("-resendtimeout");
        let program = program.args(knows.then_some("-resendtimeout=20s"));
        self.daemon = Some(program.env("WEFT_ROOT", self.host.lab.root()).background());
        until("the daemon's start", || UnixStream::connect(&socket).is_ok());
    }

    fn conf(&self, version: &str, ipam: &Value) -> Value {
        let mut conf = json!({"cniVersion": version, "name": "n1", "type": "bridge", "bridge": "br0"});
        conf["ipam"] = json!({"type": "dhcp", "daemonSocketPath": self.host.lab.path("run/dhcp.sock")});
        for (key, value) in ipam.as_object().into_iter().flatten() {
            conf["ipam"][key] = value.clone();
        }
        conf
    }

    /// A call of the main plugin.
    fn bridge(&self, ipam: &Value) -> PluginCall<'_> {
        self.host.plugin("bridge").json(&self.conf("1.0.0", ipam))
    }

    /// A call of the plugin itself.
    fn dhcp(&self) -> PluginCall<'_> {
        self.host.plugin("dhcp").json(&self.conf("1.0.0", &json!({})))
    }

    /// Has the server answer somebody else: what was said to it before has been heard then.
    fn settle(&self) {
        let next = self.host.lab.container(&format!("next{}", self.server.log().len()));
        self.bridge(&json!({})).add(&next).expect_ok();
    }
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_string()
}

fn round_trip(host: &Host, version: &str) -> Done {
    let net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    let call = host.plugin("bridge").json(&net.conf(version, &json!({})));
    let result = call.add(&red).expect_json();
    let addresses = red.addresses("eth0");
    assert!(addresses.len() == 1 && addresses[0].starts_with("10.70.0.5"), "{addresses:?}");
    assert_eq!(net.server.given(), [addresses[0].replace("/24", "")]);
    assert_eq!(result["cniVersion"], version);
    assert!(result.to_string().contains(&addresses[0]), "{result}");
    assert!(red.ip("route").contains("default via 10.70.0.1 dev eth0"));
    assert!(red.ping("10.70.0.1"));
    assert_eq!(call.del(&red).expect_ok(), "");
    assert!(!red.has_link("eth0"));
    Ok(())
}

crate::suite::round_trips!();

const CLASSLESS: &str =
    "--dhcp-option=option:classless-static-route,10.71.0.0/16,10.70.0.7,0.0.0.0/0,10.70.0.1";

/// RFC 3442: where there are classless routes, the router is none.
fn classless_routes(host: &Host, ipam: &Value) -> Done {
    let net = Net::new(host, &[CLASSLESS])?;
    let red = host.lab.container("red");
    let result = net.bridge(ipam).add(&red).expect_json();
    assert_eq!(result["ips"][0]["gateway"], "10.70.0.1", "{result}");
    let routes = result["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 2, "routes: {result}");
    assert!(routes.contains(&json!({"dst": "10.71.0.0/16", "gw": "10.70.0.7"})), "{result}");
    assert!(red.ip("route").contains("10.71.0.0/16 via 10.70.0.7 dev eth0"));
    Ok(())
}

pub(crate) fn classless_routes_are_in_the_result(host: &Host) -> Done {
    classless_routes(host, &json!({"request": [{"option": "121"}]}))
}

pub(crate) fn classless_routes_are_asked_for_without_being_told(host: &Host) -> Done {
    classless_routes(host, &json!({}))
}

pub(crate) fn routes_have_the_priority_asked_for(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    net.bridge(&json!({"priority": 50})).add(&red).expect_ok();
    let routes = red.ip("route");
    assert!(routes.contains("default via 10.70.0.1 dev eth0 metric 50"), "the metric is not there: {routes}");
    Ok(())
}

pub(crate) fn names_and_the_mtu_are_in_the_result(host: &Host) -> Done {
    let net = Net::new(
        host,
        &[
            "--dhcp-option=option:dns-server,10.70.0.53",
            "--dhcp-option=option:domain-name,a.test",
            "--dhcp-option=option:mtu,1400",
        ],
    )?;
    let result = net.bridge(&json!({})).add(&host.lab.container("red")).expect_json();
    assert_eq!(result["dns"], json!({"nameservers": ["10.70.0.53"], "domain": "a.test"}), "{result}");
    Ok(())
}

pub(crate) fn every_interface_has_an_address_of_its_own(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let [red, green] = ["red", "green"].map(|name| host.lab.container(name));
    let call = || net.bridge(&json!({}));
    let got = [
        address(&call().add(&red).expect_json()),
        address(&call().ifname("eth1").add(&red).expect_json()),
        address(&call().add(&green).expect_json()),
    ];
    assert!(got[0] != got[1] && got[1] != got[2] && got[0] != got[2], "{got:?}");
    assert_eq!(net.server.given().len(), 3);
    Ok(())
}

pub(crate) fn the_client_is_called_after_container_network_and_interface(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    net.bridge(&json!({})).add(&host.lab.container("red")).expect_ok();
    assert!(net.server.has_given_to("red/n1/eth0"), "{}", net.server.leases());
    Ok(())
}

pub(crate) fn a_host_name_is_told_from_the_arguments(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let ipam = json!({"provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}]});
    let call = net.bridge(&ipam).args("IgnoreUnknown=1;K8S_POD_NAME=webserver");
    call.add(&host.lab.container("red")).expect_ok();
    let leases = net.server.leases();
    assert!(leases.contains(" webserver "), "{leases}");
    Ok(())
}

pub(crate) fn a_server_is_told_the_user_class(host: &Host) -> Done {
    let net = Net::new(
        host,
        &["--dhcp-userclass=set:known,alpha", "--dhcp-option=tag:known,option:router,10.70.0.9"],
    )?;
    let ipam = json!({"provide": [{"option": "user-class", "value": "alpha"}]});
    let result = net.bridge(&ipam).add(&host.lab.container("red")).expect_json();
    assert_eq!(result["ips"][0]["gateway"], "10.70.0.9", "it was not told: {result}");
    Ok(())
}

pub(crate) fn what_is_not_asked_for_is_not_there(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let ipam = json!({"request": [{"skipDefault": true, "option": "subnet-mask"}]});
    let result = net.bridge(&ipam).add(&host.lab.container("red")).expect_json();
    assert!(result["routes"].is_null() && result["ips"][0]["gateway"].is_null(), "{result}");
    Ok(())
}

pub(crate) fn an_unknown_option_is_refused(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let refused = net.bridge(&json!({"request": [{"option": "nonsense"}]})).add(&host.lab.container("red"));
    assert!(
        refused.code != 0 && refused.stdout.contains(r#"Can not parse option \"nonsense\""#),
        "{refused}"
    );
    assert!(net.server.given().is_empty());
    Ok(())
}

pub(crate) fn del_gives_the_address_back(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    let call = net.bridge(&json!({}));
    let got = address(&call.add(&red).expect_json());
    call.del(&red).expect_ok();
    net.settle();
    assert_eq!(net.server.said("DHCPRELEASE", &got), 1, "releases the server was told of");
    assert!(!net.server.has_given_to("red/n1/eth0"));
    // Nobody is told a second time.
    call.del(&red).expect_ok();
    net.settle();
    assert_eq!(net.server.said("DHCPRELEASE", &got), 1);
    Ok(())
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    net.bridge(&json!({})).del(&host.lab.container("red")).expect_ok();
    net.dhcp().del(&host.lab.container("green")).expect_ok();
    Ok(())
}

pub(crate) fn del_succeeds_when_the_namespace_is_gone(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    let call = net.bridge(&json!({}));
    call.add(&red).expect_ok();
    red.vanish();
    call.del(&red).expect_ok();
    Ok(())
}

/// Connects a container to the bridge by hand, with no address.
fn plugged_in(host: &Host, name: &str) -> Container {
    let container = host.lab.container(name);
    host.lab.ip(&format!("link add of-{name} master br0 type veth peer name eth0 netns {name}"));
    host.lab.ip(&format!("link set of-{name} up"));
    container.ip("link set eth0 up");
    container
}

pub(crate) fn check_of_a_lease_succeeds(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    let call = net.bridge(&json!({}));
    let result = call.add(&red).expect_json();
    assert_eq!(call.prev_result(&result).check(&red).expect_ok(), "");
    Ok(())
}

pub(crate) fn check_gets_no_lease(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let red = plugged_in(host, "red");
    let refused = net.dhcp().check(&red);
    assert!(refused.code != 0, "a lease that is not there was checked: {refused}");
    assert!(net.server.given().is_empty());
    Ok(())
}

pub(crate) fn a_lease_is_renewed(host: &Host) -> Done {
    let net = Net::new(host, &["--dhcp-option=option:T1,4", "--dhcp-option=option:T2,60"])?;
    let got = address(&net.bridge(&json!({})).add(&host.lab.container("red")).expect_json());
    let acks = net.server.said("DHCPACK", &got);
    until("a renewal", || net.server.said("DHCPACK", &got) > acks);
    Ok(())
}

pub(crate) fn a_restarted_daemon_knows_its_leases(host: &Host) -> Done {
    let mut net = Net::new(host, &[])?;
    let red = host.lab.container("red");
    let result = net.bridge(&json!({})).add(&red).expect_json();
    let asked = |net: &Net<'_>| net.server.log().matches("DHCPDISCOVER(").count();
    let before = asked(&net);
    net.start(&["-timeout=3s"]);
    net.bridge(&json!({})).prev_result(&result).check(&red).expect_ok();
    assert_eq!(asked(&net), before, "it looked for a server again");
    assert_eq!(net.server.given(), [address(&result)]);
    Ok(())
}

pub(crate) fn add_without_a_server_is_refused(host: &Host) -> Done {
    let mut net = Net::new(host, &[])?;
    net.server.stop();
    net.start(&["-timeout=300ms"]);
    let red = host.lab.container("red");
    let refused = net.bridge(&json!({})).add(&red);
    let text = "error calling DHCP.Allocate: no more tries";
    assert!(refused.code != 0 && refused.stdout.contains(text), "{refused}");
    net.bridge(&json!({})).del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

pub(crate) fn an_add_that_fails_later_gives_the_address_back(host: &Host) -> Done {
    // A way to a gateway that is on no link: the kernel refuses the route once the address is there.
    let net = Net::new(host, &["--dhcp-option=option:classless-static-route,10.72.0.0/16,192.0.2.1"])?;
    let ask = |name: &str| {
        let call = net.bridge(&json!({"request": [{"option": "121"}]}));
        call.add(&host.lab.container(name))
    };
    let refused = ask("red");
    assert!(refused.code != 0 && refused.stdout.contains("10.72.0.0"), "{refused}");
    // Somebody else's request comes after whatever was said.
    ask("green");
    assert!(net.server.log().contains("DHCPRELEASE("), "the server was not told");
    Ok(())
}

pub(crate) fn gc_gives_back_what_is_not_valid(host: &Host) -> Done {
    let net = Net::new(host, &[])?;
    let [red, green] = ["red", "green"].map(|name| host.lab.container(name));
    let call = host.plugin("bridge").json(&net.conf("1.1.0", &json!({})));
    let of_red = address(&call.add(&red).expect_json());
    call.add(&green).expect_ok();
    call.gc(&[("green", "eth0")]).expect_ok();
    net.settle();
    assert_eq!(net.server.said("DHCPRELEASE", &of_red), 1);
    assert!(net.server.has_given_to("green/n1/eth0") && !net.server.has_given_to("red/n1/eth0"));
    Ok(())
}

crate::suite::stories! { dhcp_leases: round_trips
    classless_routes_are_in_the_result
    classless_routes_are_asked_for_without_being_told
    routes_have_the_priority_asked_for
    names_and_the_mtu_are_in_the_result
    every_interface_has_an_address_of_its_own
    the_client_is_called_after_container_network_and_interface
    a_host_name_is_told_from_the_arguments
    a_server_is_told_the_user_class
    what_is_not_asked_for_is_not_there
    an_unknown_option_is_refused
    del_gives_the_address_back
    del_of_what_never_was_succeeds
    del_succeeds_when_the_namespace_is_gone
    check_of_a_lease_succeeds
    check_gets_no_lease
    a_lease_is_renewed
    a_restarted_daemon_knows_its_leases
    add_without_a_server_is_refused
    an_add_that_fails_later_gives_the_address_back
    gc_gives_back_what_is_not_valid
}
