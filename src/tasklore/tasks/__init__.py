"""Where problems come from. Importing this package files the built-in collections in ``registry.sources``."""

from . import images, synthetic

__all__ = ["images", "synthetic"]
