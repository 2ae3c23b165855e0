//! The failure catalogue, row by row: which tests hold it. `docs/failures.md` tells users the same rows, and of those that
//! no test can hold alone, why, and what was done instead.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "common/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use sources::{below, check_test, root, tests_in};

/// A row: its number, what fails, and the tests that hold it, by file and name.
type Row = (u32, &'static str, &'static [&'static str]);

/// Faults at every edge of a deployment, on a host with real systemd.
const MATRIX: &str = "tests/faults/matrix.rs no_fault_leaves_a_wrong_end_state";
/// Cuts at every pair of points, in memory.
const SWEEP: &str = "tests/crash.rs every_cut_and_every_pair_of_cuts_converges";

const ROWS: &[Row] = &[
    (
        1,
        "the system can't be evaluated",
        &[
            "tests/live/failures.rs f01_a_system_that_cannot_be_evaluated_changes_nothing",
            "tests/nix_store.rs evaluation_failures",
        ],
    ),
    (
        2,
        "the system can't be built",
        &[
            "tests/live/failures.rs f02_a_system_that_cannot_be_built_changes_nothing",
            "tests/nix_store.rs build_failures",
        ],
    ),
    (3, "the evaluation takes all memory", &["tests/nix_store.rs f03_an_evaluation_that_takes_all_memory"]),
    (
        4,
        "the evaluation or the build never ends",
        &["tests/nix_store.rs evaluation_failures", "tests/nix_store.rs an_interrupted_build_is_not_valid"],
    ),
    (5, "no room for the new system", &["tests/live/failures.rs f05_without_room_nothing_is_begun"]),
    (
        6,
        "no room for the agent's state",
        &[
            "tests/live/failures.rs f06_what_cannot_be_written_down_is_not_done",
            "tests/live/guard.rs a_system_that_fills_the_disk_is_rolled_back",
        ],
    ),
    (7, "no room in `/boot`", &["agent/steps/room.rs kernels_need_room_on_their_own_partition"]),
    (
        8,
        "`/boot` is not mounted",
        &["agent/steps/room.rs a_partition_that_is_not_there_is_the_loaders_failure"],
    ),
    (
        9,
        "a system is damaged in the store",
        &[
            "tests/live/switch.rs a_damaged_system_is_not_left",
            "tests/recovery.rs what_a_power_cut_emptied_in_the_nix_store_is_made_anew",
            "tests/recovery.rs a_new_system_that_a_power_cut_emptied_is_built_anew",
        ],
    ),
    (
        10,
        "a switch inhibitor or pre-switch check says no",
        &["tests/live/switch.rs a_system_that_takes_a_reboot_is_not_to_blame"],
    ),
    (
        11,
        "the init interface is another one",
        &["tests/live/switch.rs a_system_that_takes_a_reboot_is_not_to_blame"],
    ),
    (
        12,
        "somebody else holds the lock of the switch",
        &["tests/live/switch.rs a_switch_that_is_under_way_is_waited_for"],
    ),
    (13, "a script of the activation fails", &["tests/live/switch.rs exit_codes_alone_decide_nothing"]),
    (
        14,
        "the switch is killed half-way",
        &[
            "tests/live/guard.rs a_switch_that_is_killed_with_its_agent_is_rolled_back",
            "tests/guard.rs torn_activations_are_rolled_back",
            MATRIX,
        ],
    ),
    (
        15,
        "units fail that failed before",
        &["tests/live/health.rs a_unit_that_fails_rolls_back_and_one_that_failed_before_does_not"],
    ),
    (
        16,
        "units fail that worked before",
        &["tests/live/health.rs a_unit_that_fails_rolls_back_and_one_that_failed_before_does_not"],
    ),
    (
        17,
        "the switch ends after the activation, before its units are started",
        &[
            "tests/live/switch.rs a_switch_that_stops_after_the_activation_is_run_once_more",
            "tests/live/switch.rs a_switch_that_stops_half_way_each_time_is_rolled_back",
        ],
    ),
    (
        18,
        "a unit fails a while after the switch",
        &["tests/live/failures.rs f18_a_unit_that_fails_later_rolls_back"],
    ),
    (
        19,
        "a unit is restarted again and again",
        &["tests/live/health.rs a_unit_that_is_restarted_again_and_again_rolls_back"],
    ),
    (
        20,
        "a unit never says that it is ready",
        &["tests/live/failures.rs f20_a_unit_that_is_never_ready_rolls_back"],
    ),
    (21, "the network is gone", &["tests/live/reach.rs a_closed_firewall_rolls_back"]),
    (22, "names can't be resolved", &["tests/live/reach.rs broken_dns_rolls_back"]),
    (23, "SSH does not answer", &["tests/live/health.rs checks_of_every_kind_pass_and_fail"]),
    (
        24,
        "the token, key or authority for the remote is lost or wrong",
        &[
            "tests/live/reach.rs credentials_that_are_gone_roll_back",
            "tests/live/reach.rs credentials_that_are_wrong_roll_back",
            "tests/live/reach.rs a_changed_authority_rolls_back",
        ],
    ),
    (
        25,
        "the new system brings another pullagent",
        &[
            "tests/live/handover.rs the_new_system_s_agent_takes_over_and_confirms",
            "tests/live/handover.rs an_agent_that_the_switch_spares_hands_over_by_itself",
        ],
    ),
    (
        26,
        "the new system has no pullagent",
        &["tests/live/handover.rs a_system_without_pullagent_is_refused_unless_that_is_allowed"],
    ),
    (
        27,
        "the new system's pullagent does not start",
        &["tests/live/handover.rs a_broken_new_agent_is_rolled_back"],
    ),
    (28, "the agent is killed before the switch", &[MATRIX, SWEEP]),
    (29, "the agent is killed between guard and switch", &[MATRIX, SWEEP]),
    (30, "the agent is killed during the switch", &[MATRIX, "tests/live/line.rs the_line_over_https"]),
    (
        31,
        "the agent is killed while health is checked",
        &[
            MATRIX,
            "tests/live/guard.rs it_fires_on_time_whatever_happens_meanwhile",
            "tests/kill.rs the_guard_alone_rolls_back_what_nobody_confirmed",
        ],
    ),
    (32, "the agent is killed while it confirms", &[MATRIX, "tests/live/line.rs the_line_over_https"]),
    (33, "the agent is killed during a rollback", &[MATRIX, "tests/kill.rs no_kill_leaves_a_wrong_state"]),
    (
        34,
        "the guard is killed",
        &[
            "tests/live/guard.rs a_rollback_that_is_killed_is_done_again",
            "tests/guard.rs a_rollback_that_is_killed_is_carried_out_anew",
        ],
    ),
    (
        35,
        "garbage is collected: the guard's program",
        &[
            "tests/live/guard.rs the_old_binary_rolls_back_although_garbage_is_collected",
            "tests/guard.rs a_binary_in_a_store_is_pinned_by_a_root",
        ],
    ),
    (
        36,
        "the power fails before a system is confirmed",
        &[
            MATRIX,
            "tests/live/guard.rs a_power_cut_on_probation_boots_the_old_system",
            "tests/uefi/cuts.rs with_252_a_power_cut_at_any_time_is_survived",
            "tests/uefi/cuts.rs with_257_a_power_cut_at_any_time_is_survived",
        ],
    ),
    (37, "the power fails while a system is confirmed", &[MATRIX, SWEEP]),
    (38, "the power fails during a rollback", &[MATRIX, SWEEP]),
    (39, "the message bus is dead", &["tests/live/switch.rs without_a_message_bus_nothing_is_begun"]),
    (
        40,
        "systemd does not answer for a while",
        &["tests/live/rescue.rs f40_while_systemd_does_not_answer_nothing_is_lost"],
    ),
    (
        41,
        "the switch never ends",
        &[
            "tests/live/failures.rs f41_a_switch_that_never_ends_is_ended_and_rolled_back",
            "tests/guard.rs a_switch_that_hangs_is_ended_and_rolled_back",
        ],
    ),
    (
        42,
        "the kernel panics when a system is [booted for a trial](operations.md#reboots)",
        &[
            SWEEP,
            "tests/uefi/agent.rs with_252_a_panic_ends_in_the_old_system",
            "tests/uefi/agent.rs with_257_a_panic_ends_in_the_old_system",
        ],
    ),
    (
        43,
        "a system that is booted for a trial hangs",
        &[
            SWEEP,
            "tests/uefi/agent.rs with_252_a_hang_ends_in_the_old_system",
            "tests/uefi/agent.rs with_257_a_hang_ends_in_the_old_system",
        ],
    ),
    (
        44,
        "a system that is booted for a trial has no network",
        &[
            SWEEP,
            "tests/uefi/agent.rs with_252_a_system_without_network_ends_in_the_old_one",
            "tests/uefi/agent.rs with_257_a_system_without_network_ends_in_the_old_one",
        ],
    ),
    (45, "the firmware loses the entry for one boot", &[SWEEP]),
    (
        46,
        "the firmware's own default is another entry",
        &[
            SWEEP,
            "tests/uefi/agent.rs with_252_a_stale_efi_default_forbids_a_trial",
            "tests/uefi/agent.rs with_257_a_stale_efi_default_forbids_a_trial",
        ],
    ),
    (47, "a boot waits for a passphrase", &["agent/host/boot/unlock.rs f47_only_what_is_unlocked_counts"]),
    (
        48,
        "the rollback fails",
        &[
            "tests/live/rescue.rs a_rollback_that_fails_twice_is_a_reboot_where_that_is_allowed",
            "tests/live/rescue.rs a_rollback_that_fails_twice_needs_somebody_where_reboots_are_not_allowed",
            "tests/live/rescue.rs rollbacks_that_are_killed_are_left_to_the_timer",
        ],
    ),
    (
        49,
        "garbage is collected: the system to come back to",
        &[
            "tests/live/guard.rs the_old_binary_rolls_back_although_garbage_is_collected",
            "tests/guard.rs a_binary_in_a_store_is_pinned_by_a_root",
        ],
    ),
    (
        50,
        "old generations are deleted",
        &["tests/live/failures.rs f50_old_generations_that_are_deleted_take_no_way_back_with_them"],
    ),
    (51, "the clock jumps", &["tests/live/guard.rs it_fires_on_time_whatever_happens_meanwhile"]),
    (
        52,
        "a health check hangs",
        &["tests/live/failures.rs f52_a_check_that_hangs_is_ended_and_counts_as_failed"],
    ),
    (
        53,
        "a health check fails now and then",
        &[
            "tests/live/failures.rs f53_a_check_that_fails_now_and_then_does_not_roll_back",
            "tests/live/health.rs what_was_red_before_counts_only_where_it_is_to_be_repaired",
        ],
    ),
    (
        54,
        "somebody switches by hand during a deployment",
        &[MATRIX, "tests/guard.rs somebody_else_s_switch_is_not_undone"],
    ),
    (
        55,
        "somebody has switched by hand before",
        &["tests/live/failures.rs f55_what_was_switched_to_by_hand_stays_until_the_next_push"],
    ),
    (56, "the test branch is deleted", &["tests/live/line.rs the_line_over_https", MATRIX]),
    (
        57,
        "the branch is rewritten, or an old commit comes back",
        &["tests/live/line.rs the_line_over_https", "tests/trust/ranges.rs r10_rollback"],
    ),
    (
        58,
        "the agent's state is lost",
        &[
            "tests/trust_root.rs p16_without_memory_a_host_starts_from_what_it_runs_and_never_from_what_it_sees",
        ],
    ),
    (
        59,
        "the agent's journal is damaged",
        &[
            "agent/journal/tests.rs a_torn_last_line_is_dropped_wherever_it_was_cut",
            "agent/journal/tests.rs damage_in_the_middle_is_an_error_and_changes_nothing",
            "tests/status.rs held",
        ],
    ),
    (
        60,
        "the disk turns read-only",
        &["tests/live/rescue.rs a_read_only_disk_does_not_keep_the_guard_from_rolling_back"],
    ),
    (61, "the new system has changed its data", &[]),
    (62, "two agents run", &["agent/journal/tests.rs only_one_agent_has_it"]),
    (
        63,
        "every push is rolled back",
        &[
            "tests/live/failures.rs f63_three_bad_pushes_suspend_the_host",
            "tests/kill.rs no_kill_leaves_a_wrong_state",
        ],
    ),
];

const LAST: u32 = 63;
/// What begins the part of the page that says what no test holds alone.
const UNTESTED: &str = "\n## What is not tested there\n";

/// Returns the page's table, each row by its number as its cells, and the part on what is not tested.
fn page() -> (BTreeMap<u32, Vec<String>>, String) {
    let page = std::fs::read_to_string(root().join("docs/failures.md")).unwrap();
    let (table, untested) = page.split_once(UNTESTED).unwrap();
    let cells = |line: &str| -> Option<(u32, Vec<String>)> {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim);
        Some((cells.next()?.parse().ok()?, cells.map(str::to_owned).collect()))
    };
    (table.lines().filter_map(cells).collect(), untested.to_owned())
}

/// Returns the row numbers that the part on what is not tested speaks of.
fn untested() -> BTreeSet<u32> {
    let (_, text) = page();
    let number = |line: &str| line.strip_prefix("- **")?.split_once("**")?.0.parse().ok();
    text.lines().filter_map(number).collect()
}

#[test]
fn every_row_is_there_once() {
    let mut numbers: Vec<u32> = ROWS.iter().map(|(number, ..)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=LAST).collect::<Vec<_>>());
}

