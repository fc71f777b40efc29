//! The `host-local` IPAM plugin.
