//! `cargo xtask`: everything a person does to this repository, one word each.
#![expect(clippy::print_stdout, reason = "a tool for people: its stdout is a screen, not a protocol")]

mod bench;
mod check;
mod demo;
mod docs;
mod fuzz;
mod kernel;
mod new_driver;
mod order;
mod peers;
mod segments;
mod setup;
mod shell;
mod stage;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask demo                  one network, two namespaces, one ping: what weft does, in ten seconds
cargo xtask test [FILTER]...      every test, after installing and staging what they need
cargo xtask test --unit           the tests of the libraries alone: no root, nothing staged
cargo xtask test --kernel debian [FILTER]...
                                  tests of kernel features that few machines have, under Debian's stock kernel in a virtual machine
                                  (--staged: with what `stage` made before, as it is)
cargo xtask test --fuzz [--seconds N] [TARGET]...
                                  the fuzzer's targets as tests: bad input, thought up from the committed corpora for some seconds each
cargo xtask check                 what a change must pass besides its tests: fmt, clippy, spelling, licences, shell, links, house rules

cargo xtask fuzz [--seconds N] [TARGET]...
                                  the same without a summary, for as long as one likes
cargo xtask bench [--quick]       measures against Debian's CNI plugins, docker and netavark; writes docs/performance.md (--quick, --traffic, --plugins: prints only)
cargo xtask bench --plugins [--kernel debian] [NAME]...
                                  every plugin, or those named; under Debian's stock kernel also those that the machine's own has no links for
                                  (--staged: with what was built before)
cargo xtask docs                  rewrites the generated pages under docs/
cargo xtask new-driver NAME       copies plugins/none to plugins/NAME
cargo xtask order                 finds which functions the plugins run and writes cni/order.txt, by which they are linked
cargo xtask setup                 installs or unpacks the programs that tests, demo and bench call, when one is missing
cargo xtask stage [--profile dev] [NAME]...
                                  builds `weft`, `weftd` and the plugins (or only the named ones) into target/stage/bin
";

fn main() -> ExitCode {
    let stands_in = std::env::var_os(fuzz::WRAPS)
        .map(|ours| fuzz::compile(ours.as_ref()))
        .or_else(|| std::env::var_os(order::LINKS).map(|_| order::link()));
    if let Some(outcome) = stands_in {
        return outcome.unwrap_or_else(|error| {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        });
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = match words.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", &[][..]),
    };
    let done = match verb {
        "setup" => setup::run().map(|()| peers::ensure()),
        "stage" => stage::run(rest),
        "demo" => demo::run(rest),
        "test" => test::run(rest),
        "check" => check::run(),
        "bench" => bench::run(rest),
        "docs" => docs::run(),
        "order" => order::run(),
        "fuzz" => fuzz::run(rest),
        "new-driver" => new_driver::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => {
            eprint!("xtask: unknown word {other:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
