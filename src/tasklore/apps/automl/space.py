"""The named candidates that AutoML chooses from.

About a hundred for each kind of task, over diverse families, each with the features that suit it. Names last:
experience is recorded under them, so a change of meaning needs a new name.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

from .pipelines import Candidate, Features, Kind, Target

__all__ = ["candidates"]

ORDINAL, ONEHOT, TARGET = Features(), Features("onehot"), Features("target")
FREQUENCY = Features("frequency")
LINEAR = Features("onehot", "standard")
SPLINES, LANDMARKS = Features("onehot", "splines"), Features("onehot", "standard", "landmarks")


@cache
def candidates(kind: Kind) -> Mapping[str, Candidate]:
    """Return the search space of a kind of task, by name.

    Examples
    --------
    >>> space = candidates("classification")
    >>> space["forest"].model, len({candidate.family for candidate in space.values()})
    ('forest', 14)
    """
    found: dict[str, Candidate] = {}

    def add(
        name: str,
        model: str,
        settings: dict[str, Any],
        features: Features = ORDINAL,
        *,
        target: Target = "",
        largest: tuple[int, int] = (10**9, 10**9),
        rarest: int = 1,
    ) -> None:
        found[name] = Candidate(name, model, settings, features, target, *largest, rarest)

    add("constant", "constant", {}, LINEAR)
    _add_trees(add, kind)
    _add_boosting(add, kind)
    _add_networks(add, kind)
    if kind == "classification":
        _add_classifiers(add)
    else:
        _add_regressors(add)
    return MappingProxyType(found)


Add: TypeAlias = Callable[..., None]


def _add_trees(add: Add, kind: Kind) -> None:
    """Single trees, forests and extremely randomised trees."""
    for depth in (3, 6, 12):
        add(f"tree-{depth}", "tree", {"max_depth": depth, "min_samples_leaf": 5})
    share = "sqrt" if kind == "classification" else 0.5
    for model in ("forest", "extra-trees"):
        base = {"n_estimators": 150, "max_features": share}
        add(model, model, base)
        add(f"{model}-onehot", model, base, ONEHOT)
        add(f"{model}-target", model, base, TARGET)
        add(f"{model}-frequency", model, base, FREQUENCY)
        add(f"{model}-leaf-3", model, base | {"min_samples_leaf": 3})
        add(f"{model}-leaf-8", model, base | {"min_samples_leaf": 8})
        add(f"{model}-narrow", model, base | {"max_features": 0.25})
        add(f"{model}-wide", model, base | {"max_features": 0.9, "min_samples_leaf": 2})
        add(f"{model}-shallow", model, base | {"max_depth": 8})
        add(f"{model}-half", model, base, Features("target", "standard", "select"))
        add(f"{model}-many", model, base | {"n_estimators": 400})
        if kind == "classification":
            add(f"{model}-entropy", model, base | {"criterion": "entropy", "max_features": 0.5})
            add(
                f"{model}-balanced",
                model,
                base | {"class_weight": "balanced_subsample", "min_samples_leaf": 2},
            )
        else:
            add(f"{model}-all", model, base | {"max_features": 1.0, "min_samples_leaf": 2})
            add(f"{model}-log-target", model, base, target="logarithm")


def _add_boosting(add: Add, kind: Kind) -> None:
    """Gradient boosting by scikit-learn and by LightGBM, from cautious to bold."""
    add("boosting", "boosting", {"early_stopping": False})
    for name, settings in {
        "slow": {"learning_rate": 0.04, "max_iter": 250, "max_leaf_nodes": 15},
        "shallow": {"learning_rate": 0.1, "max_iter": 150, "max_depth": 3},
        "stumps": {"learning_rate": 0.15, "max_iter": 200, "max_depth": 1},
        "strict": {"learning_rate": 0.06, "max_iter": 150, "l2_regularization": 10.0, "min_samples_leaf": 40},
        "narrow": {"learning_rate": 0.06, "max_iter": 200, "max_features": 0.4, "max_leaf_nodes": 15},
        "small-leaves": {"learning_rate": 0.08, "max_iter": 120, "min_samples_leaf": 5},
    }.items():
        add(f"boosting-{name}", "boosting", {"early_stopping": False, **settings})
    add("boosting-target", "boosting", {"early_stopping": False, "max_iter": 80}, TARGET)
    # As many trees as a tenth of the rows asks for, so that they grow with the table.
    stopped = {"early_stopping": True, "n_iter_no_change": 15, "max_iter": 800, "learning_rate": 0.06}
    add("boosting-stopped", "boosting", stopped, rarest=5)
    add(
        "boosting-stopped-wide",
        "boosting",
        {**stopped, "max_leaf_nodes": 63, "max_features": 0.5},
        rarest=5,
    )

    cautious = {"n_estimators": 250, "learning_rate": 0.03, "num_leaves": 15}
    sampled = {"subsample": 0.8, "subsample_freq": 1, "colsample_bytree": 0.7}
    variants: dict[str, tuple[dict[str, Any], Features]] = {
        "": ({}, ORDINAL),
        "-onehot": ({}, ONEHOT),
        "-target": ({}, TARGET),
        "-frequency": ({}, FREQUENCY),
        "-slow": (cautious, ORDINAL),
        "-slow-target": (cautious, TARGET),
        "-slow-sampled": (cautious | sampled, ORDINAL),
        "-sampled": ({"n_estimators": 120, "learning_rate": 0.06} | sampled, ORDINAL),
        "-shallow": ({"n_estimators": 200, "learning_rate": 0.08, "max_depth": 3, "num_leaves": 7}, ORDINAL),
        "-stumps": ({"n_estimators": 300, "learning_rate": 0.1, "max_depth": 1, "num_leaves": 2}, ORDINAL),
        "-deep": ({"n_estimators": 150, "learning_rate": 0.05, "num_leaves": 63}, ORDINAL),
        "-small-leaves": ({"n_estimators": 120, "learning_rate": 0.05, "min_child_samples": 5}, ORDINAL),
        "-large-leaves": ({"n_estimators": 150, "learning_rate": 0.05, "min_child_samples": 60}, ORDINAL),
        "-strict": ({**cautious, "reg_lambda": 10.0, "reg_alpha": 1.0}, ORDINAL),
        "-strict-sampled": ({**cautious, **sampled, "reg_lambda": 10.0, "colsample_bytree": 0.4}, ORDINAL),
        "-random": ({"n_estimators": 200, "learning_rate": 0.06, "extra_trees": True, **sampled}, ORDINAL),
        "-random-small": (
            {"n_estimators": 200, "learning_rate": 0.06, "extra_trees": True, "min_child_samples": 5},
            ORDINAL,
        ),
        "-quick": ({"n_estimators": 40, "learning_rate": 0.15, "num_leaves": 15}, ORDINAL),
        "-quick-small": (
            {"n_estimators": 50, "learning_rate": 0.12, "num_leaves": 7, "min_child_samples": 5},
            ORDINAL,
        ),
        "-long": ({"n_estimators": 600, "learning_rate": 0.02, "num_leaves": 15, **sampled}, ORDINAL),
        "-missing": ({}, Features("ordinal", "raw", "missing")),
        "-half": ({"n_estimators": 100, "learning_rate": 0.06}, Features("target", "standard", "select")),
        "-products": (
            {"n_estimators": 120, "learning_rate": 0.06, "num_leaves": 15},
            Features("target", "standard", "interactions"),
        ),
    }
    for name, (settings, features) in variants.items():
        add(f"lightgbm{name}", "lightgbm", settings, features)
    stopped = {"early_stopping": True, "n_estimators": 4000, "learning_rate": 0.06}
    for name, settings in {
        "": {},
        "-wide": {"num_leaves": 63, "colsample_bytree": 0.5},
        "-random": {"extra_trees": True, "num_leaves": 63, "learning_rate": 0.1},
    }.items():
        add(f"lightgbm-stopped{name}", "lightgbm", stopped | settings, rarest=5)
    if kind == "regression":
        add("lightgbm-robust", "lightgbm", {**cautious, "objective": "huber"}, target="standard")
        add("lightgbm-log-target", "lightgbm", cautious, target="logarithm")
        add("lightgbm-normal-target", "lightgbm", cautious, target="quantile")
        linear = {"n_estimators": 150, "learning_rate": 0.05, "num_leaves": 8, "linear_tree": True}
        add("lightgbm-linear", "lightgbm", {**linear, "linear_lambda": 1.0}, target="standard")
        add("boosting-log-target", "boosting", {"early_stopping": False}, target="logarithm")
    else:
        add("lightgbm-balanced", "lightgbm", {**cautious, "class_weight": "balanced"})


def _add_networks(add: Add, kind: Kind) -> None:
    """Small fully connected networks."""
    for name, hidden, alpha, features in (
        ("network", (64, 32), 1e-3, LINEAR),
        ("network-wide", (128,), 1e-2, LINEAR),
        ("network-quantile", (64, 32), 1e-3, Features("onehot", "quantile")),
        ("network-strict", (64,), 1.0, Features("onehot", "quantile")),
        ("network-target", (64, 32), 1e-2, Features("target", "standard")),
    ):
        settings = {
            "hidden_layer_sizes": list(hidden),
            "alpha": alpha,
            "learning_rate_init": 3e-3,
            "max_iter": 200,
        }
        target = "quantile" if "quantile" in name else "standard"
        target = target if kind == "regression" else ""
        add(name, "network", settings, features, target=target, largest=(50_000, 2000), rarest=3)


def _add_neighbours(add: Add) -> None:
    for name, settings, features in (
        ("neighbours-1", {"n_neighbors": 1}, LINEAR),
        ("neighbours-5", {"n_neighbors": 5, "weights": "distance"}, LINEAR),
        ("neighbours-15", {"n_neighbors": 15, "weights": "distance"}, Features("onehot", "quantile")),
        ("neighbours-30", {"n_neighbors": 30, "weights": "distance"}, Features("target", "standard")),
        ("neighbours-10-city", {"n_neighbors": 10, "weights": "distance", "p": 1}, LINEAR),
        ("neighbours-10-half", {"n_neighbors": 10}, Features("target", "quantile", "select")),
        (
            "neighbours-10-parts",
            {"n_neighbors": 10, "weights": "distance"},
            Features("onehot", "standard", "pca"),
        ),
    ):
        add(name, "neighbours", settings, features, largest=(20_000, 1000))


def _add_classifiers(add: Add) -> None:
    """Linear models, Bayes, neighbours and support vectors."""
    _add_neighbours(add)
    for c in (0.01, 0.1, 1.0, 10.0):
        add(f"logistic-{c:g}", "logistic", {"C": c, "max_iter": 300}, LINEAR)
    logistic = {"C": 1.0, "max_iter": 300}
    for name, features in {
        "quantile": Features("onehot", "quantile"),
        "power": Features("onehot", "power"),
        "target": Features("target", "standard"),
        "half": Features("onehot", "standard", "select"),
        "informed": Features("target", "quantile", "information"),
        "parts": Features("onehot", "standard", "pca"),
        "missing": Features("onehot", "standard", "missing"),
    }.items():
        add(f"logistic-{name}", "logistic", logistic, features)
    for c in (10.0, 100.0):  # what they are given is between 0 and 1
        add(f"logistic-landmarks-{c:g}", "logistic", {"C": c, "max_iter": 300}, LANDMARKS)
    for c in (1.0, 10.0):
        add(f"logistic-splines-{c:g}", "logistic", {"C": c, "max_iter": 300}, SPLINES)
    add(
        "logistic-products",
        "logistic",
        {"C": 0.1, "max_iter": 300},
        Features("target", "standard", "interactions"),
    )
    add("logistic-balanced", "logistic", {**logistic, "class_weight": "balanced"}, LINEAR)
    add("discriminant", "discriminant", {"solver": "lsqr", "shrinkage": "auto"}, LINEAR)
    add(
        "discriminant-quantile",
        "discriminant",
        {"solver": "lsqr", "shrinkage": "auto"},
        Features("target", "quantile"),
    )
    for amount in (0.1, 0.5):
        few = Features("target", "standard", "pca")
        add(f"quadratic-{amount:g}", "quadratic", {"reg_param": amount}, few, rarest=3)
    add("gaussian-bayes", "gaussian-bayes", {}, Features("target", "quantile"))
    add("gaussian-bayes-smooth", "gaussian-bayes", {"var_smoothing": 0.1}, Features("target", "power"))
    add("bernoulli-bayes", "bernoulli-bayes", {}, LINEAR)
    for name, settings, features in (
        ("support-vectors", {"C": 1.0}, LINEAR),
        ("support-vectors-10", {"C": 10.0}, LINEAR),
        ("support-vectors-quantile", {"C": 1.0}, Features("onehot", "quantile")),
        ("support-vectors-target", {"C": 3.0}, Features("target", "standard")),
        ("support-vectors-cubic", {"C": 1.0, "kernel": "poly", "degree": 3, "coef0": 1.0}, LINEAR),
    ):
        add(name, "support-vectors", settings, features, largest=(5000, 500), rarest=5)


def _add_regressors(add: Add) -> None:
    """Linear models, kernels, neighbours and support vectors."""
    _add_neighbours(add)
    for alpha in (0.1, 1.0, 10.0, 100.0):
        add(f"ridge-{alpha:g}", "ridge", {"alpha": alpha}, LINEAR)
    for name, features in {
        "quantile": Features("onehot", "quantile"),
        "power": Features("onehot", "power"),
        "target": Features("target", "standard"),
        "half": Features("onehot", "standard", "select"),
        "parts": Features("onehot", "standard", "pca"),
        "missing": Features("onehot", "standard", "missing"),
    }.items():
        add(f"ridge-{name}", "ridge", {"alpha": 1.0}, features)
    add("ridge-landmarks-1", "ridge", {"alpha": 1.0}, LANDMARKS)
    add("ridge-landmarks-0.1", "ridge", {"alpha": 0.1}, LANDMARKS, target="logarithm")
    for alpha in (0.1, 1.0):
        add(f"ridge-splines-{alpha:g}", "ridge", {"alpha": alpha}, SPLINES)
    products = Features("target", "standard", "interactions")
    add("ridge-products", "ridge", {"alpha": 10.0}, products)
    add("ridge-log-target", "ridge", {"alpha": 1.0}, LINEAR, target="logarithm")
    add("ridge-normal-target", "ridge", {"alpha": 1.0}, LINEAR, target="quantile")
    add("ridge-cv", "ridge-cv", {"alphas": [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]}, LINEAR)
    add("bayesian-ridge", "bayesian-ridge", {}, LINEAR)
    add("bayesian-ridge-products", "bayesian-ridge", {}, products)
    elastic = {"l1_ratio": 0.7, "cv": 3, "max_iter": 2000}
    add("elastic-net", "elastic-net", elastic, LINEAR, largest=(20_000, 500))
    add("elastic-net-products", "elastic-net", elastic, products, largest=(20_000, 10**9))
    add("huber", "huber", {"max_iter": 300}, LINEAR)
    for alpha, gamma in ((0.1, 0.05), (1.0, 0.01)):
        add(
            f"kernel-ridge-{alpha:g}",
            "kernel-ridge",
            {"alpha": alpha, "kernel": "rbf", "gamma": gamma},
            LINEAR,
            target="logarithm",
            largest=(4000, 500),
        )
    add("gaussian-process", "gaussian-process", {}, LINEAR, largest=(600, 100))
    for name, settings, features, target in (
        ("support-vectors", {"C": 1.0}, LINEAR, "logarithm"),
        ("support-vectors-10", {"C": 10.0}, LINEAR, "logarithm"),
        ("support-vectors-quantile", {"C": 3.0}, Features("onehot", "quantile"), "quantile"),
        ("support-vectors-target", {"C": 10.0, "epsilon": 0.05}, Features("target", "standard"), "logarithm"),
    ):
        add(name, "support-vectors", settings, features, target=target, largest=(5000, 500))
