use std::collections::BTreeSet;

use weft_model::port::Publication;

use super::*;

fn books() -> (tempfile::TempDir, Books) {
    let dir = tempfile::tempdir().unwrap();
    let books = Books::new(&Root::new(Some(dir.path().into())));
    (dir, books)
}

fn endpoint(container: &str) -> Endpoint {
    Endpoint {
        network: "blue".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn publication(host: &str, ports: &str) -> Publication {
    let host: IpAddr = host.parse().unwrap();
    Publication {
        protocol: Protocol::Tcp,
        host,
        host_ports: ports.parse().unwrap(),
        target: if host.is_ipv4() { [10, 1, 0, 2].into() } else { "fd00::2".parse().unwrap() },
        target_ports: ports.parse().unwrap(),
        from: Vec::new(),
    }
}

fn wanted(container: &str, publications: &[Publication]) -> Owner {
    Owner { publications: publications.into(), ..Owner::new(endpoint(container), "weft").unwrap() }
}

/// Publishes all the way, or says who is in the way.
fn publish(books: &Books, container: &str, publications: &[Publication]) -> Result<Vec<Taken>, PortsError> {
    let mut change = books.change(&endpoint(container)).unwrap();
    let claimed = change.claim(wanted(container, publications), &[], &mut |_, _, _| true)?;
    change.confirm(&claimed).unwrap();
    Ok(claimed.taken)
}

fn unpublish(books: &Books, container: &str) {
    books.change(&endpoint(container)).unwrap().forget().unwrap();
}

fn files(books: &Books) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![books.dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(&books.dir).unwrap().display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_port_is_one_attachments_until_it_is_given_back() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("0.0.0.0", "8080"), publication("::", "9000-9099")]).unwrap();
    let names: Vec<_> = files(&books).into_iter().collect();
    assert_eq!(
        names,
        ["claims/tcp/0.0.0.0/31/8080", "claims/tcp/::/ranges/9000-9099", "owners/c1,eth0.json"]
    );
    let error = publish(&books, "c2", &[publication("127.0.0.1", "8080")]).unwrap_err();
    assert_eq!(error.to_string(), "port 8080/tcp of 0.0.0.0 is published by c1 on blue");
    let error = publish(&books, "c2", &[publication("::1", "9050-9150")]).unwrap_err();
    assert_eq!(error.to_string(), "port 9000-9099/tcp of :: is published by c1 on blue");
    assert_eq!(files(&books).into_iter().collect::<Vec<_>>(), names, "a refusal leaves nothing");

    publish(&books, "c2", &[publication("::", "8080")]).unwrap();
    unpublish(&books, "c1");
    publish(&books, "c3", &[publication("127.0.0.1", "8080")]).unwrap();
    assert_eq!(books.holders(&"blue".parse().unwrap()).len(), 2);
    assert_eq!(books.holder(Protocol::Tcp, "0.0.0.0".parse().unwrap(), 8080).unwrap(), Some(endpoint("c3")));
    for container in ["c2", "c3"] {
        unpublish(&books, container);
    }
    assert_eq!(files(&books), BTreeSet::new());
}

/// Claims, and dies before anything is confirmed.
fn killed_while_publishing(books: &Books, container: &str, publications: &[Publication]) {
    let mut change = books.change(&endpoint(container)).unwrap();
    change.claim(wanted(container, publications), &[], &mut |_, _, _| true).unwrap();
}

