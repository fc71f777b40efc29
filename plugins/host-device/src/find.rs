//! From the name of a device to its link.

use std::fs;
use std::path::{Path, PathBuf};

use weft_cni::{Code, Failure};
use weft_model::IfName;
use weft_plan::Kernel;

use crate::conf::{Device, Wanted};

/// Where the kernel lists the devices of its buses.
const PCI: &str = "/sys/bus/pci/devices";
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";

/// The drivers that hand a PCI device to a program (<https://doc.dpdk.org/guides/linux_gsg/linux_drivers.html>).
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// Looks for a device of the host.
///
/// # Errors
///
/// Code 7 with the reference plugin's words if there is none.
pub(crate) fn device(wanted: &Wanted, kernel: &mut Kernel) -> Result<Device, Failure> {
    let candidates = match wanted {
        Wanted::Nothing => return Ok(Device::Unknown),
        Wanted::Name(name) => vec![name.clone()],
        Wanted::Mac(mac) => kernel.hosts_links(Some(*mac)).map_err(internal)?,
        Wanted::KernelPath(path) => links_in(path),
        Wanted::Pci(id) => match pci(id) {
            Some(unseen) if unseen.is_empty() => return Ok(Device::Unseen),
            found => found.unwrap_or_default(),
        },
        Wanted::Id(id) if Path::new(PCI).join(id).exists() => {
            return device(&Wanted::Pci(id.clone()), kernel);
        }
        Wanted::Id(id) => {
            let path = Path::new(AUXILIARY).join(id);
            if !path.exists() {
                let text = format!("runtime config DeviceID {id} not found or unsupported");
                return Err(Failure::text(Code::InvalidConfig, text));
            }
            links_in(&path)
        }
    };
    for name in candidates {
        if let Some(lent) = kernel.lendable(&name).map_err(internal)? {
            return Ok(Device::Link(lent));
        }
    }
    let text = format!("failed to find host device: {}", missing(wanted));
    Err(Failure::text(Code::InvalidConfig, text).with_hint(Some("ip link shows the host's".into())))
}

/// Returns the links of a PCI device: none if a program drives it.
fn pci(id: &str) -> Option<Vec<IfName>> {
    let path = Path::new(PCI).join(id);
    let driver = fs::read_link(path.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    if driver.is_some_and(|driver| USERSPACE.contains(&driver)) {
        return Some(Vec::new());
    }
    let mut found = links_in(&path);
    for below in entries(&path).iter().filter(|entry| file_name(entry).starts_with("virtio")) {
        found.extend(links_in(below));
    }
    (!found.is_empty()).then_some(found)
}

/// Returns the links that a device of sysfs has.
fn links_in(device: &Path) -> Vec<IfName> {
    entries(&device.join("net")).iter().filter_map(|entry| file_name(entry).parse().ok()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn missing(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Name(name) => format!("there is no link {name}"),
        Wanted::Mac(mac) => format!("no link has MAC address {mac}"),
        Wanted::KernelPath(path) => format!("{} has no link", path.display()),
        Wanted::Pci(id) => format!("PCI device {id} has no link"),
        Wanted::Id(id) => format!("device {id} has no link"),
        Wanted::Nothing => "none was named".into(),
    }
}

fn internal(error: weft_plan::Cause) -> Failure {
    Failure::new(Code::Internal, error)
}
