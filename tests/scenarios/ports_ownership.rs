//! Whose port is it: late and lost calls, killed processes, and many at once.

use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output, Program, falls_silent, skip_unless, staged_folder};

use crate::ports::{HOST, Net, books, by, entry, host_ports, ip, tcp, udp};

#[test]
fn the_late_del_of_an_old_owner_leaves_the_new_owners_port() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _service = green.serve_tcp(80);
    net.publish(&red, json!([tcp(8080, 80)]));
    // The runtime has lost red, and another one's GC has collected it.
    red.vanish();
    net.gc(&[]);
    net.publish(&green, json!([tcp(8080, 80)]));
    assert_eq!(by(&outside, 8080).as_deref(), Some("green"));

    net.withdraw(&red);
    net.bridge().netns("").del(&red).expect_ok();

    assert_eq!(by(&outside, 8080).as_deref(), Some("green"), "red's DEL took green's port");
    net.withdraw(&green);
    assert!(falls_silent(&outside, HOST[0], 8080));
}

#[test]
fn the_late_del_of_an_old_owner_leaves_the_new_owner_of_its_address() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let mut net = Net::of(&lab, "blue", 1, &["10.1.0.0/30"]);
    net.portmap = json!({"masqAll": true});
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _service = green.serve_tcp(80);
    net.publish(&red, json!([tcp(8080, 80)]));
    // There is one address: green gets red's as soon as red's interface is gone.
    net.bridge().del(&red).expect_ok();
    net.publish(&green, json!([tcp(9090, 80)]));
    assert_eq!(green.addresses("eth0"), ["10.1.0.2/30"]);
    assert_eq!(outside.ask_tcp(ip(HOST[0]), 9090).unwrap().caller, ip("10.1.0.1"));

    net.withdraw(&red);

    let answer = outside.ask_tcp(ip(HOST[0]), 9090).unwrap();
    assert_eq!(
        (answer.by.as_str(), answer.caller),
        ("green", ip("10.1.0.1")),
        "red's DEL took green's rules"
    );
    assert_eq!(green.ask_tcp(ip(HOST[0]), 9090).unwrap().by, "green", "red's DEL took green's hairpin");
    assert!(falls_silent(&outside, HOST[0], 8080));
    net.call(&Value::Null, json!([])).del(&red).expect_ok();
    assert_eq!(by(&outside, 9090).as_deref(), Some("green"));
}

#[test]
fn the_del_of_a_network_leaves_what_the_interface_has_on_another() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let (first, second) = (Net::new(&lab, "first", 1), Net::new(&lab, "second", 2));
    let red = lab.container("red");
    let _service = red.serve_tcp(80);
    first.publish(&red, json!([tcp(8080, 80)]));
    first.bridge().del(&red).expect_ok();
    second.publish(&red, json!([tcp(9090, 80)]));
    assert_eq!(by(&outside, 9090).as_deref(), Some("red"));

    first.withdraw(&red);

    assert_eq!(
        by(&outside, 9090).as_deref(),
        Some("red"),
        "the first network's DEL took the second one's port"
    );
    second.withdraw(&red);
    assert!(falls_silent(&outside, HOST[0], 9090));
}

/// Two containers exchange a port again and again while somebody calls without a pause.
#[test]
fn a_port_changes_hands_under_load() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _services = (red.serve_tcp(80), green.serve_tcp(80));
    let previous = [net.connect(&red), net.connect(&green)];
    let client = outside.udp_client(ip(HOST[0]), 8080);
    let _udp = (red.serve_udp(80), green.serve_udp(80));
    let load = outside.load_tcp(ip(HOST[0]), 8080);
    for round in 0..10 {
        let (at, container) = (round % 2, [&red, &green][round % 2]);
        net.call(&previous[at], json!([tcp(8080, 80), udp(8080, 80)])).add(container).expect_ok();
        assert_eq!(client.ask().unwrap().by, container.name());
        let answers = load.from_now(4);
        assert!(
            answers.iter().all(|by| by.as_deref() == Some(container.name())),
            "round {round}: {answers:?}"
        );
        net.withdraw(container);
    }
}

/// Two containers exchange an address while the port of each is called.
#[test]
fn an_address_changes_hands_under_load() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::of(&lab, "blue", 1, &["10.1.0.0/30"]);
    let load = [8080, 9090].map(|port| outside.load_tcp(ip(HOST[0]), port));
    for round in 0..6 {
        let (name, port) = [("red", 8080), ("green", 9090)][round % 2];
        let container = lab.container(name);
        let _service = container.serve_tcp(80);
        net.publish(&container, json!([tcp(port, 80)]));
        let own = load[round % 2].from_now(2);
        assert!(own.iter().any(|by| by.as_deref() == Some(name)), "round {round}: {own:?}");
        net.disconnect(&container);
        let other = load[1 - round % 2].next(0);
        assert!(other.iter().all(|by| by.as_deref() != Some(name)), "{port} leads to {name}: {other:?}");
        container.vanish();
    }
}

