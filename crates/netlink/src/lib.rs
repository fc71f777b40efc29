//! Blocking, pipelined rtnetlink.
