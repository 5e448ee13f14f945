"""The gate's rule: whether a candidate is worse than the model in service, beyond what the eval pictures leave to luck.

Both models answer the same pictures, so only those count that one of them knows and the other does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict

OLD, NEW, TOGETHER = "old", "new", "all"
"""Slices of the eval pictures: of record files that the model in service was trained on, of others, or all of them."""


class Comparison(BaseModel):
    """A candidate and the model in service on the same pictures.

    Fields:
      pictures: Their number, at least 1. Identical pictures with one label count once.
      candidate, baseline: The models' accuracies on them, 0 to 1.
      gained: Pictures that only the candidate answers right.
      lost: Pictures that only the model in service answers right.
      confidence: Of the interval, such as 0.95.
      interval: Of the difference candidate − baseline, -1 to 1, two-sided.
      max_regression: How much worse the candidate may be, 0 to 1.
      worse: Whether the whole interval lies below −max_regression. Such a candidate is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: int
    candidate: float
    baseline: float
    gained: int
    lost: int
    confidence: float
    interval: tuple[float, float]
    max_regression: float
    worse: bool

    def in_words(self) -> str:
        """Such as "accuracy 0.921 is 0.3 points below the blessed model's 0.924 (95% interval −1.1 to 0.5 points, 1,750
        pictures), which 1,750 pictures cannot tell from equal"."""
        pictures = f"{self.pictures:,} picture{'s' if self.pictures > 1 else ''}"
        points = (self.gained - self.lost) / self.pictures * 100
        low, high = self.interval
        if points:
            where = "above" if points > 0 else "below"
            difference = f"is {_points(abs(points))} points {where} the blessed model's {self.baseline:.3f}"
        else:
            difference = "equals the blessed model's"
        allowed = f"the {self.max_regression * 100:g} points that are allowed"
        if self.worse:
            verdict = f", worse by more than {allowed}" if self.max_regression else ", more than chance explains"
        elif low <= 0 <= high:
            verdict = f", which {pictures} cannot tell from equal" if points else ""
        elif low > 0:
            verdict = ", more than chance explains"
        else:
            verdict = f", worse, but not clearly by more than {allowed}"
        interval = f"{self.confidence * 100:g}% interval {_points(low * 100)} to {_points(high * 100)} points"
        return f"accuracy {self.candidate:.3f} {difference} ({interval}, {pictures}){verdict}"


def compare(gained: int, lost: int, both: int, pictures: int, confidence: float, max_regression: float) -> Comparison:
    """Compares two models by their answers to the same pictures.

    Args:
      gained: pictures that only the candidate answers right.
      lost: pictures that only the model in service answers right.
      both: pictures that both answer right.
      pictures: all pictures, at least 1.
      confidence: of the two-sided interval. A candidate that is as good as the model in service is refused with a
        probability of (1 − confidence) / 2.
      max_regression: how much worse the candidate may be, 0 to 1.
    """
    low, high = interval(gained, lost, pictures, confidence)
    return Comparison(
        pictures=pictures,
        candidate=(both + gained) / pictures,
        baseline=(both + lost) / pictures,
        gained=gained,
        lost=lost,
        confidence=confidence,
        interval=(low, high),
        max_regression=max_regression,
        worse=high < -max_regression,
    )


def in_words(comparisons: Mapping[str, Comparison]) -> str:
    """Describes the comparisons of `OLD` and `NEW`, or of `TOGETHER`, for people."""
    sentences = [f"{name} pictures: {each.in_words()}" for name, each in comparisons.items()]
    if list(comparisons) in ([TOGETHER], [OLD]):
        sentences = [each.in_words() for each in comparisons.values()]
    old, new = (comparisons.get(name) for name in (OLD, NEW))
    if old and new and old.worse and new.interval[0] > 0:
        sentences.append("it learns the new pictures and loses the old ones")
    return "; ".join(sentences)


def doubt(old: float, new: Mapping[str, tuple[int, int]], confidence: float, min_new_ratio: float) -> str | None:
    """Why labels of new pictures are in doubt, or None.

    A candidate that has trained on new pictures answers their eval pictures about as well as the old ones, unless the
    old pictures taught it other labels. The labels of a record file are in doubt where it answers too few of the file's
    pictures right: where, with an accuracy of `min_new_ratio` times that on the old pictures, so few are less probable
    than (1 − confidence) / 2. The same is asked of all new files together.

    Args:
      old: the candidate's accuracy on old pictures.
      new: record file → the candidate's right answers to its eval pictures, and their number.
      confidence: as for `compare`.
      min_new_ratio: 0 to 1; at 0, nothing is in doubt.
    """
    from scipy.stats import binom

    together = f"all {len(new)} new record files"
    files = {**new, together: tuple(map(sum, zip(*new.values(), strict=True)))} if len(new) > 1 else new
    few = {
        file: f"{right:,} of {pictures:,} pictures right in {file}"
        for file, (right, pictures) in files.items()
        if binom.cdf(right, pictures, min_new_ratio * old) < (1 - confidence) / 2
    }
    if len(few) > 1:
        few.pop(together, None)
    if not few:
        return None
    return (
        f"it answers {' and '.join([*few.values()][:5])}, and {old:.0%} of the old ones, so labels are in doubt there: "
        "look at them, and take the files away or pack them again; if the labels are right, lower "
        "evaluator.min_new_ratio"
    )


def interval(gained: int, lost: int, pictures: int, confidence: float) -> tuple[float, float]:
    """The score interval of a difference of paired proportions, (gained − lost) / pictures.

    It holds its level where few pairs differ, down to none. Source: Tango, Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design, Statistics in Medicine 17 (1998) 891–908; recommended by
    Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850–2875. With `max_regression` 0 the gate's rule
    is McNemar's test.

    Returns:
      Both ends, -1 to 1.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def excess(difference: float, side: int) -> float:
        """The score's numerator beyond z standard errors, which are those of the likeliest proportions where the
        true difference is this one."""
        b = (2 * pictures - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        only_baseline = (math.sqrt(b * b - 8 * pictures * c) - b) / (4 * pictures)
        variance = pictures * (2 * only_baseline + difference * (1 - difference))
        return gained - lost - pictures * difference - side * z * math.sqrt(max(variance, 0))

    found, tiny = (gained - lost) / pictures, 1e-9  # At the difference that was found the excess can be 0, too.
    low = -1.0 if lost == pictures else brentq(excess, -1, found - tiny, args=(1,), xtol=1e-12)
    high = 1.0 if gained == pictures else brentq(excess, found + tiny, 1, args=(-1,), xtol=1e-12)
    return float(low), float(high)


def _points(points: float) -> str:
    shown = f"{abs(points):.1f}" if abs(points) >= 0.05 or not points else f"{abs(points):.1g}"
    return f"−{shown}" if points < 0 else shown