#[test]
fn what_a_killed_process_claimed_is_taken_over() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("0.0.0.0", "80")]).unwrap();
    killed_while_publishing(
        &books,
        "c1",
        &[publication("127.0.0.1", "8080"), publication("::", "9000-9009")],
    );
    assert_eq!(books.interrupted_changes().len(), 1);
    assert_eq!(books.owner(&"c1".parse().unwrap(), &"eth0".parse().unwrap()).unwrap().publications.len(), 1);

    let taken = publish(&books, "c2", &[publication("0.0.0.0", "8080")]).unwrap();

    let claims: Vec<_> = taken.iter().map(|one| one.claim).collect();
    assert_eq!(claims, [Claim::Host(Protocol::Tcp, "127.0.0.1".parse().unwrap(), "8080".parse().unwrap())]);
    assert_eq!(taken[0].owners.len(), 2, "what was confirmed and what was not");
    let error = publish(&books, "c3", &[publication("0.0.0.0", "80")]).unwrap_err().to_string();
    assert_eq!(error, "port 80/tcp of 0.0.0.0 is published by c1 on blue", "what is confirmed stays");

    // The dead one's DEL comes late and leaves what another has by now.
    let mut change = books.change(&endpoint("c1")).unwrap();
    let known = change.known_claims();
    assert_eq!(known.len(), 3);
    assert_eq!(change.still_owned(&known).unwrap().len(), 2, "all but the one that was taken");
    assert!(!change.forget().unwrap(), "c2 is left");
    drop(change);
    assert_eq!(
        books.holder(Protocol::Tcp, "127.0.0.1".parse().unwrap(), 8080).unwrap(),
        Some(endpoint("c2"))
    );
    let mut change = books.change(&endpoint("c2")).unwrap();
    assert!(change.forget().unwrap(), "nobody is left");
    assert_eq!(files(&books), BTreeSet::new());
}

#[test]
fn of_ports_that_are_being_changed_others_know_what_they_will_be() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80")]).unwrap();
    let mut first = books.change(&endpoint("c2")).unwrap();
    first.claim(wanted("c2", &[publication("::", "90")]), &[], &mut |_, _, _| true).unwrap();
    let mut change = books.change(&endpoint("c1")).unwrap();
    change.claim(wanted("c1", &[publication("::", "81")]), &[], &mut |_, _, _| true).unwrap();
    let ports =
        |owners: Vec<Owner>| -> Vec<_> { owners.into_iter().map(|owner| owner.publications).collect() };
    assert_eq!(ports(books.owners()), [[publication("::", "80")]]);
    assert_eq!(
        ports(books.owners_as_changed()),
        [[publication("::", "81")]],
        "what is new is written by who publishes it"
    );
    drop(change);
    assert_eq!(ports(books.owners_as_changed()), [[publication("::", "80")]], "nobody is at work");
}

#[test]
fn what_is_being_changed_is_nobodys_to_take() {
    let (_dir, books) = books();
    let mut change = books.change(&endpoint("c1")).unwrap();
    let claimed = change.claim(wanted("c1", &[publication("::", "80")]), &[], &mut |_, _, _| true).unwrap();
    assert!(publish(&books, "c2", &[publication("::", "80")]).is_err());
    assert_eq!(books.interrupted_changes(), []);
    assert_eq!(books.standing().unwrap().len(), 1, "an intent under way has to be in the kernel");
    change.abandon(&claimed).unwrap();
    drop(change);
    publish(&books, "c2", &[publication("::", "80")]).unwrap();

    let mut change = books.change(&endpoint("c2")).unwrap();
    change.withdraw().unwrap();
    assert!(publish(&books, "c1", &[publication("::", "80")]).is_err(), "until it is gone from the kernel");
    assert!(books.standing().unwrap().is_empty(), "but nobody writes it anew");
    assert_eq!(books.holders(&"blue".parse().unwrap()), [endpoint("c2")]);
    drop(change);
    assert_eq!(books.interrupted_changes().len(), 1);
    let taken = publish(&books, "c1", &[publication("::", "80")]).unwrap();
    assert_eq!(taken.len(), 1, "whoever was killed while he took it back has it no longer");
}

#[test]
fn another_interface_of_the_container_takes_over_what_a_killed_process_claimed() {
    let (_dir, books) = books();
    let second = Endpoint { ifname: "eth1".parse().unwrap(), ..endpoint("c1") };
    let owner = || Owner { endpoint: second.clone(), ..wanted("c1", &[publication("::", "80")]) };
    killed_while_publishing(&books, "c1", &[publication("::", "80")]);
    let mut change = books.change(&second).unwrap();
    let claimed = change.claim(owner(), &[], &mut |_, _, _| true).unwrap();
    assert_eq!(claimed.taken.len(), 1);
    change.confirm(&claimed).unwrap();
    drop(change);
    assert_eq!(books.holder(Protocol::Tcp, "::".parse().unwrap(), 80).unwrap(), Some(second.clone()));

    // Of another container, a process at work is one that may still confirm.
    let mut at_work = books.change(&endpoint("c2")).unwrap();
    at_work.claim(wanted("c2", &[publication("::", "81")]), &[], &mut |_, _, _| true).unwrap();
    assert!(publish(&books, "c3", &[publication("::", "81")]).is_err());
}

