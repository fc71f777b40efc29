//! What every store does, and what may be claimed in each: one suite, run on each.

#![cfg(test)]

mod addresses;
mod claims;
mod refusals;
mod removals;
mod server;
mod storm;
mod suite;
mod watching;

use server::Server;

/// Runs a part of the suite on each kind of store.
macro_rules! on_each {
    ($($module:ident::$part:ident)*) => {
        mod in_files {
            $(#[test]
            fn $part() {
                crate::run(crate::Server::files(), crate::$module::$part);
            })*
        }

        mod in_etcd {
            $(#[test]
            fn $part() {
                crate::run(crate::Server::etcd(), crate::$module::$part);
            })*
        }
    };
}

on_each! {
    suite::a_change_has_a_revision
    suite::a_transaction_is_done_or_not
    suite::a_prefix_is_listed_at_one_revision
    suite::what_is_asked_in_one_question_is_answered_in_its_order
    suite::of_many_that_want_a_key_one_gets_it
    suite::a_watch_tells_what_was_and_what_comes
    suite::a_watch_cannot_begin_in_what_is_forgotten
    suite::a_follower_that_slept_through_a_compaction_knows_every_attribute
    suite::keys_go_with_their_lease
    suite::a_watch_goes_on_after_the_server_was_away
    suite::a_store_that_went_back_is_noticed
    suite::a_store_that_went_back_and_on_is_noticed
    suite::a_store_made_anew_is_noticed
    claims::hosts_that_join_together_get_all_different_things
    claims::a_host_that_boots_again_is_the_same_host
    claims::an_address_has_one_host
    claims::a_host_is_replaced_under_its_address
    claims::a_host_that_leaves_or_is_forgotten_is_out
    addresses::a_block_is_used_again_after_its_quarantine
    addresses::a_network_that_is_used_up_says_so
    addresses::a_single_address_is_borrowed_once
    addresses::an_address_is_lent_by_the_host_whose_it_is
    removals::a_network_goes_when_all_have_let_go
    removals::what_is_left_of_a_network_is_collected
    removals::what_is_left_of_a_host_is_collected
    claims::networks_are_apart
    claims::networks_made_together_are_apart
    claims::a_wiped_store_has_everything_again
    claims::what_a_newer_host_has_written_stays
    claims::another_clusters_store_hears_nothing
    claims::an_earlier_claim_is_right
    claims::a_record_that_makes_no_sense_is_nobodys_to_take
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
