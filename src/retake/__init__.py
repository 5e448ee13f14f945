"""Retake: keep an image classifier fresh with one TFX pipeline. This package is the library and knows no TFX."""
