//! Everything on disk: paths, atomic writes, locks, records.
