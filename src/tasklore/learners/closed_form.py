"""Learning by solving: embed, then fit a linear read-out, and differentiate through the solution."""

import abc
import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..nets import MLP, Net, check_net
from ..registry import learners
from ..types import Adapted, Batch, Context, Inputs, Params, TaskSpec
from .base import (
    PRESENT,
    Learner,
    Tags,
    hide_absent,
    named_statistics,
    one_hot,
    require_positive,
    weights_and_statistics,
)

__all__ = ["LinearHead", "LogisticHead", "RidgeHead", "SVMHead", "logistic_read_out"]

READ_OUT = "task/read_out"
PENALTY, SCALE, LIMIT = "log_penalty", "log_scale", "log_C"


class LinearHead(Learner):
    """An embedding, and a linear read-out of it that each task solves for.

    With the support's features ``Z`` (n × d, a constant appended) and targets ``Y`` (n × c, one-hot for
    classes), a subclass finds the read-out ``W`` (d × c); predictions are ``α z W``, where the scale ``α`` is
    meta-learned with the embedding. The examples enter the solution through ``Z Zᵀ`` only, so the systems are
    as small as the support, whatever the width of the features.
    """

    net: Net
    tags: ClassVar[Tags] = Tags(any_ways=True)

    @property
    def backbone(self) -> Net:
        return self.net

    @abc.abstractmethod
    def first_logarithms(self, spec: TaskSpec) -> dict[str, float]:
        """Return the positive numbers that are meta-learned beside the embedding, as logarithms."""

    @abc.abstractmethod
    def read_out(self, z: Tensor, targets: Tensor, params: Params) -> Tensor:
        """Return ``W``, shape (d, c).

        Parameters
        ----------
        z : Tensor, shape (n, d)
            Rows of zeros for padding.
        targets : Tensor, shape (n, c)
            Rows of zeros for padding.
        params : Params
        """

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        params = self.net.init(spec.input_shape, None, generator)
        return params | {name: torch.tensor(value) for name, value in self.first_logarithms(spec).items()}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self.net.apply(_weights(params), support.inputs)  # (n, d)
        z = _with_constant(features) * support.mask.unsqueeze(1)  # padding: rows of zeros
        adapted = dict(params)
        if context.spec.kind == "classification":
            targets = one_hot(support, context.spec.n_outputs)  # (n, c)
            adapted[PRESENT] = targets.amax(0)
        else:
            targets = support.y * support.mask.unsqueeze(1)
        adapted[READ_OUT] = self.read_out(z, targets, params)  # (d + 1, c)
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self.net.apply(_weights(weights), inputs, statistics)
        outputs = _with_constant(features) @ adapted[READ_OUT]  # (n, c)
        if SCALE in adapted:
            outputs = outputs * adapted[SCALE].exp()
        return hide_absent(outputs, adapted[PRESENT]) if PRESENT in adapted else outputs


@learners.register("ridge-head")
@dataclass(frozen=True)
class RidgeHead(LinearHead):
    """Ridge regression on meta-learned features, solved exactly for each task (R2-D2).

    With the support's features ``Z`` (n × d, a constant appended) and targets ``Y`` (n × c, one-hot for
    classes), the read-out is ``W = Zᵀ (Z Zᵀ + λ I)⁻¹ Y``: a system as small as the support, whatever the
    width of the features. Predictions are ``α z W``; the penalty λ and the scale α are meta-learned with the
    embedding.

    Parameters
    ----------
    net : Net
        The embedding.
    penalty : float
        Where λ starts.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    For regression α is 1, so that predictions are in the units of the targets. The paper's shift β is left
    out: it is the same for all classes, so the softmax does not see it.

    References
    ----------
    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019,
    equations 4 to 6.
    """

    net: Net = dataclasses.field(default_factory=MLP)
    penalty: float = 1.0
    transductive: bool = False

    def __post_init__(self) -> None:
        check_net(self.net)
        require_positive(penalty=self.penalty)

    def first_logarithms(self, spec: TaskSpec) -> dict[str, float]:
        scale = {SCALE: math.log(10.0)} if spec.kind == "classification" else {}
        return {PENALTY: math.log(self.penalty)} | scale

    def read_out(self, z: Tensor, targets: Tensor, params: Params) -> Tensor:
        precision = z.dtype
        # In single precision long features or a small penalty leave few correct digits.
        z, targets, penalty = z.double(), targets.double(), params[PENALTY].double().exp()
        gram = z @ z.T + penalty * torch.eye(len(z), dtype=z.dtype, device=z.device)  # (n, n)
        return (z.T @ torch.linalg.solve(gram, targets)).to(precision)


