//! Reading and writing `/proc/sys/net`, in the namespace of the calling thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};

use weft_model::IfName;

use crate::{Cause, Sysctl};

/// What writing a sysctl did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It had the value, or the kernel does not have it and it need not be there.
    AlreadyThere,
    /// It had this value before.
    Written(String),
}

impl Sysctl {
    /// Reads the name of a parameter of a network namespace as people write it, with dots or slashes, and returns its
    /// key; nothing if it is another one's name, or none.
    ///
    /// sysctl(8): where the first separator is a slash, a dot is part of a name, as in `net/ipv4/conf/eth0.5/forwarding`.
    pub fn key_of(written: &str) -> Option<String> {
        let slashes = written.find('/').is_some_and(|slash| written.find('.').is_none_or(|dot| slash < dot));
        let path = if slashes { written.into() } else { written.replace('.', "/") };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        Some(parts.join("/")).filter(|key| is_key(key))
    }

    /// Returns a parameter that must take the value, and in whose key `IFNAME` stands for a link.
    pub fn set_for(ifname: &IfName, key: &str, value: impl Into<String>) -> Self {
        Self::set(key.replacen("IFNAME", ifname.as_str(), 1), value)
    }
}

fn is_key(key: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control());
    key.starts_with("net/") && key.split('/').all(plain)
}

fn path(key: &str) -> Result<String, Cause> {
    if is_key(key) { Ok(format!("/proc/sys/{key}")) } else { Err(Cause::BadKey(key.into())) }
}

/// KERNEL: values with several numbers are read with tabs between them, however they were written.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// Makes a sysctl have its value. A file is written only if it has another one: `/proc/sys` may be
/// read-only and right. That of a link we created (`fresh`) is written without a look: it
/// goes with the link.
pub(crate) fn ensure(sysctl: &Sysctl, fresh: bool) -> Result<Change, Cause> {
    let path = path(&sysctl.key)?;
    let failed = |action| move |source| Cause::Sysctl { action, key: sysctl.key.clone(), source };
    if fresh && write(&path, &sysctl.value).is_ok() {
        return Ok(Change::AlreadyThere);
    }
    let before = match read(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !sysctl.required => {
            return Ok(Change::AlreadyThere);
        }
        Err(error) => return Err(failed("read")(error)),
    };
    if same(&before, &sysctl.value) {
        return Ok(Change::AlreadyThere);
    }
    write(&path, &sysctl.value).map_err(failed("write"))?;
    Ok(Change::Written(before.trim().into()))
}

/// Gives a sysctl back the value it had. One that went with its link needs none.
pub(crate) fn restore(key: &str, value: &str) -> Result<(), Cause> {
    match write(&path(key)?, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Cause::Sysctl { action: "write", key: key.into(), source }),
        Ok(()) => Ok(()),
    }
}

/// Reads a sysctl; nothing when the kernel does not have it.
pub(crate) fn value(key: &str) -> Result<Option<String>, Cause> {
    match read(&path(key)?) {
        Ok(value) => Ok(Some(value.trim().into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Cause::Sysctl { action: "read", key: key.into(), source }),
    }
}

/// Says how a sysctl differs from what it should be.
pub(crate) fn observe(sysctl: &Sysctl) -> Result<Option<String>, Cause> {
    let Sysctl { key, value, required } = sysctl;
    match read(&path(key)?) {
        Ok(found) if same(&found, value) => Ok(None),
        Ok(found) => Ok(Some(format!("sysctl {key} is {}, not {value}", found.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(required.then(|| format!("sysctl {key} does not exist")))
        }
        Err(source) => Err(Cause::Sysctl { action: "read", key: key.clone(), source }),
    }
}

/// Reads a value. The kernel gives all of it at once, and asking such a file for its size first is a wasted call.
fn read(path: &str) -> io::Result<String> {
    let mut value = [0; 1024];
    let length = File::open(path)?.read(&mut value)?;
    if length == value.len() {
        return fs::read_to_string(path);
    }
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// KERNEL: a sysctl takes its value in one write, at once; there is no half-written state.
fn write(path: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_namespace() {
        for (written, key) in [
            ("net.core.somaxconn", Some("net/core/somaxconn")),
            ("net.ipv4.conf.IFNAME.arp_filter", Some("net/ipv4/conf/IFNAME/arp_filter")),
            ("net/ipv4/conf/eth0.5/arp_filter", Some("net/ipv4/conf/eth0.5/arp_filter")),
            ("net//core/somaxconn", Some("net/core/somaxconn")),
            ("net.ipv4..ip_forward", Some("net/ipv4/ip_forward")),
            ("net", None),
            ("", None),
            ("kernel.shmmax", None),
            ("../net.ipv4", Some("net/ipv4")),
            ("net/../kernel/core_pattern", None),
            ("net/./x", None),
            ("net/core/a\nb", None),
            ("networking.x", None),
        ] {
            assert_eq!(Sysctl::key_of(written).as_deref(), key, "{written}");
        }
    }

    #[test]
    fn a_links_parameter_may_have_a_dot_in_it() {
        let of = |key| Sysctl::set_for(&"eth0.5".parse().unwrap(), key, "1").key;
        assert_eq!(of("net/ipv4/conf/IFNAME/arp_filter"), "net/ipv4/conf/eth0.5/arp_filter");
        assert_eq!(of("net/core/somaxconn"), "net/core/somaxconn");
    }
}
