use weft_state::atomic::{self, Durability};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lab() -> (tempfile::TempDir, Location) {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::new(dir.path(), &"n1".parse().unwrap(), false);
    (dir, location)
}

/// What another program would do, with or without a sense for atomicity.
fn write_lease(location: &Location, name: &str, content: &str) {
    fs::create_dir_all(&location.dir).unwrap();
    let mut file = File::create(location.dir.join(name)).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

fn addresses(store: &mut Store, key: &Key) -> Vec<String> {
    let mut found: Vec<String> =
        store.leases_of(key).unwrap().iter().map(|lease| lease.address.to_string()).collect();
    found.sort();
    found
}

fn all(location: &Location) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(&location.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name.parse::<IpAddr>().is_ok());
    names.sort();
    names
}

#[test]
fn a_lease_is_a_file_of_the_reference_plugin() {
    let (_dir, location) = lab();
    assert!(Store::open(&location).unwrap().is_none());
    let key = Key::new("dummy", "eth0");
    let mut store = Store::create(&location).unwrap();
    assert!(store.reserve(ip("10.1.2.2"), &key).unwrap());
    assert!(store.reserve(ip("2001:db8:1::2"), &key).unwrap());
    store.finish().unwrap();
    assert_eq!(fs::read(location.dir.join("10.1.2.2")).unwrap(), b"dummy\r\neth0");
    assert_eq!(all(&location), ["10.1.2.2", "2001:db8:1::2"]);
    assert_eq!(fs::metadata(location.dir.join("10.1.2.2")).unwrap().mode() & 0o777, 0o600);
    let beside: Vec<_> =
        fs::read_dir(&location.index).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["leases"]);

    let mut store = Store::open(&location).unwrap().unwrap();
    assert!(!store.changed, "the index was not taken at its word");
    assert_eq!(addresses(&mut store, &key), ["10.1.2.2", "2001:db8:1::2"]);
    for lease in store.leases_of(&key).unwrap() {
        store.release(&lease).unwrap();
    }
    store.finish().unwrap();
    assert!(all(&location).is_empty());
    let mut store = Store::open(&location).unwrap().unwrap();
    assert!(!store.changed && store.leases_of(&key).unwrap().is_empty());
}

#[test]
fn a_file_is_used_again_and_holds_nothing_of_its_former_holder() {
    let (_dir, location) = lab();
    let hold = |key: &Key, address| {
        let mut store = Store::create(&location).unwrap();
        assert!(store.reserve(ip(address), key).unwrap());
        store.finish().unwrap();
    };
    let release = |key: &Key| {
        let mut store = Store::create(&location).unwrap();
        assert!(!store.changed);
        let lease = store.leases_of(key).unwrap()[0];
        store.release(&lease).unwrap();
        store.finish().unwrap();
    };
    let inode = |name: &str| fs::metadata(location.dir.join(name)).unwrap().ino();
    let [long, short] = [Key::new("a-container-with-a-long-name", "eth0"), Key::new("c", "e")];
    hold(&long, "10.1.2.2");
    let before = inode("10.1.2.2");
    release(&long);
    assert!(all(&location).is_empty() && location.index.join("spare.0").exists());
    hold(&short, "10.1.2.3");
    assert_eq!(inode("10.1.2.3"), before);
    assert_eq!(fs::read(location.dir.join("10.1.2.3")).unwrap(), short.content());
    assert!(!location.index.join("spare.0").exists());

    // Somebody tidies up between us.
    release(&short);
    fs::remove_file(location.index.join("spare.0")).unwrap();
    hold(&long, "10.1.2.2");
    assert_eq!(fs::read(location.dir.join("10.1.2.2")).unwrap(), long.content());
}

