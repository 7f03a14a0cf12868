"""Features, model and hyperparameters as one choice.

A :class:`Candidate` is a description in plain values; :meth:`Candidate.build` makes a scikit-learn pipeline
of it for the columns of a table. See :mod:`.space` for those that AutoML chooses from.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.feature_selection import (
    SelectKBest,
    SelectPercentile,
    f_classif,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNetCV,
    HuberRegressor,
    LogisticRegression,
    Ridge,
    RidgeCV,
)
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import has_fit_parameter

from ...errors import InvalidSetting, MissingDependency
from .features import DateParts, FrequencyEncoder, OneText
from .tables import Schema

__all__ = ["MODELS", "VARIED", "Candidate", "Features", "Kind"]

Kind: TypeAlias = Literal["classification", "regression"]
Encoding: TypeAlias = Literal["onehot", "ordinal", "target", "frequency"]
Numbers: TypeAlias = Literal["raw", "standard", "quantile", "power", "unit", "splines"]
Target: TypeAlias = Literal["", "standard", "logarithm", "quantile"]
Extra: TypeAlias = Literal["select", "information", "pca", "interactions", "landmarks", "missing", ""]

VARIED = " with "
"""What stands in the name of a candidate between the named one that it varies and its settings."""
MOST_CELLS = 125_000_000  # numbers that a model may be given: 1 GB
MOST_LEVELS = 30  # one-hot columns that one category gives; the rest share one
N_TEXT = 24  # numbers that a row's texts become
N_KNOTS, SPLINE_DEGREE = 5, 3
EXPONENT = 300.0  # up to which the inverse of a logarithm is taken
N_LANDMARKS = 300  # rows that the others are compared with


@dataclass(frozen=True)
class Features:
    """What a model sees of a table.

    Parameters
    ----------
    categories : {"onehot", "ordinal", "target", "frequency"}
        One column for each frequent level; the level's number; its mean target, cross-fitted so that a row's
        own target is not in it; or its share of the rows.
    numbers : {"raw", "standard", "quantile", "power", "unit", "splines"}
        Left alone, gaps included; or filled with the median and brought to zero mean and unit variance, to a
        normal distribution by ranks or by a power, to 0…1, or to cubic splines with knots at quantiles.
    extra : {"select", "information", "pca", "interactions", "landmarks", "missing", ""}
        Keep the better half of the columns by F-test or by mutual information; principal components of 95 %
        of the variance; products of the ten best columns; likeness to some of the rows (Nyström's
        approximation of a Gaussian kernel); a flag for each gap.
    """

    categories: Encoding = "ordinal"
    numbers: Numbers = "raw"
    extra: Extra = ""


@dataclass(frozen=True)
class Candidate:
    """A pipeline, described.

    Parameters
    ----------
    name : str
    model : str
        One of the models of this module.
    settings : mapping
        What the model is given, JSON values.
    features : Features
    target : {"", "standard", "logarithm", "quantile"}
        For regression: learn the target itself, in units of its spread, something like its logarithm, or its
        ranks as a normal distribution.
    max_rows, max_columns : int
        Larger tables are not for it; columns are counted as the model sees them, see :meth:`width`.
    min_class_rows : int
        Rows that the rarest class must have.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    features: Features
    target: Target = ""
    max_rows: int = 10**9
    max_columns: int = 10**9
    min_class_rows: int = 1

    @property
    def family(self) -> str:
        """The kind of model, whatever its settings."""
        return self.model

    @property
    def sizes_itself(self) -> bool:
        """Whether it finds out on some rows how many trees it takes."""
        return self.settings.get("early_stopping") is True

    def sized(self, fitted: Sequence[Any]) -> "Candidate":
        """Return it with as many trees as fitted pipelines of it found; itself if it does not look for it."""
        if not self.sizes_itself or not fitted:
            return self
        count = "n_estimators" if self.model == "lightgbm" else "max_iter"
        found = [_n_trees(pipeline[-1]) for pipeline in fitted]
        n_trees = max(1, round(float(np.mean(found))))
        return dataclasses.replace(self, settings={**self.settings, count: n_trees, "early_stopping": False})

    def needs_tasklore(self, schema: Schema) -> bool:
        """Whether it needs a step of :mod:`tasklore.apps.automl.features` on such a table."""
        encoded = self.features.categories == "frequency" and schema.of_kind("category", "boolean")
        return bool(encoded or schema.of_kind("date", "text"))

    def takes_weights(self, kind: Kind) -> bool:
        """Whether its model can let some rows count more than others."""
        return has_fit_parameter(MODELS[kind][self.model]({**self.settings}, 0), "sample_weight")

    def on(self, schema: Schema) -> "Candidate":
        """Return it with the name of its model, and without the choices that change nothing on such a table.

        Two candidates that are equal then are the same pipeline.
        """
        categories, extra = self.features.categories, self.features.extra
        if not schema.of_kind("category", "boolean"):
            categories = "ordinal"
        if extra == "missing" and not any(c.missing for c in schema.columns if c.kind == "number"):
            extra = ""
        features = dataclasses.replace(self.features, categories=categories, extra=extra)
        return dataclasses.replace(self, name=self.model, features=features)

    def width(self, schema: Schema, n_classes: int) -> int:
        """Return how many numbers a row becomes before columns are selected."""
        levels = [c.n_unique for c in schema.columns if c.kind in ("category", "boolean")]
        encoded = len(levels)
        if self.features.categories == "onehot":
            encoded = sum(min(n, MOST_LEVELS) for n in levels)
        elif self.features.categories == "target" and n_classes > 2:
            encoded = len(levels) * n_classes
        numbers, dates, texts = (len(schema.of_kind(kind)) for kind in ("number", "date", "text"))
        if self.features.numbers == "splines":
            numbers *= N_KNOTS + SPLINE_DEGREE - 2
        return numbers + encoded + dates * len(DateParts.PARTS) + N_TEXT * (texts > 0)

    def seconds_to_look_up(self, schema: Schema, n_classes: int, n_fitted: int, n_judged: int) -> float:
        """Return about how long finding the neighbours of rows takes, which past tables do not tell.

        They tell the time of fitting, and neighbours are looked for afterwards. In up to fifteen dimensions
        scikit-learn uses a tree, which is no help in more than a few; in more of them, products of matrices
        for squared distances, and nothing as quick for others.
        """
        if self.model != "neighbours":
            return 0.0
        width = self.width(schema, n_classes)
        in_tree, otherwise = 2.5e-10 * width, 1e-9 if self.settings.get("p") == 1 else 1.5e-10
        return (in_tree if width <= 15 else otherwise) * width * n_fitted * n_judged

    def suits(self, schema: Schema, n_rows: int, n_classes: int, rarest: int) -> bool:
        """Whether a table is small enough for it.

        Parameters
        ----------
        schema : Schema
        n_rows : int
        n_classes : int
            0 for regression.
        rarest : int
            Rows of the rarest class.
        """
        width = self.width(schema, n_classes)
        if self.features.categories == "target" and width > 200 + len(schema.columns):
            return False  # cross-fitted for every class and column
        small = n_rows <= self.max_rows and width <= self.max_columns and n_rows * width <= MOST_CELLS
        return small and (n_classes == 0 or rarest >= self.min_class_rows)

    def build(self, schema: Schema, kind: Kind, random_state: int = 0, *, raw: bool = False) -> Pipeline:
        """Return the pipeline for the columns of a table.

        Its input is ``schema.table(X)``; if ``raw``, ``X`` itself, whose numbers must be finite then.

        Raises
        ------
        MissingDependency
            LightGBM is not installed, and this candidate needs it.
        """
        model: Any = MODELS[kind][self.model]({**self.settings}, random_state)
        if self.target:
            scale = _target_scale(self.target, random_state)
            model = TransformedTargetRegressor(model, transformer=scale, check_inverse=False)
        steps = [
            ("columns", _columns(self.features, schema, kind, random_state, raw and not schema.named)),
            *_extra(self.features.extra, kind, random_state),
            ("model", model),
        ]
        return Pipeline(steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**dataclasses.asdict(self), "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Candidate":
        """Read what :meth:`to_dict` gave."""
        try:
            given: dict[str, Any] = {**values, "features": Features(**values["features"])}
            candidate = cls(**given)
        except (TypeError, KeyError) as error:
            raise InvalidSetting(f"this is no candidate: {error}") from error
        if not any(candidate.model in models for models in MODELS.values()):
            raise InvalidSetting(f"there is no model {candidate.model!r}")
        return candidate


def _columns(
    features: Features, schema: Schema, kind: Kind, random_state: int, by_place: bool
) -> ColumnTransformer:
    """Return the step that turns a table into numbers."""
    numbers, dates, texts = (schema.of_kind(k) for k in ("number", "date", "text"))
    categories = schema.of_kind("category", "boolean")
    parts: list[tuple[str, Any, list[str]]] = []
    if numbers:
        parts.append(("numbers", _numbers(features, random_state), numbers))
    if categories:
        parts.append(("categories", _categories(features, kind, random_state), categories))
    if dates:
        scaled = (
            () if features.numbers == "raw" else (SimpleImputer(keep_empty_features=True), StandardScaler())
        )
        parts.append(("dates", make_pipeline(DateParts(), *scaled), dates))
    if texts:
        hashed = HashingVectorizer(n_features=4096, ngram_range=(1, 2), alternate_sign=False)
        reduced = TruncatedSVD(N_TEXT, random_state=random_state)
        parts.append(("texts", make_pipeline(OneText(), hashed, TfidfTransformer(), reduced), texts))
    # A table without any column that tells rows apart still gives one, of zeros, to learn the mean from.
    rest = [schema.columns[0].name] if not parts else []
    if rest:
        nothing = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
        )
        parts.append(("nothing", nothing, rest))
    if by_place:
        places = {column.name: place for place, column in enumerate(schema.columns)}
        placed = [(name, step, [places[column] for column in chosen]) for name, step, chosen in parts]
        return ColumnTransformer(placed, sparse_threshold=0.0)
    return ColumnTransformer(parts, sparse_threshold=0.0)


