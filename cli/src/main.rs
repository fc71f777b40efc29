//! The `weft` command: parses, calls the manager, prints. It decides nothing.

fn main() {}
