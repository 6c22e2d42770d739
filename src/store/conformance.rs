//! What every store does, whichever database is under it: one behaviour a function, run on each driver by [`suite!`].
//!
//! The functions know only the contract. What a driver must survive beside it (a full disk, a torn file) is tested
//! with the driver.

mod bulk;
mod dead;
mod fires;
mod functions;
mod history;
mod kv;
mod ledger;
mod make;
mod model;
mod order;
mod queue;
mod tokens;
mod unique;

use std::sync::Arc;

use super::Store;

pub(super) use bulk::*;
pub(super) use dead::*;
pub(super) use fires::*;
pub(super) use functions::*;
pub(super) use history::*;
pub(super) use kv::*;
pub(super) use ledger::*;
pub(super) use make::*;
pub(super) use model::*;
pub(super) use order::*;
pub(super) use queue::*;
pub(super) use tokens::*;
pub(super) use unique::*;

type Shared = Arc<dyn Store>;

/// A test of every behaviour, each on a store of its own from `$open`, an expression that makes an `Arc<dyn Store>`
/// and whatever must live as long.
macro_rules! suite {
    ($open:expr) => {
        $crate::store::conformance::suite!(@each $open;
            deploying_numbers_versions_and_keeps_identity,
            deploying_an_older_pair_again_moves_the_route_back,
            deploying_a_namespace_unroutes_what_is_missing_there_and_only_there,
            a_deploy_that_contradicts_itself_changes_nothing,
            concurrent_deploys_number_versions_densely,
            modules_are_stored_once_and_come_back_unchanged,
            an_event_comes_back_as_it_was_accepted,
            a_key_is_accepted_once_per_trigger,
            concurrent_duplicates_are_one_event,
            what_an_event_said_is_kept_with_its_key,
            an_invocation_is_kept_once,
            rows_are_claimed_when_due_the_longest_due_first,
            racing_claims_hand_out_every_row_once,
            a_lease_that_ran_out_is_claimed_again_and_its_late_settle_refused,
            a_renewed_lease_holds,
            a_retry_keeps_attempts_and_version,
            work_handed_back_is_due_at_once_and_not_counted,
            a_good_end_keeps_the_result_and_releases_the_effects,
            a_dead_letter_and_its_message_come_together,
            a_settle_that_names_another_invocation_is_refused,
            a_buried_event_is_kept_and_its_attempts_forgotten,
            a_redriven_event_starts_afresh_and_may_die_again,
            dead_letters_are_filtered_and_paged_without_loss,
            one_selector_lists_counts_and_selects_alike,
            many_are_redriven_each_with_its_own_answer,
            a_step_of_large_events_ends_early,
            a_purge_forgets_what_still_is_where_it_was,
            dead_letters_are_removed_by_age_and_by_number_and_counted,
            the_outbox_is_drained_in_order_and_failures_wait,
            attempts_are_remembered_until_forgotten,
            the_last_schedule_is_the_newest_and_is_not_pruned,
            traces_are_filtered_and_paged_without_loss,
            old_rows_are_pruned_in_bounded_steps,
            the_next_due_row_is_the_first_that_waits,
            events_of_a_key_run_one_after_another_in_their_order,
            an_ordering_key_holds_up_nobody_else,
            racing_workers_keep_the_order_of_every_key,
            a_full_ordering_key_skips,
            priority_is_paid_in_waiting_time,
            namespaces_and_triggers_share_what_is_claimed,
            limits_and_pauses_close_triggers,
            a_lease_that_comes_along_claims_what_can_run,
            a_unique_key_is_held_as_long_as_its_scope_says,
            a_waiting_event_is_replaced_and_a_running_one_is_not,
            concurrent_holders_of_a_unique_key_are_one,
            what_was_asked_for_together_is_kept_once,
            what_waits_is_cancelled_and_what_runs_is_asked,
            progress_is_told_while_the_claim_holds,
            a_full_backlog_takes_no_more_and_knows_its_duplicates,
            the_queue_is_listed_in_pages,
            the_ledger_balances_whatever_happens,
            the_ledger_is_one_snapshot_while_others_write,
            a_moment_fires_once_made_or_not,
            fires_are_listed_with_their_reasons,
            random_operations_agree_with_a_model,
            a_key_has_what_was_written_last_in_its_bucket_and_namespace,
            writes_to_several_keys_are_done_together_or_not_at_all,
            racing_increments_are_all_counted,
            of_racing_swaps_one_succeeds,
            an_entry_is_gone_when_it_has_expired,
            a_namespace_has_no_more_keys_and_bytes_than_it_may,
            keys_are_listed_by_their_beginning_and_in_pages,
            entries_that_have_expired_are_pruned_and_no_longer_counted,
            tokens_are_kept_listed_and_forgotten_by_namespace,
        );
    };
    (@each $open:expr; $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (store, _guard) = $open;
                $crate::store::conformance::$name(store).await;
            }
        )+
    };
}

pub(super) use suite;