def _numbers(features: Features, random_state: int) -> Any:
    if features.numbers == "raw":
        return (
            "passthrough"
            if features.extra != "missing"
            else SimpleImputer(add_indicator=True, keep_empty_features=True)
        )
    filled = SimpleImputer(
        strategy="median", keep_empty_features=True, add_indicator=features.extra == "missing"
    )
    scalers: dict[str, Callable[[], Any]] = {
        "standard": StandardScaler,
        "quantile": lambda: _normal(random_state),
        "power": _power,
        "unit": MinMaxScaler,
        "splines": lambda: SplineTransformer(
            N_KNOTS, SPLINE_DEGREE, knots="quantile", extrapolation="linear", include_bias=False
        ),
    }
    return make_pipeline(filled, scalers[features.numbers]())


def _power() -> Pipeline:
    """Bring numbers near to a normal distribution by powers.

    That of a row unlike all others may be infinite, which scaling refuses for all rows together.
    """
    finite = FunctionTransformer(
        np.nan_to_num, kw_args={"posinf": 1e100, "neginf": -1e100}, feature_names_out="one-to-one"
    )
    return make_pipeline(PowerTransformer(standardize=False), finite, StandardScaler())


def _normal(random_state: int) -> QuantileTransformer:
    return QuantileTransformer(
        n_quantiles=100, output_distribution="normal", subsample=5000, random_state=random_state
    )


