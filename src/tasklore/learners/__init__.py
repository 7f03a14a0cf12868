"""Ways of learning, one file per family. Importing this package files them in ``registry.learners``."""

from . import baselines, gradient, metric

__all__ = ["baselines", "gradient", "metric"]
