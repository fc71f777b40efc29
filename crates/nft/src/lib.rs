//! Typed nf_tables objects in one atomic transaction.
