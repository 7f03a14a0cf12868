"""Ways of learning, one file per family. Importing this package files them in ``registry.learners``."""

from . import baselines, cavia, closed_form, gradient, maml_plus_plus, metric

__all__ = ["baselines", "cavia", "closed_form", "gradient", "maml_plus_plus", "metric"]
