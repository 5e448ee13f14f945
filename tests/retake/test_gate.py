"""The gate's rule: published intervals, few pictures that tell the models apart, margins, and what it says in words."""

from __future__ import annotations

import pytest
from scipy.stats import binom, norm

from retake.gate import NEW, OLD, TOGETHER, Comparison, compare, doubt, in_words, interval


def judged(gained: int, lost: int, pictures: int = 1750, max_regression: float = 0, confidence: float = 0.95):
    return compare(gained, lost, pictures - gained - lost - 100, pictures, confidence, max_regression)


@pytest.mark.parametrize(
    ("gained", "lost", "pictures", "published"),
    [
        (1, 7, 21, (-0.517, -0.026)),  # Bentur et al. 2009, in Fagerland, Lydersen and Laake 2014.
        (6, 16, 161, (-0.1240, -0.0054)),  # Cavo et al. 2012, in the R package contingencytables.
        (12, 2, 50, (0.0611, 0.3447)),  # Newcombe 1998, of Tango's method.
    ],
)
def test_the_interval_is_the_published_one(gained, lost, pictures, published):
    assert interval(gained, lost, pictures, 0.95) == pytest.approx(published, abs=6e-4)


def test_with_the_models_exchanged_the_interval_is_mirrored():
    low, high = interval(3, 11, 200, 0.9)
    assert interval(11, 3, 200, 0.9) == pytest.approx((-high, -low))


def test_pictures_that_do_not_tell_the_models_apart_leave_an_interval_that_shrinks_with_their_number():
    z = norm.ppf(0.975)
    for pictures in (1, 50, 10**6):
        edge = z**2 / (pictures + z**2)
        assert interval(0, 0, pictures, 0.95) == pytest.approx((-edge, edge))


@pytest.mark.parametrize(
    ("gained", "lost", "pictures"), [(0, 1, 50), (1, 0, 50), (0, 1, 1), (1, 0, 1), (5, 0, 5), (0, 9, 9)]
)
def test_one_picture_or_all_of_them_give_an_interval_around_the_difference(gained, lost, pictures):
    low, high = interval(gained, lost, pictures, 0.95)
    assert -1 <= low <= (gained - lost) / pictures <= high <= 1
    assert low < high


def test_a_single_picture_refuses_nobody():
    assert not judged(0, 1).worse


def test_without_a_margin_the_rule_is_mcnemars_test():
    for lost in range(41):
        statistic = (10 - lost) / (10 + lost) ** 0.5
        assert judged(10, lost).worse == (statistic < -norm.ppf(0.975))


def test_the_whole_interval_has_to_lie_below_the_margin():
    high = judged(10, 60).interval[1]
    assert judged(10, 60, max_regression=-high - 1e-6).worse
    assert not judged(10, 60, max_regression=-high + 1e-6).worse


def test_less_confidence_refuses_sooner():
    assert not judged(10, 20).worse
    assert judged(10, 20, confidence=0.9).worse


def test_the_accuracies_are_those_of_the_same_pictures():
    made = compare(gained=2, lost=4, both=90, pictures=100, confidence=0.95, max_regression=0)
    assert (made.candidate, made.baseline) == (0.92, 0.94)


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (
            compare(22, 40, 1590, 1750, 0.95, 0),
            "accuracy 0.921 is 1.0 points below the blessed model's 0.931 (95% interval −2.0 to −0.2 points, "
            "1,750 pictures), more than chance explains",
        ),
        (
            compare(22, 27, 1590, 1750, 0.95, 0),
            "accuracy 0.921 is 0.3 points below the blessed model's 0.924 (95% interval −1.1 to 0.5 points, "
            "1,750 pictures), which 1,750 pictures cannot tell from equal",
        ),
        (
            compare(30, 27, 1590, 1750, 0.9, 0),
            "accuracy 0.926 is 0.2 points above the blessed model's 0.924 (90% interval −0.6 to 0.9 points, "
            "1,750 pictures), which 1,750 pictures cannot tell from equal",
        ),
        (
            compare(60, 8, 1600, 1750, 0.95, 0),
            "accuracy 0.949 is 3.0 points above the blessed model's 0.919 (95% interval 2.1 to 4.0 points, "
            "1,750 pictures), more than chance explains",
        ),
        (
            compare(10, 38, 1600, 1750, 0.95, 0.02),
            "accuracy 0.920 is 1.6 points below the blessed model's 0.936 (95% interval −2.5 to −0.9 points, "
            "1,750 pictures), worse, but not clearly by more than the 2 points that are allowed",
        ),
        (
            compare(10, 138, 1600, 1750, 0.95, 0.02),
            "accuracy 0.920 is 7.3 points below the blessed model's 0.993 (95% interval −8.7 to −6.1 points, "
            "1,750 pictures), worse by more than the 2 points that are allowed",
        ),
        (
            compare(0, 0, 1, 1, 0.95, 0),
            "accuracy 1.000 equals the blessed model's (95% interval −79.3 to 79.3 points, 1 picture)",
        ),
    ],
)
def test_the_verdict_is_said_with_its_interval(comparison: Comparison, words: str):
    assert comparison.in_words() == words


def test_old_and_new_pictures_are_told_apart():
    better, worse = judged(60, 8, max_regression=0), judged(8, 60, max_regression=0)
    told = in_words({OLD: worse, NEW: better})
    assert told.startswith(f"old pictures: {worse.in_words()}; new pictures: {better.in_words()}; ")
    assert told.endswith("it learns the new pictures and loses the old ones")
    assert "loses" not in in_words({OLD: better, NEW: worse})


@pytest.mark.parametrize("only", [OLD, TOGETHER])
def test_where_nothing_is_new_no_slice_is_named(only):
    assert in_words({only: judged(1, 2)}) == judged(1, 2).in_words()


class TestLabelsInDoubt:
    """Too few right answers on new pictures, beside those on old ones."""

    def told(self, *new: tuple[int, int], old: float = 0.9, min_new_ratio: float = 0.5):
        files = {f"{'ab'[number]}.tfrecord": each for number, each in enumerate(new)}
        return doubt(old, files, 0.95, min_new_ratio)

    def test_few_right_answers_are_said_with_the_file_and_what_to_do(self):
        assert self.told((1, 15)) == (
            "it answers 1 of 15 pictures right in a.tfrecord, and 90% of the old ones, so labels are in doubt there: "
            "look at them, and take the files away or pack them again; if the labels are right, lower "
            "evaluator.min_new_ratio"
        )

    def test_a_file_is_found_beside_a_right_one(self):
        assert "1 of 15 pictures right in b.tfrecord, and" in self.told((14, 15), (1, 15))

    def test_files_too_small_to_be_judged_alone_are_judged_together(self):
        assert self.told((0, 4)) is None
        assert "0 of 8 pictures right in all 2 new record files, and" in self.told((0, 4), (0, 4))

    @pytest.mark.parametrize(("right", "new"), [(2, 15), (0, 6), (385, 1000)])
    def test_the_bound_is_a_binomial_test_at_half_of_the_old_accuracy(self, right, new):
        for more in (right - 1, right, right + 1, right + 60):
            if 0 <= more <= new:
                assert bool(self.told((more, new))) == (binom.cdf(more, new, 0.45) < 0.025)

    def test_no_bound_or_nothing_new_leaves_no_doubt(self):
        assert self.told((0, 1000), min_new_ratio=0) is None
        assert self.told() is None
