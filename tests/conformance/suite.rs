//! One suite, several folders of plugins.
//!
//! A story is a function from a host to an outcome. Each becomes two tests: one on our staged
//! binaries (or on the folder `WEFT_CONFORMANCE_BIN`), one on Debian's reference plugins. Where the
//! reference plugins are known to differ, the section's file under `differences/` says so with the
//! reason, and the test then demands that they still do.
//!
//! A section is a file with stories and the list of them ([`stories`]), its file of differences and its
//! line in `main.rs`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_testkit::{Lab, PluginCall, skipped};

const DEBIAN: &str = "/usr/lib/cni";

/// What a story needed and did not find on this machine.
#[derive(Debug)]
pub(crate) struct Lack(pub(crate) &'static str);

/// How a story ends when it does not panic.
pub(crate) type Done = Result<(), Lack>;

/// A host with a folder of plugins.
pub(crate) struct Host {
    pub(crate) lab: Lab,
    folder: PathBuf,
}

impl Host {
    fn new(folder: &Path) -> Self {
        Self { lab: Lab::new(), folder: folder.to_path_buf() }
    }

    /// Prepares a call of a plugin of the folder under test.
    pub(crate) fn plugin(&self, kind: &str) -> PluginCall<'_> {
        self.lab.plugin_in(&self.folder, kind)
    }

    /// Returns the program of a plugin of the folder under test.
    pub(crate) fn program(&self, kind: &str) -> PathBuf {
        self.folder.join(kind)
    }

    /// Returns a `host-local` section for these subnets, one address from each.
    pub(crate) fn ipam(&self, subnets: &[&str]) -> Value {
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        json!({"type": "host-local", "ranges": ranges, "dataDir": self.lab.path("leases")})
    }

    /// Returns the names of the address files of network `n1`.
    pub(crate) fn leases(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.lab.path("leases/n1")) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        names.sort();
        names
    }
}

/// Runs a story on our own plugins.
pub(crate) fn on_ours(story: fn(&Host) -> Done) {
    let folder =
        std::env::var_os("WEFT_CONFORMANCE_BIN").map_or_else(weft_testkit::staged_folder, PathBuf::from);
    report(story(&Host::new(&folder)));
}

/// Runs a story on Debian's plugins and compares with its section's list of differences.
pub(crate) fn on_debian(differences: &'static str, name: &str, story: fn(&Host) -> Done) {
    let folder = Path::new(DEBIAN);
    if !folder.join("bridge").exists() {
        return skipped("Debian's package containernetworking-plugins");
    }
    // A lab that cannot be made is no difference.
    let host = Host::new(folder);
    let Some(Difference { says, reason, .. }) = listed(differences).find(|listed| listed.name == name) else {
        return report(story(&host));
    };
    match catch_unwind(AssertUnwindSafe(|| story(&host))) {
        Err(panic) if text_of(&*panic).contains(says) => eprintln!("differs, as listed: {reason}"),
        Err(panic) => {
            eprintln!("{name} is listed as saying {says:?}, and said something else");
            resume_unwind(panic)
        }
        Ok(Err(Lack(what))) => skipped(what),
        Ok(Ok(())) => {
            panic!("{name} is listed as a difference ({reason}) but does not differ: take it off the list")
        }
    }
}

/// Returns what a panic said.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

fn report(done: Done) {
    if let Err(Lack(what)) = done {
        skipped(what);
    }
}

/// A story that Debian's plugins end otherwise.
struct Difference {
    name: &'static str,
    /// Part of what the story says then.
    says: &'static str,
    reason: &'static str,
}

/// Returns the lines of a section's file under `differences/`.
fn listed(differences: &'static str) -> impl Iterator<Item = Difference> {
    let lines = differences.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [name, says, reason] = parts[..] else { panic!("not three parts: {line}") };
        Difference { name, says, reason }
    })
}

/// Asserts that every listed difference names a story, what it says and a reason.
pub(crate) fn assert_list_is_sound(differences: &'static str, stories: &[&str]) {
    for Difference { name, says, reason } in listed(differences) {
        assert!(stories.contains(&name), "{name} is no story");
        assert!(says.len() > 5, "the list does not tell what {name} says");
        assert!(reason.len() > 10, "the list gives no reason for {name}");
    }
}