@learners.register("logistic-head")
@dataclass(frozen=True)
class LogisticHead(LinearHead):
    """Logistic regression on meta-learned features, by a few steps of Newton's method (LR-D2).

    The read-out lowers ``Σ_i −log softmax(z_i W)[y_i] + λ/2 ‖W‖²``. With ``K = Z Zᵀ/λ``, outputs ``f = Z W``
    and chances ``π = softmax(f)``, a step of Newton is ``f ← (K⁻¹ + H)⁻¹ (H f + Y − π)``, ``H`` being the
    curvature ``diag(π) − π πᵀ`` of the cross-entropy: reweighted least squares. It is taken without
    inverting ``K``, with one system of n × n for each class.

    Parameters
    ----------
    net : Net
        The embedding.
    penalty : float
        Where λ starts.
    newton_steps : int
        How many; each about doubles the number of correct digits once the solution is near. One that would
        lead uphill is halved, up to four times.
    temperature : float
        Where the meta-learned temperature starts, by which the outputs are divided.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    The paper's LR-D2 has two classes; this is the multinomial regression that agrees with it there up to the
    size of the penalty, since two columns share what one would carry. The weight of the appended constant is
    penalised too. Temperature and penalty are meta-learned with the embedding.

    References
    ----------
    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019,
    section 3.3. Rasmussen, Williams: Gaussian Processes for Machine Learning, 2006, section 3.5 and algorithm
    3.3, for the step with many classes.
    """

    net: Net = dataclasses.field(default_factory=MLP)
    penalty: float = 1.0
    newton_steps: int = 5
    temperature: float = 1.0
    transductive: bool = False

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    def __post_init__(self) -> None:
        check_net(self.net)
        require_positive(penalty=self.penalty, newton_steps=self.newton_steps, temperature=self.temperature)

    def first_logarithms(self, spec: TaskSpec) -> dict[str, float]:
        return {PENALTY: math.log(self.penalty), SCALE: -math.log(self.temperature)}

    def read_out(self, z: Tensor, targets: Tensor, params: Params) -> Tensor:
        return logistic_read_out(z, targets, params[PENALTY].exp(), self.newton_steps)


