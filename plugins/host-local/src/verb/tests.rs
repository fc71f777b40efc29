use super::*;
use crate::store::tests::age;

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> Root {
        Root::new(Some(self.dir.path().into()))
    }

    fn conf(subnet: &str) -> NetConf {
        let text = format!(
            r#"{{"cniVersion": "1.1.0", "name": "n1", "type": "bridge", "ipam": {{"type": "host-local", "subnet": "{subnet}"}}}}"#
        );
        NetConf::parse(text.as_bytes()).unwrap()
    }

    fn add(&self, subnet: &str, container: &str, args: &str) -> Result<String, Failure> {
        let result = add(&Self::conf(subnet), args, &self.root(), &Key::new(container, "eth0"))?;
        Ok(result.ips[0].address.ip().to_string())
    }

    /// Lets an earlier boot have made a container's leases. Returns whether that can be seen on this disk.
    fn reboot(&self, container: &str) -> bool {
        age(&conf::location(&Self::conf("10.0.0.0/29"), &self.root()), &Key::new(container, "eth0"));
        let local = crate::store::is_local(self.dir.path());
        if !local {
            weft_testkit::skipped("a directory on ext4, xfs or btrfs");
        }
        local
    }
}

#[test]
fn a_full_range_gives_the_addresses_of_an_earlier_boot_again() {
    let lab = Lab::new();
    for id in ["a", "b", "c", "d", "e"] {
        lab.add("10.0.0.0/29", id, "").unwrap();
    }
    let full = lab.add("10.0.0.0/29", "f", "").unwrap_err();
    assert_eq!(full.code, Code::EXHAUSTED);
    assert_eq!(full.details.as_deref(), Some("5 of its addresses are leased to 5 attachments"));
    let status = || status(&Lab::conf("10.0.0.0/29"), &lab.root());
    assert_eq!(status().unwrap_err().code, Code::NotAvailable);

    if lab.reboot("c") {
        status().unwrap();
        assert_eq!(lab.add("10.0.0.0/29", "f", "").unwrap(), "10.0.0.4");
        assert_eq!(lab.add("10.0.0.0/29", "g", "").unwrap_err().code, Code::EXHAUSTED);
    }
}

#[test]
fn a_name_that_comes_back_after_a_reboot_finds_its_address_free() {
    let lab = Lab::new();
    lab.add("10.0.0.0/24", "web", "IP=10.0.0.9").unwrap();
    lab.add("10.0.0.0/24", "db", "IP=10.0.0.10").unwrap();
    assert!(lab.add("10.0.0.0/24", "web", "IP=10.0.0.9").is_err());
    if lab.reboot("web") {
        assert_eq!(lab.add("10.0.0.0/24", "web", "IP=10.0.0.9").unwrap(), "10.0.0.9");
    }
    if lab.reboot("db") {
        assert_eq!(lab.add("10.0.0.0/24", "other", "IP=10.0.0.10").unwrap(), "10.0.0.10");
    }
    assert!(lab.add("10.0.0.0/24", "other", "").is_err(), "this boot's leases stay");
}