#[test]
fn a_spare_file_that_became_a_lease_is_not_written_to() {
    let (_dir, location) = lab();
    let [first, second] = [Key::new("first", "eth0"), Key::new("second", "eth0")];
    let mut store = Store::create(&location).unwrap();
    assert!(store.reserve(ip("10.1.2.2"), &first).unwrap());
    store.finish().unwrap();
    // What a kill between the link and the removal of the old name leaves behind.
    fs::hard_link(location.dir.join("10.1.2.2"), location.index.join("spare.0")).unwrap();
    fs::hard_link(location.dir.join("10.1.2.2"), location.index.join("new")).unwrap();
    write_lease(&location, "10.1.2.9", "so that the directory changed\r\nafter the index");
    let mut store = Store::create(&location).unwrap();
    assert!(store.reserve(ip("10.1.2.3"), &second).unwrap());
    store.finish().unwrap();
    assert_eq!(fs::read(location.dir.join("10.1.2.2")).unwrap(), first.content());
    assert_eq!(fs::read(location.dir.join("10.1.2.3")).unwrap(), second.content());
}

#[test]
fn spare_files_are_few() {
    let (_dir, location) = lab();
    let key = Key::new("many", "eth0");
    let mut store = Store::create(&location).unwrap();
    for host in 0..100 {
        assert!(store.reserve(ip(&format!("10.1.2.{host}")), &key).unwrap());
    }
    for lease in store.leases_of(&key).unwrap() {
        store.release(&lease).unwrap();
    }
    store.finish().unwrap();
    assert!(all(&location).is_empty());
    assert_eq!(fs::read_dir(&location.index).unwrap().count(), SPARES + 1);
}

#[test]
fn what_others_do_is_noticed_at_once() {
    let (_dir, location) = lab();
    let ours = Key::new("ours", "eth0");
    for round in 0..50 {
        let mut store = Store::create(&location).unwrap();
        assert!(store.reserve(ip("10.1.2.2"), &ours).unwrap());
        store.finish().unwrap();

        // In the same tick of the file system's clock, more often than not.
        write_lease(&location, "10.1.2.3", "theirs\r\neth0");
        let mut store = Store::create(&location).unwrap();
        assert!(store.changed, "round {round}");
        assert_eq!(store.first_free(ip("10.1.2.2"), ip("10.1.2.9")).unwrap(), Some(ip("10.1.2.4")));
        assert_eq!(addresses(&mut store, &Key::new("theirs", "eth0")), ["10.1.2.3"]);
        store.finish().unwrap();

        fs::remove_file(location.dir.join("10.1.2.3")).unwrap();
        fs::remove_file(location.dir.join("10.1.2.2")).unwrap();
        let mut store = Store::create(&location).unwrap();
        assert_eq!(store.first_free(ip("10.1.2.2"), ip("10.1.2.9")).unwrap(), Some(ip("10.1.2.2")));
        assert!(addresses(&mut store, &ours).is_empty());
        store.finish().unwrap();
    }
}

#[test]
fn a_lease_changed_in_place_is_noticed_when_it_matters() {
    let (_dir, location) = lab();
    let key = Key::new("ours", "eth0");
    let mut store = Store::create(&location).unwrap();
    assert!(store.reserve(ip("10.1.2.2"), &key).unwrap());
    store.finish().unwrap();
    File::options()
        .write(true)
        .open(location.dir.join("10.1.2.2"))
        .unwrap()
        .write_all(b"them\r\neth0")
        .unwrap();
    let mut store = Store::create(&location).unwrap();
    assert!(!store.changed, "a change inside a file does not show in its directory");
    assert!(addresses(&mut store, &key).is_empty());
    assert_eq!(addresses(&mut store, &Key::new("them", "eth0")), ["10.1.2.2"]);
}

#[test]
fn the_directory_of_before_is_not_that_of_now() {
    let (_dir, location) = lab();
    let key = Key::new("ours", "eth0");
    let mut store = Store::create(&location).unwrap();
    assert!(store.reserve(ip("10.1.2.2"), &key).unwrap());
    store.finish().unwrap();
    fs::remove_dir_all(&location.dir).unwrap();
    let mut store = Store::create(&location).unwrap();
    assert!(store.leases_of(&key).unwrap().is_empty());
    assert!(store.reserve(ip("10.1.2.2"), &key).unwrap());
}

