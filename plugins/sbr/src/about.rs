//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "sbr",
    summary: "packets from an interface's addresses go by that interface's routes",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new(
        "table",
        "NUMBER",
        "one for each address",
        "the table of all, which somebody else fills",
    ),
    OptionAbout::new("gateways", "IPS", "the addresses' own", "one gateway for each family"),
    OptionAbout::new("addSourceHints", "BOOL", "false", "whether the main table keeps what is on the link"),
];