/// Runs `work` for each of these at the same time.
fn at_once<T: Send, R: Send>(all: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn many_containers_publish_many_ports_at_once() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let containers: Vec<Container> = (0..12).map(|number| lab.container(&format!("c{number}"))).collect();
    let services: Vec<_> = containers.iter().map(|container| container.serve_tcp(80)).collect();
    let previous: Vec<Value> = containers.iter().map(|container| net.connect(container)).collect();
    let before = lab.snapshot();
    let first = |number: usize| 10_000 + 100 * u16::try_from(number).unwrap();
    let calls: Vec<_> = (0..containers.len())
        .map(|number| {
            let ports = first(number)..first(number) + 20;
            let mappings: Vec<Value> = ports.map(|port| tcp(port, 80)).collect();
            (net.call(&previous[number], Value::from(mappings)), &containers[number])
        })
        .collect();
    at_once(calls.iter().collect(), |(call, container)| call.add(container).expect_ok().len());
    for (number, container) in containers.iter().enumerate() {
        for host in HOST {
            for port in [first(number), first(number) + 19] {
                assert_eq!(
                    outside.ask_tcp(ip(host), port).unwrap().by,
                    container.name(),
                    "{host} port {port}"
                );
            }
        }
    }
    at_once(calls.iter().collect(), |(call, container)| call.check(container).expect_ok().len());
    at_once(calls.iter().collect(), |(call, container)| call.del(container).expect_ok().len());
    for host in HOST {
        assert!(falls_silent(&outside, host, first(3)), "{host}");
    }
    drop((services, before));
}

#[test]
fn of_many_that_want_a_port_at_once_one_gets_it() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let containers: Vec<Container> = (0..8).map(|number| lab.container(&format!("c{number}"))).collect();
    let services: Vec<_> = containers.iter().map(|container| container.serve_tcp(80)).collect();
    let previous: Vec<Value> = containers.iter().map(|container| net.connect(container)).collect();
    let wanted = |number: usize| match number % 3 {
        0 => json!([tcp(8080, 80)]),
        1 => json!([entry(8000, 80, json!({"range": 100}))]),
        _ => json!([
            entry(8080, 80, json!({"hostIP": "192.0.2.1"})),
            entry(8080, 80, json!({"hostIP": "::1"}))
        ]),
    };
    for _ in 0..5 {
        let answers = at_once((0..containers.len()).collect(), |number| {
            net.call(&previous[number], wanted(number)).add(&containers[number])
        });
        let winners: Vec<usize> = (0..answers.len()).filter(|number| answers[*number].code == 0).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let name = containers[winners[0]].name();
        for lost in answers.iter().filter(|answer| answer.code != 0) {
            let error = lost.expect_error(101);
            assert!(
                error["msg"].as_str().unwrap().contains(&format!("published by {name} on blue")),
                "{error}"
            );
        }
        if winners[0] % 3 != 1 {
            assert_eq!(by(&outside, 8080).as_deref(), Some(name));
        }
        net.withdraw(&containers[winners[0]]);
        assert!(falls_silent(&outside, HOST[0], 8080));
    }
    drop(services);
}

#[test]
fn of_many_that_choose_at_once_each_gets_another_port() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let containers: Vec<Container> = (0..12).map(|number| lab.container(&format!("c{number}"))).collect();
    let previous: Vec<Value> = containers.iter().map(|container| net.connect(container)).collect();
    let choice =
        json!([entry(8000, 80, json!({"range": 12, "choose": true})), {"containerPort": 81, "choose": true}]);
    at_once((0..containers.len()).collect(), |number| {
        net.call(&previous[number], choice.clone()).add(&containers[number]).expect_ok().len()
    });
    let mut all: Vec<u16> =
        containers.iter().flat_map(|container| host_ports(&lab, container.name())).collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (24, 24), "{all:?}");
    assert_eq!(all[..12], (8000..8012).collect::<Vec<u16>>());
}

/// The calls that change something: a process killed at each of them has left everything a crash can leave.
const CHANGES: [&str; 11] = [
    "openat",
    "write",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "flock",
    "sendto",
    "sendmsg",
];

/// Runs a verb of `portmap` and kills it as it enters the `nth` call of one kind.
fn killed(lab: &Lab, verb: &str, conf: &Value, container: &Container, call: &str, nth: u32) -> Output {
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    let program = Program::new("strace").args(["-f", "-o", "/dev/null", "-e", &inject]);
    let program = program.args([staged_folder().join("portmap")]);
    let program =
        program.env("WEFT_ROOT", lab.root()).env("CNI_COMMAND", verb).env("CNI_PATH", staged_folder());
    let program = program.env("CNI_CONTAINERID", container.name()).env("CNI_IFNAME", "eth0");
    program.env("CNI_NETNS", container.netns()).stdin(conf.to_string()).run()
}

