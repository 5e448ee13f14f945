"""Feeds mutated pictures to the pipeline's door and to the served graph: python tests/support/fuzz.py 3000 7

Arguments: how many mutants, and the seed. Prints one line of JSON: the mutants, how many the door accepted and the
graph decoded, the refusals by reason, and the memory in MB above that of the imports. A finding ends it with a
traceback and leaves the picture in `finding.bin` in the temporary folder.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from components.transform import to_pixels
from retake import images

MAX_PIXELS, MAX_BYTES = 1_000_000, 1_000_000


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def seeds() -> list[bytes]:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 255, (19, 23, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(photo, "JPEG", exif=exif),
        encode(photo, "JPEG", progressive=True, comment=b"a comment"),
        encode(photo.convert("CMYK"), "JPEG"),
        encode(photo.convert("L"), "JPEG", restart_marker_blocks=1),
        encode(photo, "PNG", exif=exif),
        encode(photo.convert("RGBA"), "PNG"),
        encode(photo.quantize(8), "PNG", transparency=1, bits=4),
        encode(photo.convert("L"), "GIF"),
        encode(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        encode(photo, "BMP"),
        encode(photo.convert("RGBA"), "BMP"),
        encode(photo.quantize(8), "BMP"),
        encode(photo, "WEBP", exif=exif),
        encode(photo.convert("RGBA"), "WEBP", lossless=True),
        encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
        encode(photo, "TIFF", compression="tiff_lzw"),
    ]


def mutant(originals: list[bytes], chance: random.Random) -> bytes:
    picture = bytearray(chance.choice(originals))
    for _ in range(chance.choice((1, 1, 2, 8))):
        # The header half of the time: there stand lengths, sizes and kinds.
        at = chance.randrange(min(64, len(picture)) if chance.random() < 0.5 else len(picture))
        match chance.randrange(7):
            case 0:
                picture[at] ^= 1 << chance.randrange(8)
            case 1:
                picture[at] = chance.choice((0, 1, 127, 128, 254, 255, chance.randrange(256)))
            case 2:
                del picture[at + 1 :]
            case 3:
                other = chance.choice(originals)
                picture[at : at + chance.randrange(64)] = other[(start := chance.randrange(len(other))) : start + 64]
            case 4:
                order, number = chance.choice("<>"), chance.choice((0, 1, 2, 65_535, 2**31 - 1, 2**31, 2**32 - 1))
                picture[at : at + 4] = struct.pack(f"{order}I", number)
            case 5:
                picture[at : at + 2] = struct.pack(chance.choice("<>") + "H", chance.choice((0, 1, 2, 9_999, 65_535)))
            case 6:
                picture[at:at] = picture[at : at + chance.randrange(200)]
    return bytes(picture)


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(number: int, seed: int) -> None:
    graph = tf.function(
        lambda encoded: to_pixels(encoded, 8, MAX_PIXELS, MAX_BYTES),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    originals = seeds()
    for original in originals:
        graph(images.to_graph_format(original, MAX_PIXELS, MAX_BYTES))
    before = memory()
    chance = random.Random(seed)  # noqa: S311
    counts = Counter(mutants=number, accepted=0, decoded=0, undecodable=0)
    reasons: Counter[str] = Counter()
    for _ in range(number):
        picture = mutant(originals, chance)
        finding = Path(tempfile.gettempdir(), "finding.bin")
        finding.write_bytes(picture)
        try:
            graph(picture)
            counts["decoded"] += 1
        except tf.errors.InvalidArgumentError:
            pass
        try:
            made = images.to_graph_format(picture, MAX_PIXELS, MAX_BYTES)
        except ValueError as reason:
            assert str(reason) in images.REASONS, reason
            assert images.acceptable(picture, MAX_PIXELS, MAX_BYTES) == str(reason)
            reasons[str(reason)] += 1
            continue
        counts["accepted"] += 1
        try:
            graph(made)
        except tf.errors.InvalidArgumentError as error:
            counts["undecodable"] += 1
            if "-v" in sys.argv:
                Path(tempfile.gettempdir(), f"undecodable{counts['undecodable']}.bin").write_bytes(picture)
                print(error.message.splitlines()[0][:200], made[:4], picture[:4], file=sys.stderr)
    print(json.dumps({**counts, "refused": dict(reasons.most_common()), "megabytes": round(memory() - before)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
