"""The softmax head on frozen features: multinomial logistic regression with an L2 penalty, fitted to convergence.

The problem is convex, so the solution depends on the rows only, not on a seed, a learning rate or a number of epochs.
scikit-learn's LogisticRegression solves the same problem with the same solver. But it copies the features to float64 in
each fit, and leaves out classes without rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(10, -1, -1))
"""From strong to weak: each fit starts from the previous one. Weak penalties take longest; most searches end before."""

WORSE_IN_A_ROW = 2
"""The search ends after as many penalties in a row with a higher held-out loss than the best one."""


class Head(NamedTuple):
    """Probabilities of float32[n, features] x: softmax((x - mean) / sqrt(variance) @ kernel + bias)."""

    mean: np.ndarray
    """float32[features]"""
    variance: np.ndarray
    """float32[features]"""
    kernel: np.ndarray
    """float32[features, classes]"""
    bias: np.ndarray
    """float32[classes]"""


class Rows(NamedTuple):
    features: np.ndarray
    """float32[n, features]"""
    labels: np.ndarray
    """int[n]"""
    weights: np.ndarray
    """float32[n] with mean 1 over all rows of the split"""

    def only(self, chosen: np.ndarray) -> Rows:
        """The rows where bool[n] `chosen` is true."""
        return Rows(self.features[chosen], self.labels[chosen], self.weights[chosen])


class Quality(NamedTuple):
    """Weighted means over rows; plain means if all weights are 0."""

    log_loss: float
    accuracy: float


def fit(rows: Rows, classes: int, penalty: float, start: Head | None = None) -> Head:
    """Fits one head; see `along`."""
    return next(along(rows, classes, [penalty], start))


def along(rows: Rows, classes: int, penalties: Iterable[float], start: Head | None = None) -> Iterator[Head]:
    """Fits a head for each penalty by L-BFGS. Each fit starts from the previous head.

    A head minimizes sum(weights × log loss) + penalty / 2 × sum(kernel²) on standardized features. So the penalty is
    the precision of a normal prior on each weight (1 / C of scikit-learn), for any number of rows. The bias has no
    penalty. With `start`, the prior's mean is the start head, bias included, instead of zero. The more rows there are,
    the further they move the head.

    Args:
      rows: the training rows.
      classes: number of classes; a class without rows gets a small probability.
      penalties: above 0; from strong to weak is fastest.
      start: the head that the training continues from; its standardization is kept.
    """
    mean, variance = start[:2] if start else (rows.features.mean(0), rows.features.var(0) + 1e-6)
    prior = np.vstack(start[2:]) if start else np.zeros((len(mean) + 1, classes))
    prior = prior.astype("float64")
    pulled = np.ones((len(prior), 1))
    pulled[-1] = start is not None
    x = (rows.features - mean) / np.sqrt(variance)
    at, weights = (np.arange(len(x)), rows.labels), rows.weights.astype("float64")
    mass = weights.sum() or 1
    del rows  # Frees the caller's features, which are not needed beside this copy.

    def loss(parameters: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        """The minimized sum divided by `mass`, and its gradient: float64[(features + 1) × classes], the bias last."""
        now = parameters.reshape(prior.shape)
        kernel, bias = np.split(now, [-1])
        away = pulled * (now - prior)
        # The matrix products dominate the time, and float32 suffices for them. Sums in float32 would stall the line
        # search.
        log = log_softmax((x @ kernel.astype("float32")).astype("float64") + bias, axis=1)
        value = penalty / 2 * np.square(away).sum() - np.dot(weights, log[at])
        error = np.exp(log)
        error[at] -= 1
        error *= weights[:, None]
        gradient = np.concatenate([x.T @ error.astype("float32"), error.sum(0, keepdims=True)]) + penalty * away
        return value / mass, gradient.ravel() / mass

    parameters = prior.ravel()
    threads = ThreadpoolController()
    for penalty in penalties:
        options = {"maxiter": 1000, "gtol": 1e-5, "ftol": 1e-9}
        # The OpenBLAS of NumPy 2 and SciPy 1.18 uses threads even for small products, and its threads spin while they
        # wait: a fit to 263 pictures took 50 times the CPU.
        with threads.limit(limits=1, user_api="blas"):
            parameters = minimize(loss, parameters, (penalty,), "L-BFGS-B", jac=True, options=options).x
        kernel, bias = np.split(parameters.reshape(-1, classes).astype("float32"), [-1])
        yield Head(mean, variance, kernel, bias[0])


class Trial(NamedTuple):
    penalty: float
    head: Head
    """Fitted to the rows that are not held out."""
    held_out: Quality


def search(rows: Rows, held_out: np.ndarray, classes: int, penalties: Sequence[float] = PENALTIES) -> Iterator[Trial]:
    """Tries penalties, from strong to weak.

    One held-out part suffices: cross-validation with 3 and 5 folds chose heads of the same accuracy on pictures of food
    (950 to train on) and of landscapes (960).

    Args:
      rows: all rows of the split.
      held_out: bool[n], the rows on which a penalty is judged; at least one, and not all.
      classes: number of classes.
      penalties: the penalties to try. The search ends early when WORSE_IN_A_ROW others follow the best one.
    """
    fitted = along(rows.only(~held_out), classes, penalties)
    judged = rows.only(held_out)
    log_losses: list[float] = []
    for penalty, head in zip(penalties, fitted, strict=True):
        measured = quality(head, judged)
        yield Trial(penalty, head, measured)
        log_losses.append(measured.log_loss)
        if len(log_losses) - 1 - int(np.argmin(log_losses)) == WORSE_IN_A_ROW:
            return


def quality(head: Head, rows: Rows) -> Quality:
    """Log loss and accuracy of a head on rows."""
    x = (rows.features - head.mean) / np.sqrt(head.variance)
    log = log_softmax(x @ head.kernel + head.bias, axis=1)
    log_losses = -log[np.arange(len(x)), rows.labels]
    weights = rows.weights if rows.weights.any() else None
    return Quality(
        float(np.average(log_losses, weights=weights)),
        float(np.average(log.argmax(1) == rows.labels, weights=weights)),
    )
