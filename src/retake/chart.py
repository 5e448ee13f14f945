"""The chart of a comparison of models: bars of their mean predicted distributions."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

from retake.tables import percent

MOST_CLASSES_DRAWN = 20
LEGEND_COLUMNS = 3
FONTS = ["DejaVu Sans", "Noto Sans CJK JP", "Arial Unicode MS"]


def draw(models: dict[str, dict[str, Any]], classes: Sequence[str], heading: str) -> bytes:
    """Draws a group of bars for each class, and in each group a bar for each model.

    Args:
      models: a model's name → its results as `results.compare` writes them: `version` (an integer or None), `mean`
        (class → mean probability, 0 to 1) and, where it is known, `accuracy` (0 to 1).
      classes: names, in the order of the groups. Of more than `MOST_CLASSES_DRAWN`, the most predicted are drawn.
      heading: text above the chart.

    Returns:
      A PNG of 160 pixels per inch, as bytes.

    Example:
        >>> models = {"baseline": {"version": 1, "mean": {"food": 0.75, "taco": 0.25}}}
        >>> draw(models, ["food", "taco"], "Mean predicted distribution over 8 pictures")[:4]
        b'\\x89PNG'
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    highest = {name: max(model["mean"].get(name, 0) for model in models.values()) for name in classes}
    drawn = set(sorted(classes, key=highest.__getitem__, reverse=True)[:MOST_CLASSES_DRAWN])
    classes = [name for name in classes if name in drawn]
    colours: Sequence[Any] = ["#4477aa", "#e39a3b", "#3f9b84", "#b0567d", "#8a94a0", "#7a5fa8"]
    if len(models) > len(colours):
        colours = colormaps["viridis"].resampled(len(models)).colors  # type: ignore[attr-defined]
    several = len(models) > 1
    share = 0.76 if several else 0.62  # of a class's height that is bars
    bar = share / len(models)
    ink = "#1f2933"
    # Names of classes and models are text, never mathematics, and may need a wider font.
    style: dict[Any, Any] = {"font.family": FONTS, "font.size": 11, "text.color": ink, "text.parse_math": False}
    with rc_context(style), warnings.catch_warnings(), io.BytesIO() as png:
        warnings.simplefilter("ignore")
        height = len(classes) * max(0.42, 0.27 * len(models) / share)  # inches
        figure = Figure(figsize=(8, height), dpi=160)
        axes = figure.add_axes((0, 0, 1, 1))
        for (name, model), colour in zip(models.items(), colours, strict=False):
            places, means = [], []
            for at, each in enumerate(classes):
                if each in model["mean"]:
                    # Around the class's name stand the bars of those models that know it.
                    knowing = [other for other, known in models.items() if each in known["mean"]]
                    places.append(at + bar * (knowing.index(name) - (len(knowing) - 1) / 2))
                    means.append(model["mean"][each])
            bars = axes.barh(places, means, height=bar * 0.9, color=colour)
            bars.set_label(f"\u200b{_versioned(name, model)}")  # a legend leaves out what begins with "_"
            axes.bar_label(bars, [percent(mean) for mean in means], padding=4, fontsize=10)
        axes.set_yticks(range(len(classes)), classes, fontsize=12, color=ink)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_xlim(0, max(highest.values()) * 1.08)
        axes.xaxis.set_visible(False)
        axes.tick_params(length=0, pad=8)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color("#c5ccd3")
        under = [] if several else [_versioned(*next(iter(models.items())))]
        if len(classes) < len(highest):
            under.append(f"the {len(classes)} most predicted of {len(highest):,} classes")
        above = 8 + (20 * -(-len(models) // LEGEND_COLUMNS) if several else 0)  # points over the bars
        place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(" · ".join(under), xytext=(0, above), color="#6b7785", **place)
        axes.annotate(heading, xytext=(0, above + 20 * bool(under)), fontsize=13, weight="bold", **place)
        if several:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1 + 4 / 72 / height),
                ncols=LEGEND_COLUMNS,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
                handlelength=0.9,
                handleheight=0.9,
                handletextpad=0.4,
                columnspacing=1.6,
            )
        figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.2)
        return png.getvalue()


def _versioned(name: str, model: dict[str, Any]) -> str:
    version = "" if model["version"] is None else f" v{model['version']}"
    accuracy = f", accuracy {percent(model['accuracy'])}" if "accuracy" in model else ""
    return f"{name}{version}{accuracy}"
