//! What DEL leaves of the plugins that make an interface: nothing, in whatever state it finds things.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Snapshot, skipped};

/// A plugin, and how it is used.
pub(crate) struct Subject {
    pub(crate) plugin: &'static str,
    /// Says what the kernel lacks, once the host is prepared.
    pub(crate) there: fn(&Lab) -> Result<(), &'static str>,
    /// Makes what the configuration needs of the host.
    pub(crate) prepare: fn(&Lab),
    pub(crate) conf: fn() -> Value,
}

impl Subject {
    /// Prepares the host; says no and what is missing where the kernel cannot serve the plugin.
    fn is_ready(&self, lab: &Lab) -> bool {
        (self.prepare)(lab);
        (self.there)(lab).map_err(skipped).is_ok()
    }

    /// Brings the network to life and takes everybody off it again: what is there now is what DEL keeps.
    fn quiet(&self, lab: &Lab) -> Snapshot {
        let first = lab.container("first");
        lab.plugin(self.plugin).json(&(self.conf)()).add(&first).expect_ok();
        lab.plugin(self.plugin).json(&(self.conf)()).del(&first).expect_ok();
        lab.snapshot()
    }

    /// DEL after `lose` leaves the host as it was, and so does a second one.
    pub(crate) fn del_restores(&self, lose: fn(&Lab, &Container), netns: Option<&str>) {
        let lab = Lab::new();
        let red = lab.container("red");
        if !self.is_ready(&lab) {
            return;
        }
        let conf = (self.conf)();
        let before = self.quiet(&lab);
        lab.plugin(self.plugin).json(&conf).add(&red).expect_ok();
        assert!(red.has_link("eth0"));
        assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");

        lose(&lab, &red);

        let call = lab.plugin(self.plugin).json(&conf);
        let call = if let Some(path) = netns { call.netns(path) } else { call };
        call.del(&red).expect_ok();
        lab.assert_restored(&before);
        call.del(&red).expect_ok();
        lab.assert_restored(&before);
    }

    /// An ADD that fails behind the interface takes everything back, and does not stand in the way of the next one.
    pub(crate) fn failure_is_undone(&self) {
        let lab = Lab::new();
        let red = lab.container("red");
        if !self.is_ready(&lab) {
            return;
        }
        let before = self.quiet(&lab);
        let mut bad = (self.conf)();
        bad["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
        let refused = lab.plugin(self.plugin).json(&bad).add(&red);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stdout.contains("198.51.100.0/24"), "the error names the route: {refused}");
        assert!(!refused.stdout.contains("left behind"), "{refused}");
        lab.assert_restored(&before);
        assert!(!red.has_link("eth0"));

        lab.plugin(self.plugin).json(&(self.conf)()).add(&red).expect_ok();
        assert!(red.has_link("eth0"));
    }

    /// What is connected is not connected again, and the second ADD takes nothing from the first.
    pub(crate) fn second_add_is_refused(&self) {
        let lab = Lab::new();
        let red = lab.container("red");
        if !self.is_ready(&lab) {
            return;
        }
        lab.plugin(self.plugin).json(&(self.conf)()).add(&red).expect_ok();
        let connected = red.addresses("eth0");
        assert_eq!(connected.len(), 2);
        let refused = lab.plugin(self.plugin).json(&(self.conf)()).add(&red);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stdout.contains("eth0"), "{refused}");
        assert_eq!(red.addresses("eth0"), connected);
        lab.plugin(self.plugin).json(&(self.conf)()).del(&red).expect_ok();
        assert!(!red.has_link("eth0"), "the second ADD took what DEL works from");
    }
}

/// The stories of DEL for one plugin.
macro_rules! del_stories {
    ($subject:ident) => {
        #[test]
        fn del_leaves_the_host_exactly_as_it_was() {
            $subject.del_restores(|_, _| (), None);
        }

        #[test]
        fn del_restores_without_a_namespace() {
            $subject.del_restores(|_, red| red.vanish(), None);
        }

        #[test]
        fn del_restores_when_no_namespace_is_given() {
            $subject.del_restores(|_, red| red.vanish(), Some(""));
        }

        #[test]
        fn del_restores_when_no_namespace_is_given_though_it_exists() {
            $subject.del_restores(|_, _| (), Some(""));
        }

        #[test]
        fn del_restores_when_a_plain_file_is_left() {
            $subject.del_restores(|_, red| red.vanish_leaving_a_file(), None);
        }

        #[test]
        fn del_restores_when_the_link_is_gone() {
            $subject.del_restores(|_, red| drop(red.ip("link delete eth0")), None);
        }

        #[test]
        fn del_needs_no_record_of_ours() {
            let lose = |lab: &weft_testkit::Lab, _: &weft_testkit::Container| {
                std::fs::remove_dir_all(lab.path("run/weft/attachments")).unwrap();
            };
            $subject.del_restores(lose, None);
        }

        #[test]
        fn del_survives_a_truncated_record() {
            let lose = |lab: &weft_testkit::Lab, _: &weft_testkit::Container| {
                let record = lab.path("run/weft/attachments/red/eth0.json");
                assert!(record.is_file(), "there is no record to truncate");
                std::fs::File::create(&record).unwrap();
            };
            $subject.del_restores(lose, None);
        }

        #[test]
        fn a_failure_half_way_is_undone() {
            $subject.failure_is_undone();
        }

        #[test]
        fn what_is_connected_is_not_connected_again() {
            $subject.second_add_is_refused();
        }
    };
}
pub(crate) use del_stories;
