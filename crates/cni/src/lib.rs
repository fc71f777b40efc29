//! CNI wire types, every spec version and the conversions between them.
