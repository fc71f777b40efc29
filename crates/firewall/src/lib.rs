//! Weft's rule layout and its backends.