#[test]
fn a_killed_withdrawal_forgets_no_list() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80")]).unwrap();
    killed_while_publishing(&books, "c1", &[publication("::", "81")]);
    // Each is killed before it has forgotten anything.
    for _ in 0..3 {
        let mut change = books.change(&endpoint("c1")).unwrap();
        change.withdraw().unwrap();
        drop(change);
        assert_eq!(books.change(&endpoint("c1")).unwrap().known_claims().len(), 2);
        assert!(books.standing().unwrap().is_empty());
    }
    unpublish(&books, "c1");
    assert_eq!(files(&books), BTreeSet::new());
}

#[test]
fn what_a_damaged_file_listed_is_found_by_the_claims() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80"), publication("127.0.0.1", "90-99")]).unwrap();
    publish(&books, "c2", &[publication("::", "81")]).unwrap();
    let stays = books.list().unwrap().remove(1);
    let path = books.dir.join("owners/c1,eth0.json");
    let damage = |text: &str| atomic::write(&path, text.as_bytes(), atomic::Durability::Boot, 0o600).unwrap();
    assert!(!books.change(&endpoint("c1")).unwrap().is_damaged());
    assert_eq!(books.damaged().len(), 0);
    // What a newer version wrote is not ours to clear away.
    damage("{\"schema\": 2}");
    assert_eq!(books.damaged().len(), 0);
    assert!(books.list().is_err());

    damage("{\"schema\": 1, \"boot\"");

    assert_eq!(books.list().unwrap(), [stays], "the others are listed all the same");
    let [damaged] = books.damaged().try_into().unwrap();
    assert_eq!(damaged.endpoint, Some(endpoint("c1")));
    assert!(damaged.error.to_string().contains("c1,eth0.json is damaged: EOF"), "{}", damaged.error);
    assert_eq!(books.holders(&"blue".parse().unwrap()), [endpoint("c1"), endpoint("c2")]);
    assert_eq!(books.holders(&"red".parse().unwrap()), []);
    books.discard(&damaged).unwrap();
    assert!(path.exists(), "there are claims yet");
    let mut change = books.change(&endpoint("c1")).unwrap();
    assert!(change.is_damaged());
    let found: Vec<_> = change.found_claims().unwrap().into_iter().map(|(claim, _)| claim.ports()).collect();
    assert_eq!(found, [Some("90-99".parse().unwrap()), Some("80".parse().unwrap())]);
    assert!(!change.forget().unwrap(), "c2 is left");
    drop(change);
    let left: Vec<_> = files(&books).into_iter().collect();
    assert_eq!(left, ["claims/tcp/::/0/81", "owners/c2,eth0.json"]);

    damage("");
    let [damaged] = books.damaged().try_into().unwrap();
    assert_eq!(damaged.endpoint, None);
    books.discard(&damaged).unwrap();
    assert_eq!(files(&books).into_iter().collect::<Vec<_>>(), left);
}

#[test]
fn a_change_is_settled_before_the_next() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80")]).unwrap();
    killed_while_publishing(&books, "c1", &[publication("::", "80"), publication("::", "81")]);
    let mut change = books.change(&endpoint("c1")).unwrap();
    assert_eq!(change.interrupted().len(), 1);
    change.settle().unwrap();
    assert!(change.interrupted().is_empty());
    assert_eq!(change.known_claims().len(), 1);
    drop(change);
    assert_eq!(
        files(&books).into_iter().collect::<Vec<_>>(),
        ["claims/tcp/::/0/80", "owners/c1,eth0.json"],
        "the claim of the change that never was is gone"
    );
}

