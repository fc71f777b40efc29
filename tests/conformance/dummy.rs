//! `dummy`: an interface that leads nowhere.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const DUMMY: Subject = Subject { plugin: "dummy", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    match host.lab.has_link_type("dummy") {
        true => Ok(()),
        false => Err(Lack("links of type dummy (CONFIG_DUMMY)")),
    }
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "dummy"})
}

pub(crate) fn an_address_plugin_is_required(host: &Host) -> Done {
    let text = "dummy interface requires an IPAM configuration";
    attached::refused(host, &DUMMY, &conf("1.0.0"), text)?;
    let red = host.lab.container("green");
    let refused = host.plugin("dummy").json(&conf("1.0.0")).check(&red);
    assert!(refused.stdout.contains(text), "{refused}");
    Ok(())
}

pub(crate) fn a_conflict_is_named(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add eth0 type dummy");
    let refused = host.plugin("dummy").json(&DUMMY.addressed(host, "1.0.0", &["10.1.2.0/24"])).add(&red);
    assert!(refused.stdout.contains("failed to create dummy: file exists"), "{refused}");
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn check_sees_it_down(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = DUMMY.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("dummy").json(&conf).add(&red).expect_json();
    red.ip("link set eth0 down");
    assert_ne!(host.plugin("dummy").json(&conf).prev_result(&result).check(&red).code, 0);
    Ok(())
}

crate::suite::absent! { dummy }

attached_section! { alone: DUMMY
    [every]
    [check_sees_a_link_of_another_kind gc_removes_what_is_not_valid]
    an_address_plugin_is_required
    a_conflict_is_named
    check_sees_it_down
}
