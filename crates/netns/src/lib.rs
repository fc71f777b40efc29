//! Network namespaces: open, create, pin, run inside.