#[test]
fn claims_of_nobody_are_void() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80"), publication("::", "90-99")]).unwrap();
    // Cut short, of another boot, without an owner.
    let claim = books.dir.join("claims/tcp/::/0/80");
    atomic::write(&claim, b"c1\neth0", atomic::Durability::Boot, 0o600).unwrap();
    publish(&books, "c2", &[publication("::", "80")]).unwrap();
    let path = books.dir.join("owners/c2,eth0.json");
    let text = fs::read_to_string(&path).unwrap().replace(&boot::id().unwrap(), "0-0");
    atomic::write(&path, text.as_bytes(), atomic::Durability::Boot, 0o600).unwrap();
    assert!(books.owner(&"c2".parse().unwrap(), &"eth0".parse().unwrap()).is_none());
    publish(&books, "c3", &[publication("::", "80")]).unwrap();
    fs::remove_file(books.dir.join("owners/c1,eth0.json")).unwrap();
    publish(&books, "c4", &[publication("::", "95")]).unwrap();
    assert!(!books.dir.join("claims/tcp/::/ranges").exists());
}

#[test]
fn what_is_no_file_is_nobodys_claim_and_nobody_waits() {
    let (_dir, books) = books();
    publish(&books, "c1", &[publication("::", "80")]).unwrap();
    let pipe = |name: &str| {
        let path = books.dir.join(name);
        fs::remove_file(&path).ok();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    pipe("claims/tcp/::/0/80");
    pipe("cursor-tcp");
    assert_eq!(books.orphans().unwrap().iter().filter(|orphan| orphan.holder.is_none()).count(), 1);
    publish(&books, "c2", &[publication("::", "80")]).unwrap();
    assert!(books.dir.join("claims/tcp/::/0/80").is_file());
    assert_eq!(books.cursor(Protocol::Tcp), None);
}

#[test]
fn a_containers_address_belongs_to_whoever_has_it_last() {
    let (_dir, books) = books();
    let routed = |container: &str| {
        let owner = wanted(container, &[publication("0.0.0.0", "80")]);
        let ipv4 = weft_model::GatewayMode::Routed;
        Owner { gateways: weft_model::Gateways { ipv4, ..Default::default() }, ..owner }
    };
    let publish = |container: &str| {
        let mut change = books.change(&endpoint(container)).unwrap();
        let claimed = change.claim(routed(container), &[], &mut |_, _, _| true).unwrap();
        change.confirm(&claimed).unwrap();
        claimed.taken.len()
    };
    assert_eq!((publish("c1"), publish("c2"), publish("c2")), (0, 1, 0));
    let mut late = books.change(&endpoint("c1")).unwrap();
    let known = late.known_claims();
    assert_eq!(late.still_owned(&known).unwrap(), []);
    late.forget().unwrap();
    assert!(books.dir.join("claims/routed-tcp/10.1.0.2/0/80").exists());
    // Host ports mean nothing there.
    let translated = wanted("c3", &[publication("0.0.0.0", "80")]);
    let mut change = books.change(&endpoint("c3")).unwrap();
    assert!(change.claim(translated, &[], &mut |_, _, _| true).unwrap().taken.is_empty());
}

#[test]
fn one_request_has_no_port_twice() {
    let (_dir, books) = books();
    for (one, other) in [("0.0.0.0 80", "127.0.0.1 80"), (":: 80-90", "::1 85"), (":: 80", ":: 80")] {
        let of = |text: &str| text.split_once(' ').map(|(host, ports)| publication(host, ports)).unwrap();
        let error = publish(&books, "c1", &[of(one), of(other)]).unwrap_err().to_string();
        assert!(error.ends_with(" is asked for twice"), "{error}");
    }
    publish(
        &books,
        "c1",
        &[publication("127.0.0.1", "80"), publication("127.0.0.2", "80"), publication("::", "80")],
    )
    .unwrap();
}

fn any_port(among: Option<&str>, hosts: &[&str]) -> Choice {
    let binding =
        |host: &&str| Binding { host: host.parse().unwrap(), target: publication(host, "1").target };
    Choice {
        protocol: Protocol::Tcp,
        among: among.map(|text| text.parse().unwrap()),
        bindings: hosts.iter().map(binding).collect(),
        target_port: 80,
        from: Vec::new(),
    }
}

fn choose(books: &Books, container: &str, choices: &[Choice], busy: &[u16]) -> Result<Vec<u16>, PortsError> {
    let mut change = books.change(&endpoint(container)).unwrap();
    let claimed = change.claim(wanted(container, &[]), choices, &mut |_, _, port| !busy.contains(&port))?;
    change.confirm(&claimed).unwrap();
    Ok(claimed.owner.chosen.iter().map(|one| one.port).collect())
}

#[test]
fn the_first_free_port_of_a_range_is_chosen_and_kept() {
    let (_dir, books) = books();
    publish(&books, "c0", &[publication("127.0.0.1", "8001")]).unwrap();
    let both = any_port(Some("8000-8004"), &["0.0.0.0", "::"]);
    assert_eq!(choose(&books, "c1", std::slice::from_ref(&both), &[8000, 8002]).unwrap(), [8003]);
    assert_eq!(
        choose(&books, "c1", std::slice::from_ref(&both), &[]).unwrap(),
        [8003],
        "it stays, though others are free"
    );
    let three = [both.clone(), both.clone(), any_port(Some("8000-8004"), &["127.0.0.2"])];
    assert_eq!(choose(&books, "c1", &three, &[8002]).unwrap(), [8003, 8000, 8001]);
    assert_eq!(choose(&books, "c2", std::slice::from_ref(&both), &[]).unwrap(), [8002]);
    assert_eq!(choose(&books, "c3", std::slice::from_ref(&both), &[]).unwrap(), [8004]);
    let error = choose(&books, "c4", &[both], &[]).unwrap_err().to_string();
    assert_eq!(error, "no tcp port of 8000-8004 is free on 0.0.0.0");
    assert!(!books.dir.join("owners/c4,eth0.intent").exists());
}

#[test]
fn more_choices_than_ports_are_refused_at_once() {
    let (_dir, books) = books();
    let many = |count: u16, among: Option<&str>| {
        let one = any_port(among, &["0.0.0.0"]);
        (1..=count).map(|target_port| Choice { target_port, ..one.clone() }).collect::<Vec<_>>()
    };
    assert_eq!(choose(&books, "c1", &many(3, Some("8000-8002")), &[]).unwrap(), [8000, 8001, 8002]);
    let error = choose(&books, "c2", &many(4, Some("9000-9002")), &[]).unwrap_err();
    assert_eq!(error.to_string(), "no tcp port of 9000-9002 is free on 0.0.0.0");
    let error = choose(&books, "c2", &many(u16::MAX, None), &[]).unwrap_err().to_string();
    assert!(error.contains(" is free on 0.0.0.0"), "{error}");
    assert!(!files(&books).iter().any(|file| file.contains("c2")), "{:?}", files(&books));
}

#[test]
fn ephemeral_ports_go_round() {
    let (_dir, books) = books();
    let (among, reserved) = ephemeral_ports();
    let is_usable = |port: &u16| !reserved.iter().any(|range| range.contains(*port));
    let usable: Vec<u16> = among.ports().filter(is_usable).collect();
    let one = [any_port(None, &["0.0.0.0"])];
    assert_eq!(choose(&books, "c1", &one, &[]).unwrap(), usable[..1]);
    unpublish(&books, "c1");
    assert_eq!(
        choose(&books, "c2", &one, &[]).unwrap(),
        usable[1..2],
        "the next one, though the first is free"
    );
    books.set_cursor(Protocol::Tcp, among.last());
    assert_eq!(choose(&books, "c3", &one, &[]).unwrap(), usable[..1], "and round again");
    let twice = [any_port(None, &["::"]), any_port(None, &["::1"])];
    assert_eq!(choose(&books, "c4", &twice, &usable[1..5]).unwrap(), usable[5..7]);
}

mod model;
