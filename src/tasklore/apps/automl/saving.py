"""Models in files without code: skops, and nothing but the types that our pipelines are made of."""

from pathlib import Path
from typing import Any

from ...errors import DamagedArtifact, MissingDependency, StoreError
from ...files import replacing

__all__ = ["open_saved", "write"]

TRUSTED = frozenset(
    {
        *("collections.OrderedDict", "numpy.clip", "numpy.dtype", "numpy.nan_to_num"),
        *("lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier", "lightgbm.sklearn.LGBMRegressor"),
        *("sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration"),
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        *(
            f"sklearn.gaussian_process.kernels.{name}"
            for name in ("ConstantKernel", "Product", "RBF", "Sum", "WhiteKernel")
        ),
        *("sklearn.model_selection._split.KFold", "sklearn.model_selection._split.StratifiedKFold"),
        *(
            f"sklearn.metrics._dist_metrics.{name}Distance64"
            for name in ("Euclidean", "Manhattan", "Minkowski")
        ),
        *("sklearn.neighbors._kd_tree.KDTree", "sklearn.neighbors._ball_tree.BallTree"),
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        *("sklearn.tree._tree.Tree", "tasklore.apps.automl.convolution.ConvolutionClassifier"),
        *(f"tasklore.apps.automl.features.{name}" for name in ("DateParts", "FrequencyEncoder", "OneText")),
        *(f"tasklore.apps.automl.stopping.Stopped{kind}" for kind in ("Classifier", "Regressor")),
    }
)
"""Types in a saved model that skops does not trust by itself; models are made of these and no others."""


def write(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain values and fitted pipelines to a file.

    Raises
    ------
    StoreError
        The file cannot be written.
    MissingDependency
        skops is not installed.
    """
    sio = _skops()
    try:
        with replacing(Path(path)) as file:
            file.write(sio.dumps(content))
    except OSError as error:
        raise StoreError(f"the model cannot be written to {str(path)!r}: {error}") from error


def open_saved(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write` wrote.

    Raises
    ------
    DamagedArtifact
        There is no such file, it is damaged, or it holds other types; nothing of it is built then.
    """
    sio = _skops()
    try:
        content = Path(path).read_bytes()
        strange = sorted(set(sio.get_untrusted_types(data=content)) - TRUSTED)
        if not strange:
            return sio.loads(content, trusted=sorted(TRUSTED))
    except FileNotFoundError:
        raise DamagedArtifact(f"{path} does not exist; check the path") from None
    except Exception as error:  # whatever a damaged archive may cause
        raise DamagedArtifact(f"{path} is no model that Tasklore saved, or is damaged: {error}") from error
    raise DamagedArtifact(
        f"{path} holds {', '.join(strange[:5])}, which no model of Tasklore has; it is not opened"
    )


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise MissingDependency(
            "skops is needed to save and load models without pickle: pip install 'tasklore[automl]'"
        ) from error
    return skops.io
