//! `order`: finds which functions the plugins run and writes them to `cni/order.txt`; and what the linker makes of it.
//!
//! The list has the names as people write them: those in an object file carry a number of each crate, which changes with
//! every dependency. So they are looked up when the plugins are linked, in the object that is to be linked.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::shell::{cargo, in_its_place, output, program, run as execute, top, write};
use crate::{peers, segments, setup, stage};

/// The variable by which this program knows that the compiler calls it in place of the linker.
pub(crate) const LINKS: &str = "WEFT_LINKED_IN_ORDER";
/// The list, as `weft-bench --order` writes it.
const LIST: &str = "cni/order.txt";
/// What is read and what is run are one mapping, which begins where a large page does: the kernel can map the two megabytes of a large
/// page at once then. And what is written begins with a page.
const SEGMENTS: &str = "-Wl,--no-rosegment,-z,separate-loadable-segments";
/// The bytes of the largest variable that is a small one.
const SMALL: u64 = 256;

/// Stages the plugins with their symbols, has them run step by step, which writes the list, and stages them by it.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    peers::ensure();
    stage::with_symbols()?;
    output(cargo().args(["build", "--quiet", "--release", "--package", "weft-bench"]))?;
    execute(program(top().join("target/release/weft-bench")).arg("--order"))?;
    stage::all()
}

/// Is the linker, which is given the order of the functions when it links the plugins.
pub(crate) fn link() -> Result<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut more = Vec::new();
    let made = words.iter().position(|word| word == "-o").and_then(|at| words.get(at + 1)).map(Path::new);
    let plugins = made.filter(|made| is_of_plugins(made));
    if let Some(made) = plugins {
        let list = made.with_extension("order");
        write(&list, &order(&words)?)?;
        // The pinned toolchain links with lld on this target. Functions that only some builds have are no matter.
        let mut option = OsString::from("-Wl,--no-warn-symbol-ordering,--symbol-ordering-file=");
        option.push(list);
        more.push(option);
        more.push(SEGMENTS.into());
    }
    let code = in_its_place("cc", &words, &more, LINKS)?;
    if let Some(made) = plugins.filter(|made| code == ExitCode::SUCCESS && made.is_file()) {
        segments::join(made)?;
    }
    Ok(code)
}

fn is_of_plugins(made: &Path) -> bool {
    made.file_stem().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("weft_cni"))
}

/// The list in the names of the objects that are linked. What they do not have is the C library's, or is no more.
fn order(words: &[OsString]) -> Result<String> {
    let objects: Vec<_> =
        words.iter().filter(|word| Path::new(word).extension() == Some("o".as_ref())).collect();
    let names = |more: &[&str]| {
        let options = ["--defined-only", "--no-sort", "--format=just-symbols"];
        output(program("nm").args(options).args(more).args(&objects))
    };
    let (raw, plain) = (names(&[])?, names(&["--demangle"])?);
    ensure!(
        raw.lines().count() == plain.lines().count(),
        "nm(1) lists other symbols when it makes them readable"
    );
    let mut known: HashMap<&str, Vec<&str>> = HashMap::new();
    for (raw, plain) in raw.lines().zip(plain.lines()) {
        known.entry(plain).or_default().push(raw);
    }
    let list = std::fs::read_to_string(top().join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let mut order = String::new();
    for name in list.lines() {
        for raw in known.get(name).map_or(&[name][..], Vec::as_slice) {
            order.push_str(raw);
            order.push('\n');
        }
    }
    Ok(order + &variables(&objects)?)
}

/// The names of small variables, the smallest first: what a start writes are a few words here and there, which then are on two pages
/// instead of ten. Large ones, as tables and the heap, come behind.
fn variables(objects: &[&OsString]) -> Result<String> {
    let mut files: Vec<OsString> = objects.iter().map(|object| (*object).clone()).collect();
    for library in ["libc.a", "libgcc_eh.a", "crtbeginT.o"] {
        files.push(output(program("cc").arg(format!("-print-file-name={library}")))?.trim().into());
    }
    let listing = output(program("nm").args(["--defined-only", "--print-size", "--size-sort"]).args(&files))?;
    let mut small = BTreeSet::new();
    for line in listing.lines() {
        if let [_, size, "b" | "B" | "d" | "D" | "V", name] = line.split(' ').collect::<Vec<_>>().as_slice() {
            let size = u64::from_str_radix(size, 16).with_context(|| format!("nm(1) prints {line}"))?;
            small.extend((size <= SMALL).then_some((size, *name)));
        }
    }
    Ok(small.iter().map(|(_, name)| format!("{name}\n")).collect())
}
