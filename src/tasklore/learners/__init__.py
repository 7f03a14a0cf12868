"""Ways of learning, one file per family. Importing this package files them in ``registry.learners``."""

from . import baselines, closed_form, gradient, metric

__all__ = ["baselines", "closed_form", "gradient", "metric"]
