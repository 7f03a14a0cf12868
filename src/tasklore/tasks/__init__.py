"""Where problems come from. Importing this package files the built-in collections in ``registry.sources``."""

from . import audio, images, synthetic, text

__all__ = ["audio", "images", "synthetic", "text"]