def logistic_read_out(z: Tensor, targets: Tensor, penalty: Tensor, n_steps: int) -> Tensor:
    """Return the read-out of multinomial logistic regression, as :class:`LogisticHead` describes it.

    Parameters
    ----------
    z : Tensor, shape (n, d)
        Rows of zeros for padding.
    targets : Tensor, shape (n, c)
        One-hot; rows of zeros for padding, columns of zeros for absent classes.
    penalty : Tensor, shape ()
    n_steps : int
        Of Newton's method.

    Returns
    -------
    Tensor, shape (d, c)
    """
    precision = z.dtype
    # In single precision long features or a small penalty leave few correct digits.
    z, targets, penalty = z.double(), targets.double(), penalty.double()
    gram, eye = z @ z.T / penalty, torch.eye(len(z), dtype=z.dtype, device=z.device)  # (n, n)
    real, present = targets.sum(1, keepdim=True), targets.amax(0)  # (n, 1), (c,)
    unused = torch.diag(1 - real.squeeze(1))  # keeps rows of padding solvable
    outputs = coefficients = torch.zeros_like(targets)  # (n, c)
    for _ in range(n_steps):
        chances = torch.softmax(hide_absent(outputs, present), 1) * real
        wanted = chances * (outputs - (chances * outputs).sum(1, keepdim=True)) + targets - chances
        curved = chances.T  # (c, n)
        # (K + D⁻¹)⁻¹ = D (I + K D)⁻¹ for each class, which holds where the curvature D is zero too.
        each = curved.unsqueeze(2) * torch.linalg.inv(eye + gram * curved.unsqueeze(1))  # (c, n, n)
        moved = torch.einsum("kij,jk->ik", each, gram @ wanted)
        shared = torch.linalg.solve(each.sum(0) + unused, moved.sum(1))  # (n,)
        step = wanted - moved + torch.einsum("kij,j->ik", each, shared) - coefficients
        move = gram @ step
        # The whole step, or a half, a quarter, … of it where the whole would lead uphill.
        tries = [0.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.0]
        shares = torch.tensor(tries, dtype=z.dtype, device=z.device).view(-1, 1, 1)
        tried = outputs + shares * move  # (7, n, c)
        errors = -(torch.log_softmax(hide_absent(tried, present), 2) * targets).sum((1, 2))
        heights = (errors + ((coefficients + shares * step) * tried).sum((1, 2)) / 2).detach()
        allowed = heights[1:] <= heights[0] + 1e-5 * heights[0].abs()
        first = allowed.to(torch.int64).argmax()
        chosen = torch.arange(6, device=z.device) == first
        share = (shares[1:, 0, 0] * chosen).sum()
        coefficients, outputs = coefficients + share * step, outputs + share * move
    return (z.T @ coefficients / penalty).to(precision)


@learners.register("svm-head")
@dataclass(frozen=True)
class SVMHead(LinearHead):
    """A support vector machine for all classes at once on meta-learned features (MetaOptNet).

    The read-out lowers ``½ ‖W‖² + C Σ_i max_k (z_i·w_k + [k ≠ y_i] − z_i·w_{y_i})`` (Crammer and Singer). Its
    dual is ``min_A ½ tr(Aᵀ Z Zᵀ A) − Σ_i A[i, y_i]`` over ``A ≤ C Y`` with rows that sum to zero, and
    ``W = Zᵀ A``. An interior point method solves it; a meta-gradient does not run through its steps but
    through the conditions that hold at the solution.

    Parameters
    ----------
    net : Net
        The embedding.
    C : float
        Where the weight of the errors starts; 1/C is the penalty.
    solver_steps : int
        Of the interior point method, at most; it stands still once it has arrived.
    temperature : float
        Where the meta-learned temperature starts, by which the outputs are divided.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    The paper keeps ``C`` at 0.1 and learns the scale alone; here ``C`` is meta-learned as well, and a
    constant is appended to the features. Only first derivatives of the solution are right, which is all that
    a meta-gradient takes.

    References
    ----------
    Lee, Maji, Ravichandran, Soatto: Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
    section 3.2. Crammer, Singer: On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines, JMLR 2001.
    """

    net: Net = dataclasses.field(default_factory=MLP)
    C: float = 0.1
    solver_steps: int = 20
    temperature: float = 0.1
    transductive: bool = False

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    def __post_init__(self) -> None:
        check_net(self.net)
        require_positive(C=self.C, solver_steps=self.solver_steps, temperature=self.temperature)

    def first_logarithms(self, spec: TaskSpec) -> dict[str, float]:
        return {LIMIT: math.log(self.C), SCALE: -math.log(self.temperature)}

    def read_out(self, z: Tensor, targets: Tensor, params: Params) -> Tensor:
        precision = z.dtype
        z, targets, limit = z.double(), targets.double(), params[LIMIT].double().exp()
        shares = _margin_shares(limit * (z @ z.T), targets, self.solver_steps)
        return (limit * z.T @ (targets - shares)).to(precision)


