//! The runtime's side of CNI: find, run, chain, cache, GC.
