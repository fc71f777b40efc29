//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "tuning",
    summary: "attributes of a container's interface, and sysctls of its namespace",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new("sysctl", "MAP", "none", "settings below net.; IFNAME stands for the interface"),
    OptionAbout::new("mac", "MAC", "as it is", "the interface's Ethernet address"),
    OptionAbout::new("mtu", "BYTES", "as it is", "the interface's MTU"),
    OptionAbout::new("promisc", "BOOL", "as it is", "true: frames meant for other stations are taken"),
    OptionAbout::new("allmulti", "BOOL", "as it is", "whether frames to any group are taken"),
    OptionAbout::new("txQLen", "NUMBER", "as it is", "how many frames may wait to be sent"),
    OptionAbout::new("dataDir", "PATH", "/run/cni/tuning", "where what was before is kept"),
];
