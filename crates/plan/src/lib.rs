//! Plans: what should exist, and the engine that makes it so.
