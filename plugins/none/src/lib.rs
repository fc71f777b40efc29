//! The `none` CNI plugin.
