//! The `host` CNI plugin.
