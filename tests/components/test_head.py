"""The head: what it minimizes, and how its penalty is found."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from components import head
from components.head import Rows


def rows_of(classes: int, number: int = 200, features: int = 12, seed: int = 3) -> Rows:
    """Rows of classes that overlap, with features of very different sizes and weights of 0.5 to 1.5."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    centres = random.normal(size=(classes, features))
    x = (centres[labels] + 4 * random.normal(size=(number, features))) * np.geomspace(1e-2, 1e3, features)
    return Rows(x.astype("float32"), labels, random.uniform(0.5, 1.5, number).astype("float32"))


def probabilities(fitted: head.Head, features: np.ndarray) -> np.ndarray:
    logits = (features - fitted.mean) / np.sqrt(fitted.variance) @ fitted.kernel + fitted.bias
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.mark.parametrize(("classes", "halves"), [(2, 2), (3, 1), (6, 1)])
@pytest.mark.parametrize("penalty", [300.0, 1.0])
def test_it_is_the_logistic_regression_of_scikit_learn_with_c_one_by_the_penalty(classes, halves, penalty):
    rows = rows_of(classes)
    fitted = head.fit(rows, classes, penalty)
    standardized = (rows.features - fitted.mean) / np.sqrt(fitted.variance)
    # Of two classes, scikit-learn fits the difference: its square is twice the sum of the two squares.
    bar = LogisticRegression(C=halves / penalty, tol=1e-8, max_iter=5000)
    bar.fit(standardized, rows.labels, sample_weight=rows.weights)
    np.testing.assert_allclose(probabilities(fitted, rows.features), bar.predict_proba(standardized), atol=1e-3)


def test_a_weight_of_two_is_the_same_as_the_row_twice():
    rows = rows_of(3)._replace(weights=np.where(np.arange(200) < 50, 2, 1).astype("float32"))
    twice = np.concatenate([np.arange(200), np.arange(50)])
    doubled = Rows(rows.features[twice], rows.labels[twice], np.ones(250, "float32"))
    one, other = (probabilities(head.fit(each, 3, 1.0), rows.features) for each in (rows, doubled))
    np.testing.assert_allclose(one, other, atol=0.03)  # The standardization counts rows, not weights.


def test_a_class_without_rows_is_improbable_and_a_constant_feature_says_nothing():
    rows = rows_of(3)
    rows.features[:, 4] = 7
    fitted = head.fit(rows, 4, 10.0)
    answers = probabilities(fitted, rows.features)
    assert np.isfinite(answers).all() and answers[:, 3].max() < 0.01
    assert not fitted.kernel[4].any()


@pytest.mark.parametrize("side", [True, False], ids=["held out", "fitted to"])
def test_rows_without_weights_on_one_side_are_no_error(side):
    rows, held_out = rows_of(3), np.arange(200) % 5 == 0
    rows.weights[held_out == side] = 0
    assert all(np.isfinite(trial.held_out).all() for trial in head.search(rows, held_out, 3))


def test_the_search_goes_from_strong_to_weak_and_ends_when_it_has_passed_the_best():
    rows, held_out = rows_of(3, features=60), np.arange(200) % 5 == 0
    trials = list(head.search(rows, held_out, 3))
    penalties, log_losses = [each.penalty for each in trials], [each.held_out.log_loss for each in trials]
    assert penalties == list(head.PENALTIES[: len(trials)]) and len(trials) < len(head.PENALTIES)
    assert int(np.argmin(log_losses)) == len(trials) - 1 - head.WORSE_IN_A_ROW
    assert trials[0].held_out.log_loss == pytest.approx(np.log(3), abs=0.05)


def test_a_trial_is_measured_on_rows_that_its_head_was_not_fitted_to():
    rows, held_out = rows_of(3, features=150), np.arange(200) % 4 == 1
    guessed = rows._replace(labels=np.random.default_rng(1).integers(0, 3, 200))
    [trial] = head.search(guessed, held_out, 3, [1.0])
    assert head.quality(trial.head, guessed.only(~held_out)).accuracy == 1
    assert trial.held_out.accuracy < 0.55
    assert trial.held_out == head.quality(trial.head, guessed.only(held_out))


def test_a_head_to_go_on_from_is_left_by_more_the_more_rows_there_are_and_not_at_all_without_any():
    rows = rows_of(3, number=600)
    start = head.fit(rows_of(3, seed=4), 3, 10.0)

    def away(number: int) -> float:
        fitted = head.fit(rows.only(np.arange(600) < number), 3, 30.0, start)
        assert (fitted.mean == start.mean).all() and (fitted.variance == start.variance).all()
        return float(np.square(fitted.kernel - start.kernel).sum() + np.square(fitted.bias - start.bias).sum())

    assert 0 < away(30) < away(200) < away(600)
    weightless = rows._replace(weights=np.zeros(600, "float32"))
    still = head.fit(weightless, 3, 30.0, start)
    np.testing.assert_allclose(still.kernel, start.kernel, atol=1e-6)
    np.testing.assert_allclose(still.bias, start.bias, atol=1e-6)


def test_going_on_from_a_head_with_a_weak_penalty_is_to_forget_it():
    rows = rows_of(3, number=600)
    start = head.fit(rows_of(3, seed=4), 3, 10.0)
    near, far = (head.quality(head.fit(rows, 3, penalty, start), rows).log_loss for penalty in (1e6, 1.0))
    assert near == pytest.approx(head.quality(start, rows).log_loss, rel=0.01)
    assert far < 0.8 * near
