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
    assert_eq!(error.to_string(), "port 8080/tcp of 127.0.0.1 is published by c1 on blue");
    let error = publish(&books, "c2", &[publication("::1", "9050-9150")]).unwrap_err();
    assert_eq!(error.to_string(), "port 9050-9150/tcp of ::1 is published by c1 on blue");
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