#[test]
fn every_test_that_is_named_exists() {
    for (number, what, tests) in ROWS {
        for named in *tests {
            check_test(&format!("row {number} ({what})"), named);
        }
        assert!(!tests.is_empty() || untested().contains(number), "row {number} ({what}) is held by nothing");
    }
}

/// A test that is named after a row's number is one of the row's.
#[test]
fn every_test_with_a_number_is_named() {
    for path in [below(&root().join("tests")), below(&root().join("agent"))].concat() {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap().display();
        for test in tests_in(&text) {
            let Some(number) = test.strip_prefix('f').and_then(|t| t.split('_').next()?.parse::<u32>().ok())
            else {
                continue;
            };
            let named = format!("{file} {test}");
            let row = ROWS.iter().find(|(row, ..)| *row == number);
            assert!(row.is_some_and(|(.., tests)| tests.contains(&named.as_str())), "no row names '{named}'");
        }
    }
}

#[test]
fn the_page_tells_the_same_rows() {
    let (told, _) = page();
    let held: BTreeMap<u32, &str> = ROWS.iter().map(|(number, what, _)| (*number, *what)).collect();
    for (number, what) in &held {
        let cells = told.get(number).unwrap_or_else(|| panic!("the page lacks row {number}: {what}"));
        assert_eq!(cells.first().map(String::as_str), Some(*what), "row {number}");
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "row {number}: {cells:?}");
    }
    let strange: Vec<_> = told.keys().filter(|number| !held.contains_key(number)).collect();
    assert!(strange.is_empty(), "the page has rows that the catalogue lacks: {strange:?}");
    let strange: Vec<_> = untested().into_iter().filter(|number| !held.contains_key(number)).collect();
    assert!(strange.is_empty(), "the page excuses rows that the catalogue lacks: {strange:?}");
    let tests: usize = ROWS.iter().map(|(.., tests)| tests.len()).sum();
    println!("failure catalogue: {} of {LAST} rows, {tests} entries", held.len());
}
