"""Where problems come from. Importing this package files the built-in collections in ``registry.sources``."""

from . import audio, images, mix, synthetic, text

__all__ = ["audio", "images", "mix", "synthetic", "text"]
