//! What a section about such a plugin is put together from.

/// Makes a section of a plugin that makes an interface: its name as for [`stories`] (or `alone`, when Debian's package
/// does not have the plugin yet), its subject, then groups of stories of this file, single ones, and its own.
///
/// [`stories`]: crate::suite::stories
macro_rules! attached_section {
    ($section:ident: $subject:ident [$($group:ident)*] [$($shared:ident)*] $($own:ident)*) => {
        crate::attached::attached_section! { @ $section $subject [$($shared)*] [$($own)*] $($group)* }
    };
    // What every such plugin does.
    (@ $section:ident $subject:ident [$($shared:ident)*] [$($own:ident)*] every $($rest:ident)*) => {
        crate::attached::attached_section! { @ $section $subject [$($shared)*
            round_trip_0_1_0
            round_trip_0_2_0
            round_trip_0_3_0
            round_trip_0_3_1
            round_trip_0_4_0
            round_trip_1_0_0
            round_trip_1_1_0
            del_of_what_never_was_succeeds
            del_twice_succeeds
            del_frees_the_address_when_the_namespace_is_gone
            del_frees_the_address_when_no_namespace_is_given
            del_frees_the_address_when_a_plain_file_is_left
            del_frees_the_address_when_the_link_is_gone
            a_taken_name_is_refused_and_nothing_is_left
            a_route_out_of_reach_leaves_nothing
            an_address_plugin_without_an_address_is_refused
            the_dns_of_the_address_plugin_is_passed_on
            the_dns_of_the_network_wins
            check_sees_a_lost_interface
            check_sees_a_lost_address
            check_sees_a_lost_default_route
            check_sees_a_lost_reservation
            check_needs_a_previous_result
            gc_without_a_list_refuses
            status_fails_when_the_address_plugin_is_missing
        ] [$($own)*] $($rest)* }
    };
    // An interface may be asked for without addresses.
    (@ $section:ident $subject:ident [$($shared:ident)*] [$($own:ident)*] layer_2 $($rest:ident)*) => {
        crate::attached::attached_section! { @ $section $subject [$($shared)*
            l2_0_1_0
            l2_0_2_0
            l2_0_3_0
            l2_0_3_1
            l2_0_4_0
            l2_1_0_0
            l2_1_1_0
        ] [$($own)*] $($rest)* }
    };
    // The interface stands on a link of the host, its master.
    (@ $section:ident $subject:ident [$($shared:ident)*] [$($own:ident)*] on_a_link $($rest:ident)*) => {
        crate::attached::attached_section! { @ $section $subject [$($shared)*
            the_mtu_is_the_lower_links_unless_said_otherwise
            an_mtu_beyond_the_lower_links_is_refused
            a_negative_mtu_is_refused
            a_missing_master_is_refused
            del_needs_no_master
            the_name_may_be_taken_in_the_host
            the_lower_link_may_be_in_the_container
            check_sees_another_lower_link
            status_fails_when_the_master_is_missing
        ] [$($own)*] $($rest)* }
    };
    // Containers share the master.
    (@ $section:ident $subject:ident [$($shared:ident)*] [$($own:ident)*] sharing_a_link $($rest:ident)*) => {
        crate::attached::attached_section! { @ $section $subject [$($shared)*
            containers_reach_the_wire_and_each_other
            the_default_routes_link_is_the_master
            without_a_default_route_a_master_must_be_named
        ] [$($own)*] $($rest)* }
    };
    (@ $section:ident $subject:ident [$($shared:ident)*] [$($own:ident)*]) => {
        $(fn $shared(host: &crate::suite::Host) -> crate::suite::Done {
            crate::attached::$shared(host, &$subject)
        })*
        crate::attached::attached_section! { @@ $section $($own)* $($shared)* }
    };
    (@@ alone $($story:ident)*) => { crate::suite::own_stories! { $($story)* } };
    (@@ $section:ident $($story:ident)*) => { crate::suite::stories! { $section: $($story)* } };
}
pub(crate) use attached_section;