/// Whatever moment a process is killed at, the next command goes on as if nothing had been.
fn crash(verb: &str) {
    let lab = Lab::new();
    skip_unless!(Path::new("/usr/bin/strace").exists(), "strace");
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let services = [&red, &green].map(|container| (container.serve_tcp(80), container.serve_tcp(90)));
    let previous = [net.connect(&red), net.connect(&green)];
    let mappings = json!([tcp(8080, 80), udp(8080, 80), entry(9000, 90, json!({"range": 10}))]);
    let conf = net.conf(&previous[0], mappings.clone());
    let call = |at: usize| net.call(&previous[at], mappings.clone());
    // What the first publication makes for good.
    for (at, container) in [&red, &green].into_iter().enumerate() {
        call(at).add(container).expect_ok();
        net.withdraw(container);
    }
    let before = lab.snapshot();
    let mut kills = 0;
    for kind in CHANGES {
        for nth in 1.. {
            if verb == "DEL" {
                call(0).add(&red).expect_ok();
            }
            let output = killed(&lab, verb, &conf, &red, kind, nth);
            if output.code == 0 {
                net.withdraw(&red);
                break;
            }
            assert_eq!(output.code, 137, "{kind} {nth}: {output}");
            kills += 1;
            // Another container asks for the same ports at once: red has them all, or they are free.
            let second = call(1).add(&green);
            let moment = format!("{verb} killed at {kind} {nth}");
            if second.code == 0 {
                assert_eq!(by(&outside, 8080).as_deref(), Some("green"), "{moment}: {}", lab.ruleset());
                assert_eq!(by(&outside, 9000).as_deref(), Some("green"), "{moment}");
                net.withdraw(&green);
            } else {
                let error = second.expect_error(101);
                assert!(
                    error["msg"].as_str().unwrap().contains("published by red on blue"),
                    "{moment}: {error}"
                );
                assert_eq!(by(&outside, 8080).as_deref(), Some("red"), "{moment}");
                assert_eq!(by(&outside, 9000).as_deref(), Some("red"), "{moment}");
            }
            match nth % 3 {
                // The runtime tries again, or gives up, or forgets and collects.
                0 => {
                    call(0).add(&red).expect_ok();
                    assert_eq!(by(&outside, 8080).as_deref(), Some("red"), "{moment}");
                    net.withdraw(&red);
                }
                1 => net.withdraw(&red),
                _ => {
                    net.call(&Value::Null, json!([])).gc(&[("green", "eth0")]).expect_ok();
                }
            }
            assert!(falls_silent(&outside, HOST[0], 8080), "{moment}");
            assert_eq!(books(&lab, "red"), [""; 0], "{moment}");
            // A file that was being written has another name, and is nobody's (docs/state.md).
            lab.sh(&format!("find {} -name '.weft-new-*' -delete", lab.root().display())).expect_ok();
            lab.assert_restored(&before);
        }
    }
    assert!(kills > 8, "{kills} kills: strace does not do what it is told");
    drop(services);
}

#[test]
fn an_add_killed_at_any_change_is_mended_by_the_next_command() {
    crash("ADD");
}

#[test]
fn a_del_killed_at_any_change_is_mended_by_the_next_command() {
    crash("DEL");
}

/// A live change from one list of ports to another, killed half-way: the old list or the new one, never a mixture.
#[test]
fn a_live_change_killed_at_any_moment_is_mended_by_the_next_command() {
    let lab = Lab::new();
    skip_unless!(Path::new("/usr/bin/strace").exists(), "strace");
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _services = (red.serve_tcp(80), green.serve_tcp(80));
    let previous = [net.connect(&red), net.connect(&green)];
    let (old, new) = (json!([tcp(8080, 80), tcp(8081, 80)]), json!([tcp(8081, 80), tcp(8082, 80)]));
    for kind in CHANGES {
        for nth in 1.. {
            net.call(&previous[0], old.clone()).add(&red).expect_ok();
            let output = killed(&lab, "ADD", &net.conf(&previous[0], new.clone()), &red, kind, nth);
            assert_eq!(by(&outside, 8081).as_deref(), Some("red"), "what both have went at {kind} {nth}");
            let done = output.code == 0;
            net.call(&previous[0], new.clone()).add(&red).expect_ok();
            assert!(falls_silent(&outside, HOST[0], 8080), "{kind} {nth}");
            assert_eq!([8081, 8082].map(|port| by(&outside, port).is_some()), [true, true], "{kind} {nth}");
            net.call(&previous[1], json!([tcp(8080, 80)])).add(&green).expect_ok();
            assert_eq!(by(&outside, 8080).as_deref(), Some("green"), "{kind} {nth}");
            net.withdraw(&green);
            if done {
                break;
            }
        }
    }
}
