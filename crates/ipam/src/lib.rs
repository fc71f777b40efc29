//! The address allocator: ranges, cursor, reservations.
