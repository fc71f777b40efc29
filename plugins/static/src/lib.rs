//! The `static` IPAM plugin.