def _categories(features: Features, kind: Kind, random_state: int) -> Any:
    if features.categories == "onehot":
        return OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=MOST_LEVELS, sparse_output=False
        )
    if features.categories == "ordinal":
        encoder: Any = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
        )
    elif features.categories == "target":
        encoder = _target_encoder(kind, random_state)
    else:
        encoder = FrequencyEncoder()
    return encoder if features.numbers == "raw" else make_pipeline(encoder, StandardScaler())


def _target_encoder(kind: Kind, random_state: int) -> Any:
    encoder: Any = TargetEncoder
    if parse_version(sklearn.__version__) < parse_version("1.9"):
        kinds = "auto" if kind == "classification" else "continuous"
        return encoder(target_type=kinds, random_state=random_state)
    if kind == "classification":
        return encoder(cv=StratifiedKFold(5, shuffle=True, random_state=random_state))
    splitter = KFold(5, shuffle=True, random_state=random_state)
    return encoder(target_type="continuous", cv=splitter)


def _target_scale(target: Target, random_state: int) -> Any:
    if target == "standard":
        return StandardScaler()
    if target == "quantile":
        return _normal(random_state)
    # Like the logarithm, of either sign, and with an inverse that is always a number.
    bounded = FunctionTransformer(inverse_func=np.clip, inv_kw_args={"a_min": -EXPONENT, "a_max": EXPONENT})
    return make_pipeline(
        RobustScaler(with_centering=False), FunctionTransformer(np.arcsinh, np.sinh), bounded
    )


