//! The `host` CNI plugin. Everything it does is in the library next door.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_plugin::main(host::Host)
}
