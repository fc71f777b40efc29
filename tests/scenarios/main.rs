//! User stories through the real `weft`.
