//! `new-driver`: a driver is one folder, so a new one starts as a copy of the smallest.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{entries, top, write};

/// Copies plugins/none to plugins/NAME under its new name.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let [name] = words else { bail!("new-driver takes one word: the driver's name") };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fits) {
        bail!("{name}: a driver's name is lower-case letters, digits and dashes, and starts with a letter");
    }
    let target = top().join("plugins").join(name);
    if target.exists() {
        bail!("plugins/{name} exists");
    }
    copy(&top().join("plugins/none"), &target, name)?;
    println!("plugins/{name} is a copy of plugins/none. Next:");
    println!("  edit plugins/{name}/src/lib.rs");
    println!("  cargo xtask stage {name}");
    println!("  target/stage/bin/weft plugin describe {name}");
    Ok(())
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
            write(&target, &renamed(&text, name))?;
        }
    }
    Ok(())
}

/// Puts the new name where the template says its own: `none` as a package, module or type, `None` never.
///
/// Rust's own `None` differs by its capital letter; the driver's type in the template is `Nothing`.
fn renamed(text: &str, name: &str) -> String {
    let module = name.replace('-', "_");
    text.replace("none::", &format!("{module}::"))
        .replace("\"none\"", &format!("\"{name}\""))
        .replace("`none`", &format!("`{name}`"))
}

#[cfg(test)]
mod tests {
    use super::renamed;

    #[test]
    fn the_name_changes_and_option_none_does_not() {
        let text = "name = \"none\"\n//! The `none` plugin\nweft_plugin::main(none::Plugin)\nlet x = None;";
        let want =
            "name = \"my-net\"\n//! The `my-net` plugin\nweft_plugin::main(my_net::Plugin)\nlet x = None;";
        assert_eq!(renamed(text, "my-net"), want);
    }
}
