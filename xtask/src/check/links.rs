//! Links between pages: what a page points to must be there.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::{top, tracked};

/// Follows every relative link of every Markdown page.
pub(crate) fn check() -> Result<()> {
    let mut dead = Vec::new();
    for page in tracked()?.iter().filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let folder = page.parent().unwrap_or(page);
        let name = page.strip_prefix(top()).unwrap_or(page).display();
        let text = std::fs::read_to_string(page)?;
        for (number, target) in targets(&text) {
            if !leads_somewhere(page, folder, target) {
                dead.push(format!("{name}:{number}: {target} leads nowhere"));
            }
        }
    }
    if !dead.is_empty() {
        bail!("{}", dead.join("\n"));
    }
    Ok(())
}

/// Says whether a link's file exists, and has the heading that the link names after `#`.
fn leads_somewhere(page: &Path, folder: &Path, target: &str) -> bool {
    let (path, heading) =
        target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
    let file = if path.is_empty() { page.to_path_buf() } else { folder.join(path) };
    match heading {
        None => file.exists(),
        Some(heading) => {
            std::fs::read_to_string(file).is_ok_and(|text| headings(&text).any(|there| there == heading))
        }
    }
}

/// Returns the relative links of a page with their line numbers: `[text](target)` outside of code.
fn targets(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(page) {
        // What stands between backquotes is code.
        let words = line.split('`').step_by(2);
        for piece in words.flat_map(|text| text.split("](").skip(1)) {
            let target = piece.split([')', ' ']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere {
                found.push((number, target));
            }
        }
    }
    found
}

/// Returns the headings of a page in the form that links name them.
fn headings(page: &str) -> impl Iterator<Item = String> {
    let titles =
        prose(page).filter_map(|(_, line)| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    titles.map(|title| {
        let kept = title.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// Returns the numbered lines of a page that are outside of fenced code.
fn prose(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    page.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::{headings, targets};

    #[test]
    fn relative_links_are_found_and_others_are_not() {
        let page = "See [a](a.md), [b](../b.md#c) and [web](https://example.org/x).\n\
                    ```text\n[no](no.md)\n```\n`[code](code.md)` [with `code`](d/)\n";
        assert_eq!(targets(page), [(1, "a.md"), (1, "../b.md#c"), (5, "d/")]);
    }

    #[test]
    fn headings_are_named_as_links_name_them() {
        let page = "# One\n```sh\n# no heading\n```\n## Where a `test` goes, really\n";
        assert_eq!(headings(page).collect::<Vec<_>>(), ["one", "where-a-test-goes-really"]);
    }
}
