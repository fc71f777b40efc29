//! What every store does: one suite, run on each.

#![cfg(test)]

mod server;
mod suite;

use server::Server;

/// Runs a part of the suite on each kind of store.
macro_rules! on_each {
    ($($part:ident)*) => {
        mod in_files {
            $(#[test]
            fn $part() {
                crate::run(crate::Server::files(), crate::suite::$part);
            })*
        }

        mod in_etcd {
            $(#[test]
            fn $part() {
                crate::run(crate::Server::etcd(), crate::suite::$part);
            })*
        }
    };
}

on_each! {
    a_change_has_a_revision
    a_transaction_is_done_or_not
    a_prefix_is_listed_at_one_revision
    of_many_that_want_a_key_one_gets_it
    a_watch_tells_what_was_and_what_comes
    a_watch_cannot_begin_in_what_is_forgotten
    a_follower_that_slept_through_a_compaction_knows_every_attribute
    keys_go_with_their_lease
    a_watch_goes_on_after_the_server_was_away
    a_store_that_went_back_is_noticed
    a_store_that_went_back_and_on_is_noticed
    a_store_made_anew_is_noticed
}

/// Runs a part in the thread of the lab: what tokio starts for it inherits its namespaces.
fn run(mut server: Server, part: impl AsyncFnOnce(&mut Server)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(std::time::Duration::from_secs(120), part(&mut server))
            .await
            .expect("this takes two minutes");
    });
}
