//! Whole-system tests against staged binaries.
