"""The table of backbones: all that is known of each network before it is built. `components.backbones` builds them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Name = Literal["EfficientNetB0", "EfficientNetV2B0", "MobileNetV2", "ResNet50", "LeNet5"]

Pixels = Literal["0 to 255", "-1 to 1", "0 to 1", "less ImageNet's means"]
"""The forms of a network's input pixels. The last one is BGR, less the mean of each channel."""


class Variant(NamedTuple):
    """A network's weights without its top, at one width. They are the same for every image size.

    Fields:
      arrays: number of arrays.
      numbers: number of numbers in them.
      shapes: the first 16 hex digits of the SHA-256 of the arrays' sorted shapes as JSON.
      width: multiplier of the number of channels, `alpha` in Keras.
    """

    arrays: int
    numbers: int
    shapes: str
    width: float = 1.0


class Backbone(NamedTuple):
    """The properties of a network.

    Fields:
      pixels: the form of its input pixels.
      variants: the possible contents of a file of its weights; empty if it trains from scratch.
      downloaded: pattern of the file that keras.applications downloads ImageNet's weights to.
      image_sizes: sides in pixels for which keras.applications has separate weights; it uses the weights of 224 for
        all other sizes.
    """

    pixels: Pixels
    variants: tuple[Variant, ...] = ()
    downloaded: str = ""
    image_sizes: tuple[int, ...] = ()

    @property
    def from_scratch(self) -> bool:
        """Whether the whole network is trained, and takes no weights."""
        return not self.variants


BACKBONES: dict[Name, Backbone] = {
    "EfficientNetB0": Backbone("0 to 255", (Variant(312, 4_049_571, "ab470479f8eed936"),), "efficientnetb0_notop.h5"),
    "EfficientNetV2B0": Backbone(
        "0 to 255", (Variant(359, 5_919_312, "04877fcb4d281e0a"),), "efficientnetv2-b0_notop.h5"
    ),
    "MobileNetV2": Backbone(
        "-1 to 1",
        (
            Variant(260, 2_257_984, "0c378f1db9d8bbda"),
            Variant(260, 410_208, "32dd2b33944e85cc", width=0.35),
            Variant(260, 706_224, "b445fcadb8a00659", width=0.5),
            Variant(260, 1_382_064, "c801d428701525e2", width=0.75),
            Variant(260, 3_766_048, "61b1090b59260e2d", width=1.3),
            Variant(260, 4_363_712, "e22a4131e5c8273c", width=1.4),
        ),
        "mobilenet_v2_*_1.0_{size}_no_top.h5",
        image_sizes=(96, 128, 160, 192),
    ),
    "ResNet50": Backbone(
        "less ImageNet's means", (Variant(318, 23_587_712, "696586274e381dbd"),), "resnet50_*_notop.h5"
    ),
    "LeNet5": Backbone("0 to 1"),
}
