"""Pushed models, loaded and asked.

A pushed model is a SavedModel in ``models/PIPELINE/VERSION/``. Its signature ``image_bytes`` takes string[batch], the
encoded pictures (JPEG, PNG or BMP), and returns three tensors: ``probabilities`` float32[batch, classes], ``classes``
string[batch, classes] (the classes' names, the same in each row) and ``label`` string[batch].
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retake import images, quiet, seal
from retake.errors import RetakeError, first_line
from retake.sections import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Array = NDArray[float32]

SIGNATURE = "image_bytes"

BATCH = 32
"""Pictures that a model is asked about in one call."""


@dataclass(frozen=True)
class Model:
    """A loaded model. Call it with encoded pictures.

    Attributes:
      path: the version's folder.
      version: the version's number; None where the folder's name is no number.
      classes: the classes' names, in the order of the probabilities.
      saved_model: TensorFlow's object, which holds the variables that the signature only borrows.

    Example:
        >>> model = load(Path("models/sample"))
        >>> model([Path("photos/taco.jpg").read_bytes()]).shape
        (1, 3)
    """

    path: Path
    version: int | None
    classes: list[str]
    saved_model: Any = field(repr=False)

    def __call__(self, encoded: Sequence[bytes]) -> Array:
        """Asks the model.

        Args:
          encoded: n pictures, each the bytes of a JPEG, PNG or BMP file. ``images.to_graph_format`` converts others.

        Returns:
          float32[n, classes]: each row is a picture's probabilities, which sum to 1.

        Raises:
          ValueError: the model cannot decode one of the pictures.
          RetakeError: the answer is no distribution over the classes.
        """
        import numpy as np

        try:
            probabilities = _signature(self.saved_model, encoded)["probabilities"].numpy()
        except Exception as error:
            raise ValueError(f"{self.path} cannot decode it: {first_line(error)}") from None
        if probabilities.shape != (len(encoded), len(self.classes)) or not np.allclose(
            probabilities.sum(axis=1), 1, atol=0.01
        ):
            raise RetakeError(f"{self.path} answers with numbers that are no probabilities; name another version")
        return probabilities


def load(model: Path, trust: bool = False) -> Model:
    """Loads a pushed model, and asks it about a grey picture: a model of another kind fails here.

    Args:
      model: a version's folder, or the folder of versions, of which the highest is loaded.
      trust: load it even if this user account has not pushed it. A model is code: see docs/models.md.

    Raises:
      RetakeError: there is no model, or half a model; its origin is unknown; it has not the signature.

    Example:
        >>> model = load(Path("models/sample"))
        >>> model.version, model.classes
        (2, ['food', 'sandwich', 'taco'])
    """
    path = version_folder(model)
    if not trust and (stranger := seal.broken(path)):
        raise RetakeError(
            f"{path} {stranger}. A model is code that may read and write your files when it is loaded; "
            "if you trust where it comes from, load it with --trust"
        )
    tf = quiet.tensorflow()
    try:
        saved_model = tf.saved_model.load(str(path))
    except Exception as error:  # a half-written file can fail as almost anything
        raise RetakeError(
            f"{path} is not a whole SavedModel ({first_line(error)}); push it again or name another version"
        ) from None
    signatures = getattr(saved_model, "signatures", {})
    if SIGNATURE not in signatures:
        there = ", ".join(sorted(signatures)) or "none"
        raise RetakeError(f"{path} has no signature {SIGNATURE} (it has: {there}); name a model that Retake pushed")
    lacking = {"probabilities", "classes"} - set(signatures[SIGNATURE].structured_outputs)
    if lacking:
        raise RetakeError(f"{path} answers without {' and '.join(lacking)}; name a model that Retake pushed")
    grey = tf.io.encode_png(tf.fill([8, 8, 3], tf.constant(128, tf.uint8))).numpy()
    name = path.absolute().name
    try:
        classes = [each.decode() for each in _signature(saved_model, [grey])["classes"].numpy()[0]]
        loaded = Model(path, int(name) if name.isdecimal() else None, classes, saved_model)
        loaded([grey])
    except RetakeError:
        raise
    except Exception as error:
        raise RetakeError(f"{path} cannot be asked ({first_line(error)}); name another version") from None
    return loaded


def version_folder(model: Path) -> Path:
    """The folder of the version that `load` loads.

    Args:
      model: as for `load`.

    Raises:
      RetakeError: there is no model, or the highest version is only half pushed. An older version is never returned
        in its place: answers of the wrong version look like those of the right one.

    Example:
        >>> print(version_folder(Path("models/sample")))
        models/sample/2
    """
    if str(model).startswith("gs:/"):
        address = str(model).replace("gs:/", "gs://", 1)
        raise RetakeError(f"{address} is not on this machine; gcloud storage cp -r {address} models/ brings it")
    if (model / "saved_model.pb").is_file():
        return model
    if not model.is_dir():
        raise RetakeError(f"there is no model {model}; name models/PIPELINE or models/PIPELINE/VERSION")
    versions = {int(path.name): path for path in model.iterdir() if path.name.isdecimal() and path.is_dir()}
    if not versions:
        raise RetakeError(f"{model} holds no SavedModel and no numbered versions; name models/PIPELINE")
    newest = versions[max(versions)]
    if not (newest / "saved_model.pb").is_file():
        whole = [str(path) for _, path in sorted(versions.items()) if (path / "saved_model.pb").is_file()]
        advice = f"name another version: {', '.join(whole)}" if whole else "push again"
        raise RetakeError(f"{newest} is only half pushed, saved_model.pb is missing; {advice}")
    return newest


def ask(
    models: Sequence[Model], pictures: Sequence[Path], skipped: dict[Path, str]
) -> Iterator[tuple[Path, tuple[Array, ...]]]:
    """Asks models about the same pictures, `BATCH` at a time. A picture that one model cannot decode is skipped.

    Args:
      models: the models, loaded.
      pictures: files in any format that Pillow reads.
      skipped: takes each file that has no answer, with the reason.

    Yields:
      A picture's file, and each model's float32[classes].

    Raises:
      RetakeError: a model's answer is no distribution over its classes.

    Example:
        >>> skipped = {}
        >>> files = [Path("photos/taco.jpg"), Path("photos/notes.txt")]
        >>> [(file.name, answer.shape) for file, (answer,) in ask([load(Path("models/sample"))], files, skipped)]
        [('taco.jpg', (3,))]
        >>> skipped
        {PosixPath('photos/notes.txt'): 'not a picture'}
    """
    for start in range(0, len(pictures), BATCH):
        yield from _together(models, _read(pictures[start : start + BATCH], skipped), skipped)


def _signature(saved_model: Any, encoded: Sequence[bytes]) -> Any:
    tf = quiet.tensorflow()
    return saved_model.signatures[SIGNATURE](image_bytes=tf.constant(list(encoded), tf.string))


def _read(files: Sequence[Path], skipped: dict[Path, str]) -> dict[Path, bytes]:
    """The pictures' bytes in a format of the graph; other files go to `skipped` with the reason."""
    read = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
        for file in files:
            try:
                read[file] = images.of_file(file, MAX_PIXELS, MAX_BYTES)[0]
            except OSError as error:
                skipped[file] = error.strerror or str(error)
            except ValueError as error:
                skipped[file] = str(error)
    return read


def _together(
    models: Sequence[Model], pictures: dict[Path, bytes], skipped: dict[Path, str]
) -> Iterator[tuple[Path, tuple[Array, ...]]]:
    """Yields each picture with every model's float32[classes]; pictures that cannot be decoded go to `skipped`."""
    if not pictures:
        return
    try:
        answers = [model(list(pictures.values())) for model in models]
    except ValueError as error:
        if len(pictures) == 1:
            skipped[next(iter(pictures))] = str(error)
        else:  # one bad picture fails its batch
            for file, encoded in pictures.items():
                yield from _together(models, {file: encoded}, skipped)
        return
    yield from zip(pictures, zip(*answers, strict=True), strict=True)
