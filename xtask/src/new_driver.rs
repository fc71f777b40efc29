//! `new-driver`: a driver is one folder, so a new one starts as a copy of the smallest.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{entries, top, write};

/// The driver that is copied.
const TEMPLATE: &str = "none";

/// The type that is the driver there.
const TYPE: &str = "NoNetwork";

/// Words that cannot be a module, or are a crate everybody sees.
const TAKEN: &str = "abstract alloc as async await become box break const continue core crate do dyn else enum \
    extern false final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self \
    static std struct super test trait true try type typeof unsafe unsized use virtual where while yield";

/// Copies plugins/none to plugins/NAME under its new name.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [name] = words else { bail!("new-driver takes one word: the driver's name") };
    if let Some(problem) = problem_with(name) {
        bail!("{name:?}: a driver's name {problem}");
    }
    let target = top().join("plugins").join(name);
    if target.exists() {
        bail!("plugins/{name} exists");
    }
    copy(&top().join("plugins").join(TEMPLATE), &target, name)?;
    enlist(name)?;
    println!("plugins/{name} is a copy of plugins/{TEMPLATE}, and in the list of cni/. Next:");
    println!("  edit plugins/{name}/README.md, and plugins/{name}/src/lib.rs for what `describe` says");
    println!("  cargo xtask stage {name}");
    println!("  target/stage/bin/weft plugin describe {name}");
    Ok(())
}

/// Puts a plugin into the binary that holds them all.
fn enlist(name: &str) -> Result<()> {
    let library = name.replace('-', "_");
    let places = [
        (
            "cni/Cargo.toml",
            format!("{TEMPLATE} = {{"),
            format!("{name} = {{ path = \"../plugins/{name}\" }}"),
        ),
        ("cni/src/main.rs", format!("    &{TEMPLATE}::"), format!("    &{library}::PLUGIN,")),
    ];
    for (file, beside, line) in places {
        let path = top().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        write(
            &path,
            &with_line(&text, &beside, &line).with_context(|| format!("{file} lists no {TEMPLATE}"))?,
        )?;
    }
    Ok(())
}

/// Returns the text with another line behind the one that starts with `beside`.
fn with_line(text: &str, beside: &str, line: &str) -> Option<String> {
    let at = text.lines().position(|line| line.starts_with(beside))?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.insert(at + 1, line);
    Some(lines.join("\n") + "\n")
}

/// Says why a name would not do, if it would not.
fn problem_with(name: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
        return Some("is lower-case letters, digits and dashes, and starts with a letter");
    }
    if name.ends_with('-') || name.contains("--") {
        return Some("has a letter or digit on either side of a dash");
    }
    if TAKEN.split_whitespace().any(|word| word == name) {
        return Some("cannot be a word of the language or a crate of its own");
    }
    let ours = ["xtask", "weft"].contains(&name) || name.starts_with("weft-");
    ours.then_some("is not one of weft's own")
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for path in entries(from)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target, name)?;
        } else {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            write(&target, renamed(&text, name))?;
        }
    }
    Ok(())
}

/// Puts the new name where the template says its own: as a word, a module, a library, a type.
///
/// In the template the word `none` is the driver's name wherever it stands alone; a test holds it to that.
fn renamed(text: &str, name: &str) -> String {
    let module = name.replace('-', "_");
    let library = format!("[lib]\nname = \"{TEMPLATE}\"");
    // What is true of the template alone stands in a paragraph of its own.
    let paragraphs: Vec<&str> =
        text.split("\n\n").filter(|paragraph| !paragraph.contains("xtask new-driver")).collect();
    let mut text = paragraphs.join("\n\n").replace(&library, &format!("[lib]\nname = \"{module}\""));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let text = with_word(&text, &format!("{TEMPLATE}::"), &format!("{module}::"));
    let text = with_word(&text, TYPE, &type_name(name));
    with_word(&text, TEMPLATE, name)
}

/// Replaces `old` where it begins and ends as a word.
fn with_word(text: &str, old: &str, new: &str) -> String {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let mut done = String::new();
    let mut from = 0;
    for (at, _) in text.match_indices(old) {
        let end = at + old.len();
        let begins = !text[..at].ends_with(joins);
        let ends = old.ends_with(':') || !text[end..].starts_with(joins);
        if begins && ends {
            done += &text[from..at];
            done += new;
            from = end;
        }
    }
    done + &text[from..]
}

/// Returns the name of the driver's type: `my-net` is `MyNet`.
fn type_name(name: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('-').filter(|part| !part.is_empty()).map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::{TEMPLATE, TYPE, copy, problem_with, renamed, with_line, with_word};
    use crate::shell::{entries, top};

    #[test]
    fn the_name_changes_and_option_none_does_not() {
        let text = "name = \"none\"\n//! The `none` plugin\nuse none::Plugin;\nlet x = None;\n";
        let want = "name = \"my-net\"\n//! The `my-net` plugin\nuse my_net::Plugin;\nlet x = None;\n";
        assert_eq!(renamed(text, "my-net"), want);
        assert_eq!(renamed("the none driver; nonesuch\n", "my-net"), "the my-net driver; nonesuch\n");
        assert_eq!(renamed("struct NoNetwork;\n", "my-net"), "struct MyNet;\n");
        assert_eq!(renamed("[lib]\nname = \"none\"\n", "my-net"), "[lib]\nname = \"my_net\"\n");
        assert_eq!(
            renamed("# none\n\nkeys\n\n`cargo xtask new-driver` copies this.\n", "x"),
            "# x\n\nkeys\n"
        );
    }

    #[test]
    fn a_driver_is_listed_beside_the_template() {
        for (file, beside) in [("cni/Cargo.toml", "none = {"), ("cni/src/main.rs", "    &none::")] {
            let text = std::fs::read_to_string(top().join(file)).unwrap();
            let longer = with_line(&text, beside, "new").unwrap();
            assert_eq!(longer.replace("new\n", ""), text, "{file}");
        }
        assert_eq!(with_line("a\n", "b", "new"), None);
    }

    #[test]
    fn nothing_of_the_template_stays_in_a_copy() {
        let scratch = top().join("target/new-driver-test");
        if scratch.exists() {
            std::fs::remove_dir_all(&scratch).unwrap();
        }
        copy(&top().join("plugins").join(TEMPLATE), &scratch, "my-net").unwrap();
        for folder in [scratch.clone(), scratch.join("src")] {
            for file in entries(&folder).unwrap().iter().filter(|path| path.is_file()) {
                let text = std::fs::read_to_string(file).unwrap();
                for word in [TEMPLATE, TYPE, "new-driver"] {
                    assert_eq!(with_word(&text, word, ""), text, "{} says {word}", file.display());
                }
            }
        }
        let about = std::fs::read_to_string(scratch.join("src/lib.rs")).unwrap();
        assert!(about.contains("kind: \"my-net\"") && about.contains("impl Driver for MyNet"), "{about}");
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_name_must_do_as_a_package_and_a_module() {
        assert_eq!(problem_with("my-net2"), None);
        for bad in ["", "2net", "My", "my_net", "-net", "net-", "a--b", "match", "core", "weft-plan", "xtask"]
        {
            assert!(problem_with(bad).is_some(), "{bad:?}");
        }
    }
}
