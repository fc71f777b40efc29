//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "vrf",
    summary: "a container's interface in a virtual routing domain",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new("vrfname", "NAME", "required", "the domain, which is made for its first interface"),
    OptionAbout::new("table", "NUMBER", "the first that is free", "its routing table"),
];
