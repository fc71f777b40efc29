//! Labs for tests on the real kernel.
