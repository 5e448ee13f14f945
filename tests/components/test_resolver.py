"""The gate compares a candidate with the model that was blessed last; a warm start goes on from one like it."""

from __future__ import annotations

from one_node import artifact
from tfx.types import standard_artifacts

from components.resolver import BaselineStrategy, StartStrategy


def models(number):
    return [artifact(standard_artifacts.Model, f"model-{i}") for i in range(number)]


def blessing(model, baseline=None, blessed=1, examples=None):
    made = artifact(standard_artifacts.ModelBlessing, "blessing")
    made.set_int_custom_property("blessed", blessed)
    made.set_int_custom_property("current_model_id", model.id)
    if baseline:
        made.set_int_custom_property("baseline_model_id", baseline.id)
    if examples:
        made.set_string_custom_property("examples", examples)
    return made


def baseline_of(candidate, known, *blessings):
    found = BaselineStrategy().resolve_artifacts(
        None, {"candidate": [candidate], "model": known, "model_blessing": list(blessings)}
    )
    assert set(found) == {"candidate", "model", "model_blessing"}
    assert found["candidate"] == found["model_blessing"] == []
    return found["model"]


def test_without_a_blessing_there_is_no_baseline():
    first, candidate = models(2)
    assert baseline_of(candidate, [first, candidate]) == []
    assert baseline_of(candidate, [first, candidate], blessing(first, blessed=0)) == []


def test_the_baseline_is_the_model_that_was_blessed_last():
    first, second, candidate = known = models(3)
    assert baseline_of(candidate, known, blessing(first), blessing(second, first)) == [second]


def test_a_later_refusal_does_not_change_the_baseline():
    first, refused, candidate = known = models(3)
    assert baseline_of(candidate, known, blessing(first), blessing(refused, first, blessed=0)) == [first]


def test_a_candidate_that_is_in_service_gets_the_baseline_that_it_was_judged_against():
    first, second = known = models(2)
    assert baseline_of(second, known, blessing(first), blessing(second, first)) == [first]
    assert baseline_of(first, known, blessing(first)) == []


def test_after_a_return_to_an_older_model_that_model_is_the_baseline():
    older, newer, candidate = known = models(3)
    blessings = [blessing(older), blessing(newer, older), blessing(older, newer)]
    assert baseline_of(candidate, known, *blessings) == [older]
    assert baseline_of(older, known, *blessings) == [newer]


def test_the_order_in_which_the_store_lists_them_does_not_matter():
    first, second, candidate = known = models(3)
    blessings = [blessing(first), blessing(second, first)]
    assert baseline_of(candidate, known[::-1], *blessings[::-1]) == [second]


def test_a_blessed_model_that_the_store_no_longer_has_is_no_baseline():
    gone, candidate = models(2)
    assert baseline_of(candidate, [candidate], blessing(gone)) == []


def start_of(examples, known, *blessings):
    found = StartStrategy().resolve_artifacts(
        None,
        {
            "examples": [artifact(standard_artifacts.Examples, examples)],
            "model": known,
            "model_blessing": list(blessings),
        },
    )
    assert found["examples"] == found["model_blessing"] == []
    return found["model"]


def test_a_training_goes_on_from_the_model_that_was_blessed_last():
    first, second, refused = known = models(3)
    assert start_of("three", known) == []
    blessings = [
        blessing(first, examples="one"),
        blessing(second, first, examples="two"),
        blessing(refused, second, blessed=0, examples="bad"),
    ]
    assert start_of("three", known, *blessings) == [second]
    assert start_of("three", known, *blessings[::-1]) == [second]


def test_with_nothing_new_it_goes_on_from_where_the_model_in_service_did():
    first, second = known = models(2)
    assert start_of("one", known, blessing(first, examples="one")) == []
    assert start_of("two", known, blessing(first, examples="one"), blessing(second, first, examples="two")) == [first]


def test_a_model_that_was_blessed_before_blessings_named_their_examples_is_gone_on_from():
    [old] = known = models(1)
    assert start_of("one", known, blessing(old)) == [old]