/// Makes both tests of every story of a section: the last thing in its file, after the section's own name, by which
/// `differences/` has its list.
macro_rules! stories {
    // Those of `round_trips!`.
    ($section:ident: round_trips $($story:ident)*) => {
        crate::suite::stories! { $section: $($story)*
            round_trip_0_1_0
            round_trip_0_2_0
            round_trip_0_3_0
            round_trip_0_3_1
            round_trip_0_4_0
            round_trip_1_0_0
            round_trip_1_1_0
        }
    };
    ($section:ident: $($story:ident)*) => {
        const DIFFERENCES: &str = include_str!(concat!("differences/", stringify!($section), ".txt"));

        /// On our plugins.
        mod ours {
            $(#[test]
            fn $story() {
                crate::suite::on_ours(super::$story);
            })*
        }

        /// On Debian's plugins.
        mod debian {
            $(#[test]
            fn $story() {
                crate::suite::on_debian(super::DIFFERENCES, stringify!($story), super::$story);
            })*
        }

        #[test]
        fn the_list_of_differences_is_sound() {
            crate::suite::assert_list_is_sound(DIFFERENCES, &[$(stringify!($story)),*]);
        }
    };
}
pub(crate) use stories;

/// Asserts that Debian's package does not have a plugin, as its file under `differences/` says with the reason.
pub(crate) fn assert_absent(differences: &'static str, plugin: &str) {
    let mut lines = differences.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else { panic!("one line says all about {plugin}") };
    let [name, reason] = line.split(" | ").map(str::trim).collect::<Vec<_>>()[..] else {
        panic!("not two parts: {line}")
    };
    assert!(name == plugin && reason.len() > 10, "the list gives no reason for {plugin}: {line}");
    let folder = Path::new(DEBIAN);
    if !folder.join("bridge").exists() {
        return skipped("Debian's package containernetworking-plugins");
    }
    assert!(
        !folder.join(plugin).exists(),
        "Debian's package has {plugin}: its stories are for both now, and its list for what differs"
    );
}

/// Makes the test that Debian's package does not have a section's plugin, by the section's name.
macro_rules! absent {
    ($section:ident) => {
        #[test]
        fn debian_has_no_such_plugin() {
            let differences = include_str!(concat!("differences/", stringify!($section), ".txt"));
            crate::suite::assert_absent(differences, stringify!($section));
        }
    };
}
pub(crate) use absent;

#[test]
fn every_list_of_differences_is_a_sections() {
    let sections = include_str!("main.rs");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/differences");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for name in names {
        let section = name.file_stem().unwrap().to_str().unwrap();
        assert!(sections.contains(&format!("\nmod {section};\n")), "{} is nobody's", name.display());
        count += 1;
    }
    assert!(count > 20, "{count} lists");
}

/// Makes one test of every story of a section about a plugin that Debian's package does not have yet: see [`absent`].
macro_rules! own_stories {
    ($($story:ident)*) => {
        /// On our plugins.
        mod ours {
            $(#[test]
            fn $story() {
                crate::suite::on_ours(super::$story);
            })*
        }
    };
}
pub(crate) use own_stories;

/// Makes one story per specification version out of a function that takes the version.
macro_rules! versions {
    ($story:ident: $($name:ident $version:literal)*) => {
        $(pub(crate) fn $name(host: &crate::suite::Host) -> crate::suite::Done {
            $story(host, $version)
        })*
    };
}
pub(crate) use versions;

/// Makes a story for every version out of the section's own `round_trip`.
macro_rules! round_trips {
    () => {
        crate::suite::versions! { round_trip:
            round_trip_0_1_0 "0.1.0"
            round_trip_0_2_0 "0.2.0"
            round_trip_0_3_0 "0.3.0"
            round_trip_0_3_1 "0.3.1"
            round_trip_0_4_0 "0.4.0"
            round_trip_1_0_0 "1.0.0"
            round_trip_1_1_0 "1.1.0"
        }
    };
}
pub(crate) use round_trips;