#[test]
fn empty_files_are_free_and_notes_are_left_alone() {
    let (_dir, location) = lab();
    write_lease(&location, "10.1.2.2", "");
    write_lease(&location, "10.1.2.3", "\0\0\0\0\0\0");
    write_lease(&location, "10.1.2.4", "old");
    write_lease(&location, "10.1.2.5", " old\r\neth0 \n");
    write_lease(&location, "10.1.2.6", "reserved for the printer");
    write_lease(&location, "README", "old\r\neth0");
    write_lease(&location, "2001:DB8::5", "old\r\neth0");
    fs::create_dir(location.dir.join("10.1.2.7")).unwrap();
    let mut store = Store::create(&location).unwrap();
    assert_eq!(all(&location), ["10.1.2.4", "10.1.2.5", "10.1.2.6", "10.1.2.7", "2001:DB8::5"]);
    assert_eq!(store.first_free(ip("10.1.2.2"), ip("10.1.2.9")).unwrap(), Some(ip("10.1.2.2")));
    assert_eq!(store.first_free(ip("10.1.2.4"), ip("10.1.2.9")).unwrap(), Some(ip("10.1.2.8")));
    assert_eq!(addresses(&mut store, &Key::new("old", "eth0")), ["10.1.2.5"]);
    assert_eq!(addresses(&mut store, &Key::new("old", "eth1")), ["10.1.2.4"]);
}

#[test]
fn an_address_that_somebody_takes_without_the_lock_is_passed_over() {
    let (_dir, location) = lab();
    let mut store = Store::create(&location).unwrap();
    write_lease(&location, "10.1.2.2", "rude\r\neth0");
    let key = Key::new("ours", "eth0");
    assert!(!store.reserve(ip("10.1.2.2"), &key).unwrap());
    assert_eq!(store.first_free(ip("10.1.2.2"), ip("10.1.2.9")).unwrap(), Some(ip("10.1.2.3")));
    assert_eq!(store.holder(ip("10.1.2.2")).unwrap(), Some(Key::new("rude", "eth0")));
}

#[test]
fn the_leftovers_of_the_killed_are_removed() {
    let (_dir, location) = lab();
    Store::create(&location).unwrap().finish().unwrap();
    let leftover = location.index.join(atomic::temporary_name());
    atomic::write(&leftover, b"half", Durability::Boot, 0o600).unwrap();
    write_lease(&location, "10.1.2.2", "a change, so that there is a scan");
    Store::create(&location).unwrap().finish().unwrap();
    assert!(!leftover.exists());
}

/// Makes the leases of a holder look as if an earlier boot had made them.
pub(crate) fn age(location: &Location, key: &Key) {
    let path = location.index.join("leases");
    let (index, state) = Index::open(&path).unwrap();
    let mut leases = index.leases().unwrap();
    for lease in leases.iter_mut().filter(|lease| lease.holder == key.hash()) {
        lease.boot = 99;
    }
    Index::new(&leases).save(&path, &state).unwrap();
}

#[test]
fn only_what_we_made_in_an_earlier_boot_is_dead() {
    let (_dir, location) = lab();
    let [old, new, rewritten] = ["old", "new", "rewritten"].map(|id| Key::new(id, "eth0"));
    let mut store = Store::create(&location).unwrap();
    for (host, key) in [("10.1.2.2", &old), ("10.1.2.3", &new), ("10.1.2.4", &rewritten)] {
        assert!(store.reserve(ip(host), key).unwrap());
    }
    store.finish().unwrap();
    write_lease(&location, "10.1.2.5", "foreign\r\neth0");
    Store::create(&location).unwrap().finish().unwrap();
    age(&location, &old);
    age(&location, &rewritten);
    if !is_local(&location.dir) {
        weft_testkit::skipped("a directory on ext4, xfs or btrfs");
        return;
    }

    // The same container came back, and the reference plugin gave it the same address.
    fs::remove_file(location.dir.join("10.1.2.4")).unwrap();
    write_lease(&location, "10.1.2.4", "rewritten\r\neth0");
    for scanned in [true, false] {
        let mut store = Store::create(&location).unwrap();
        assert_eq!(store.changed, scanned);
        let dead: Vec<IpAddr> = store.dead().unwrap().iter().map(|lease| lease.address).collect();
        assert_eq!(dead, [ip("10.1.2.2")]);
        store.finish().unwrap();
    }
}