def _margin_shares(gram: Tensor, targets: Tensor, n_steps: int) -> Tensor:
    """Solve ``min_B ½ tr((B − Y)ᵀ K (B − Y)) + Σ Y ∘ B`` over rows of ``B ≥ 0`` that sum to 1.

    At the solution the slopes ``G = K (B − Y) + Y`` are ``S − ν 1ᵀ`` with ``S ≥ 0`` and ``S ∘ B = 0``.
    Starting inside, every step keeps to all but the last condition, and Newton's method brings ``S ∘ B`` to
    zero.

    Parameters
    ----------
    gram : Tensor, shape (n, n)
        ``K``.
    targets : Tensor, shape (n, c)
        ``Y``, one-hot; rows of zeros for padding, columns of zeros for absent classes.
    n_steps : int

    Returns
    -------
    Tensor, shape (n, c)
        Zeros for padding and absent classes.

    References
    ----------
    Nocedal, Wright: Numerical Optimization, 2006, algorithm 16.4 (Mehrotra's predictor and corrector). Amos,
    Kolter: OptNet, ICML 2017, section 3, for the derivative of the solution.
    """
    real, present = targets.sum(1), targets.amax(0)  # (n,), (c,)
    possible = real.unsqueeze(1) * present  # (n, c)
    n_possible, fixed = possible.sum(), gram.detach()
    shares = possible / present.sum()
    slopes = fixed @ (shares - targets) + targets
    lowest = torch.where(possible > 0, slopes, slopes.amax(1, keepdim=True)).amin(1, keepdim=True)
    surplus = (slopes - lowest + 1) * possible  # S

    def inverses(ratio: Tensor) -> Tensor:
        """Return ``(K + diag(S / B))⁻¹`` for each class, shape (c, n, n)."""
        return torch.linalg.inv(fixed + torch.diag_embed(ratio.T)) * possible.T.unsqueeze(2)

    def direction(each: Tensor, wanted: Tensor) -> Tensor:
        """Solve ``(K + S / B) ΔB + Δν 1ᵀ = wanted`` with ``ΔB 1 = 0``."""
        alone = torch.einsum("kij,jk->ik", each, wanted)
        shift = torch.linalg.solve(each.sum(0) + torch.diag(1 - real), alone.sum(1))
        return alone - torch.einsum("kij,j->ik", each, shift)

    for _ in range(n_steps):
        held = shares + 1 - possible  # B, without zeros to divide by
        ratio = surplus / held + 1 - possible
        each = inverses(ratio)
        gap = (surplus * shares).sum() / n_possible
        ahead = direction(each, -surplus)
        ahead_surplus = (-surplus - ratio * ahead) * possible
        length = _longest_step(shares, ahead, surplus, ahead_surplus)
        left = ((shares + length * ahead) * (surplus + length * ahead_surplus)).sum() / n_possible
        centred = gap * (left / gap) ** 3
        wanted = -surplus + (centred - ahead * ahead_surplus) / held * possible
        move = direction(each, wanted)
        move_surplus = (wanted - ratio * move) * possible
        length = 0.99 * _longest_step(shares, move, surplus, move_surplus)
        length = torch.where(gap > 1e-9, length, 0.0)  # nearer, the systems are singular
        shares, surplus = shares + length * move, surplus + length * move_surplus
    # A step of Newton from the solution that leads nowhere, but has the slopes that the solution has.
    each = inverses(surplus / (shares + 1 - possible) + 1 - possible)
    slopes = gram @ (shares - targets)
    return shares + direction(each, slopes.detach() - slopes)


def _longest_step(one: Tensor, one_move: Tensor, other: Tensor, other_move: Tensor) -> Tensor:
    """Return how far both can go along their moves, at most 1, without becoming negative."""
    lengths = [
        torch.where(move < 0, -values / torch.where(move < 0, move, -1.0), 1.0).amin()
        for values, move in ((one, one_move), (other, other_move))
    ]
    return torch.minimum(*lengths).clamp(max=1.0)


def _weights(params: Params) -> Params:
    """Return the tensors of the net."""
    return {name: tensor for name, tensor in params.items() if name not in (PENALTY, SCALE, LIMIT)}


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)
