//! The loopback interface's own addresses, for the drivers that report it.

use weft_cni::{Code, Failure, IpConfig, NetworkResult};
use weft_model::IfName;
use weft_plan::{Kernel, Place};

/// Adds the addresses of the container's `lo`, one of each family, to a result whose only interface it is.
///
/// # Errors
///
/// If the kernel cannot be asked, or `lo` has an address that is no loopback address: whoever put
/// it there uses `lo` for something this plugin must not take down later.
pub fn loopback_addresses(kernel: &mut Kernel, result: &mut NetworkResult) -> Result<(), Failure> {
    let addresses = kernel.addresses(Place::Container, &IfName::loopback()).map_err(super::kernel_says)?;
    if let Some(foreign) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        let text = format!("loopback interface found with non-loopback address \"{foreign}\"");
        return Err(Failure::text(Code::Internal, text));
    }
    for v4 in [true, false] {
        let first = addresses.iter().find(|address| address.is_ipv4() == v4);
        result.ips.extend(first.map(|&address| IpConfig { address, gateway: None, interface: Some(0) }));
    }
    Ok(())
}
