//! The skeleton of a plugin binary.
