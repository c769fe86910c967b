"""Which variants of a test of many run by default: a few that have all its values among them.

The others are marked slow. A fact is held by default on as few variants as show it; that it holds
on all of them is for `-m slow`.
"""


def spread(variants: list[set], count: int) -> set[int]:
    """So many places, spread evenly, as far as that goes with one of each value.

    Of the variants with the most values not seen yet, the one nearest to its even place.
    """
    kept: set[int] = set()
    seen: set = set()
    for turn in range(min(count, len(variants))):
        even = turn * len(variants) // count
        left = (place for place in range(len(variants)) if place not in kept)
        best = min(left, key=lambda place: (-len(variants[place] - seen), abs(place - even)))
        kept.add(best)
        seen |= variants[best]
    return kept


DEFAULT_VARIANTS = {
    "test_a_step_is_the_bare_loop_and_the_one_with_accelerate": 10,
    "test_no_radius_is_ordinary_training": 7,
    "test_no_radius_is_ordinary_training_whoever_computes_the_loss": 4,
    "test_floating_point_operations_count_every_pass": 7,
    "test_forward_passes_are_those_declared": 10,
    "test_the_seed_decides_the_random_start_and_nothing_else": 3,
    "test_a_step_that_never_calls_its_parent_is_attacked": 5,
    "test_metrics_of_a_loss_are_counted_once_a_micro_batch": 5,
    "test_the_model_may_run_again_without_a_graph": 5,
    "test_a_loss_without_outputs_trains_and_only_comparing_methods_ask_for_them": 4,
    "test_what_a_training_step_makes_of_the_inputs_reaches_every_pass_once": 4,
    "test_a_flag_that_a_sweep_varies_is_obeyed_in_each_trial": 3,
    "test_every_method_runs": 4,
    "test_it_runs_from_its_command_to_its_report": 3,
    "test_an_attack_is_its_papers_loop": 8,
    "test_carlini_and_wagner_is_its_papers_loop": 1,
    "test_freeat_is_the_papers_loop": 3,
    "test_tavat_is_algorithm_1": 4,
    "test_freelb_with_reuse_goes_on_where_a_sentence_was_left": 3,
    "test_freelb_is_the_released_loop": 8,
    "test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit": 3,
    "test_resuming_within_an_epoch_gives_the_same_bits": 3,
    "test_what_is_said_of_the_images_is_true": 8,
    "test_metrics_count_once": 4,
    "test_a_step_is_the_formulas": 6,
    "test_every_method_trains_on_pixels_at_its_preset": 6,
    "test_no_more_than_the_budget_and_all_of_it_when_stopped": 5,
    "test_a_larger_budget_goes_on_where_a_smaller_one_ends": 4,
    "test_which_words": 4,
    "test_words": 4,
    "test_the_scale_of_the_logits_changes_nothing": 30,
    "test_every_pass_is_counted": 6,
    "test_ascending_radii_give_what_separate_attacks_give": 3,
    "test_what_is_refused_is_what_trains_without_an_attack": 40,
    "test_5_passes_at_zero_are_bit_identical": 8,
    "test_5_checkpointing_changes_no_result": 19,
    "test_1_no_steps_are_ordinary_training": 14,
    "test_3_and_over_the_examples_with_their_padding": 8,
    "test_6_the_work_is_that_of_the_declared_passes": 14,
    "test_batches_and_order": 10,
    "test_the_prefix_gives_the_whole_gradient_under_checkpointing": 6,
    "test_the_prefix_gives_the_whole_gradient": 14,
    "test_7_an_exception_leaves_nothing": 60,
    "test_a_method_that_needs_a_radius_refuses_none": 12,
    "test_norm_and_slice_are_put_in": 15,
    "test_other_lengths_keep_their_ratio_to_epsilon": 15,
    "test_the_size_of_a_float32_gradient_does_not_change_its_direction": 15,
    "test_a_nonfinite_gradient_stops_its_own_slice_only": 9,
    "test_a_point_just_outside_comes_back_to_the_sphere": 9,
    "test_layer_drop_does_not_hide_the_first_block": 6,
}
