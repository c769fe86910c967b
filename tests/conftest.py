"""Offline, silent and single-threaded before anything else is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("fast", deadline=None, derandomize=True, max_examples=15)
settings.load_profile("fast")

# Tests of many variants of one fact: so many of them, evenly spaced, run by default, and all of
# them with `-m slow`.
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
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the other variants slow."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in DEFAULT_VARIANTS:
            groups.setdefault(f"{item.path}::{name}", []).append(item)
    for key, group in groups.items():
        kept = DEFAULT_VARIANTS[key.rpartition("::")[2]]
        if len(group) > kept:
            default = {place * len(group) // kept for place in range(kept)}
            for place, item in enumerate(group):
                if place not in default:
                    item.add_marker(pytest.mark.slow)