def _extra(extra: Extra, kind: Kind, random_state: int) -> list[tuple[str, Any]]:
    by_f = f_classif if kind == "classification" else f_regression
    information = mutual_info_classif if kind == "classification" else mutual_info_regression
    by_information = partial(information, random_state=random_state)
    steps: dict[Extra, list[tuple[str, Any]]] = {
        "": [],
        "missing": [],
        "select": [("select", SelectPercentile(by_f, percentile=50))],
        "information": [("select", SelectPercentile(by_information, percentile=50))],
        "pca": [("pca", PCA(0.95, svd_solver="full", random_state=random_state))],
        "interactions": [
            ("select", SelectKBest(by_f, k=10)),
            ("products", PolynomialFeatures(2, include_bias=False)),
            ("scale", StandardScaler()),
        ],
        "landmarks": [("landmarks", Nystroem(n_components=N_LANDMARKS, random_state=random_state))],
    }
    return steps[extra]


def _n_trees(model: Any) -> int:
    """Return how many trees boosting took; LightGBM has some more than it found to be best."""
    return getattr(model, "best_iteration_", 0) or model.n_iter_


Factory: TypeAlias = Callable[[dict[str, Any], int], Any]


def _plain(model: Callable[..., Any]) -> Factory:
    return lambda settings, random_state: model(**settings)


def _seeded(model: Callable[..., Any]) -> Factory:
    return lambda settings, random_state: model(**settings, random_state=random_state)


def _forest(model: Callable[..., Any]) -> Factory:
    return lambda settings, random_state: model(**settings, random_state=random_state, n_jobs=1)


def _lightgbm(kind: str) -> Factory:
    def make(settings: dict[str, Any], random_state: int) -> Any:
        try:
            import lightgbm
        except ImportError as error:
            raise MissingDependency("LightGBM is needed here: pip install 'tasklore[automl]'") from error
        given = {"n_jobs": 1, "verbosity": -1, "deterministic": True, "force_row_wise": True, **settings}
        if given.pop("early_stopping", False):
            from . import stopping

            return getattr(stopping, f"Stopped{kind}")(**given, random_state=random_state)
        return getattr(lightgbm, f"LGBM{kind}")(**given, random_state=random_state)

    return make


def _network(model: Callable[..., Any]) -> Factory:
    def make(settings: dict[str, Any], random_state: int) -> Any:
        given = {**settings, "hidden_layer_sizes": tuple(settings["hidden_layer_sizes"])}
        return model(**given, early_stopping=True, n_iter_no_change=15, random_state=random_state)

    return make


def _support_vectors(settings: dict[str, Any], random_state: int) -> Any:
    once: Any = False  # one calibration for the one model that all rows are fitted to
    return CalibratedClassifierCV(SVC(**settings, random_state=random_state), ensemble=once, cv=3)


def _gaussian_process(settings: dict[str, Any], random_state: int) -> Any:
    kernel = ConstantKernel() * RBF(3.0) + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=random_state, **settings)


MODELS: Mapping[Kind, Mapping[str, Factory]] = {
    "classification": {
        "constant": _plain(lambda: DummyClassifier(strategy="prior")),
        "logistic": _seeded(LogisticRegression),
        "discriminant": _plain(LinearDiscriminantAnalysis),
        "quadratic": _plain(QuadraticDiscriminantAnalysis),
        "gaussian-bayes": _plain(GaussianNB),
        "bernoulli-bayes": _plain(BernoulliNB),
        "neighbours": _plain(KNeighborsClassifier),
        "support-vectors": _support_vectors,
        "tree": _seeded(DecisionTreeClassifier),
        "forest": _forest(RandomForestClassifier),
        "extra-trees": _forest(ExtraTreesClassifier),
        "boosting": _seeded(HistGradientBoostingClassifier),
        "lightgbm": _lightgbm("Classifier"),
        "network": _network(MLPClassifier),
    },
    "regression": {
        "constant": _plain(DummyRegressor),
        "ridge": _plain(Ridge),
        "ridge-cv": _plain(RidgeCV),
        "bayesian-ridge": _plain(BayesianRidge),
        "elastic-net": _seeded(ElasticNetCV),
        "huber": _plain(HuberRegressor),
        "kernel-ridge": _plain(KernelRidge),
        "gaussian-process": _gaussian_process,
        "neighbours": _plain(KNeighborsRegressor),
        "support-vectors": _plain(SVR),
        "tree": _seeded(DecisionTreeRegressor),
        "forest": _forest(RandomForestRegressor),
        "extra-trees": _forest(ExtraTreesRegressor),
        "boosting": _seeded(HistGradientBoostingRegressor),
        "lightgbm": _lightgbm("Regressor"),
        "network": _network(MLPRegressor),
    },
}
