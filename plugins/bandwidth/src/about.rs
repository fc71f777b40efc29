//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "bandwidth",
    summary: "how fast a container sends and receives",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new("ingressRate", "BITS", "any", "bits a second that the container receives"),
    OptionAbout::new("ingressBurst", "BITS", "none", "how many may come at once"),
    OptionAbout::new("egressRate", "BITS", "any", "bits a second that the container sends"),
    OptionAbout::new("egressBurst", "BITS", "none", "how many may go at once"),
    OptionAbout::new("unshapedSubnets", "CIDRS", "none", "whom it talks to at any rate"),
    OptionAbout::new("shapedSubnets", "CIDRS", "all", "whom alone it talks to at that rate"),
];
