"""How much weights matter: from what is known of them to one number for each weight, or for each channel."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paring.errors import ParingError, TechniqueError, in_words

Observed = Literal["gradient", "squared_gradient", "input_norm", "inverse_hessian", "response"]
Observe: TypeAlias = Callable[[Observed], Tensor]
"""What is asked for -> its value at every weight, shape (channels, n). TechniqueError where it can't be had."""


def _unobserved(what: Observed) -> Tensor:
    raise TechniqueError(f"{what} was not observed: nothing but the weights is known here.")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of some weights: row c holds what belongs to channel c, an output of the layer or layers.

    `weight` (channels, n) makes the channels: a convolution's filters with n = in * kh * kw, those of several layers
    that make the same channels one after the other. `consumers` (channels, m) are the weights that read them, `scale`
    (channels, k) the factors of normalisation in between; both may have no columns. All else is observed when a
    criterion asks for it: that takes passes over data.
    """

    weight: Tensor
    consumers: Tensor
    scale: Tensor
    observe: Observe = _unobserved
    seed: int = 0

    @classmethod
    def of(cls, weight: Tensor, observe: Observe = _unobserved, seed: int = 0) -> Evidence:
        """The evidence of a layer that stands alone."""
        nothing = weight.new_zeros(len(weight), 0)
        return cls(weight, nothing, nothing, observe, seed)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.weight.shape[0])

    @property
    def gradient(self) -> Tensor:
        """dL/dw, the mean over 256 samples from all over the task's training data, shape (channels, n)."""
        return self.observe("gradient")

    @property
    def squared_gradient(self) -> Tensor:
        """The sum over those samples of (dL/dw)^2, shape (channels, n)."""
        return self.observe("squared_gradient")

    @property
    def input_norm(self) -> Tensor:
        """The Euclidean norm over the calibration rows of what each weight is multiplied with, shape (channels, n)."""
        return self.observe("input_norm")

    @property
    def inverse_hessian(self) -> Tensor:
        """At each weight its diagonal entry of (2 X X^T)^-1, X the layer's inputs, dampened, shape (channels, n)."""
        return self.observe("inverse_hessian")

    @property
    def response(self) -> Tensor:
        """log sum_x exp(z), z the channel before its activation, over the calibration rows, shape (channels,).

        Where several layers make the channel, the mean of theirs.
        """
        return self.observe("response").mean(1)


Criterion: TypeAlias = Callable[[Evidence], Tensor]
"""Evidence -> importance, finite: of each weight, shape (channels, n), or of whole channels, shape (channels,).

The lowest go first. A channel's importance is the sum over its weights.
"""


def magnitude_l1(evidence: Evidence) -> Tensor:
    """|w|, shape (channels, n). Han et al. 2015; of filters Li et al. 2017, Pruning Filters, section 3.1."""
    return evidence.weight.abs()


def magnitude_l2(evidence: Evidence) -> Tensor:
    """w^2, shape (channels, n): a channel's sum ranks as its Euclidean norm does."""
    return evidence.weight.square()


def squared_gradient(evidence: Evidence) -> Tensor:
    """The empirical Fisher information, sum over samples of (dL/dw)^2, shape (channels, n). LeCun et al. 1990.

    How much the loss feels a change of the weight, whatever the weight is; `fisher` counts its size too.
    """
    return evidence.squared_gradient


def fisher(evidence: Evidence) -> Tensor:
    """w^2 times the empirical Fisher information, shape (channels, n). Theis et al. 2018, Fisher pruning.

    The second-order change of the loss when a weight goes, up to a factor that is the same for all.
    """
    return evidence.weight.square() * evidence.squared_gradient


def taylor(evidence: Evidence) -> Tensor:
    """|w dL/dw|, shape (channels, n): the first-order change of the loss. Molchanov et al. 2017, eq. 7, of activations.

    Of weights as in SNIP (Lee et al. 2019); Molchanov et al. 2019, eq. 8, square it.
    """
    return (evidence.weight * evidence.gradient).abs()


def wanda(evidence: Evidence) -> Tensor:
    """|w| times the norm of its input, shape (channels, n). Sun et al. 2024, A Simple and Effective Pruning, eq. 1.

    There weights are compared with those of the same output alone (section 3): `scope="output"` of `PruneWeights`.
    """
    return evidence.weight.abs() * evidence.input_norm


def obs(evidence: Evidence) -> Tensor:
    """w^2 / [H^-1]_jj, shape (channels, n): the error of the layer's outputs when a weight goes and the others adapt.

    Optimal brain surgeon, Hassibi and Stork 1993, eq. 5, with the Hessian of the layer's squared error as in Frantar
    and Alistarh 2022, OBC. All are judged at once, where OBC judges anew after every weight that went.
    """
    return evidence.weight.square() / evidence.inverse_hessian


def activation_softmax(evidence: Evidence) -> Tensor:
    """log r_i of r_i = 1/Z sum_x exp(sum_j w_ij a_j), shape (channels,): how often a unit responds most strongly.

    The logarithm ranks alike and does not underflow. Z makes the r_i of the layer add up to 1. A bias is the weight of
    an input that is always 1; x are the calibration rows, and all positions of a convolution in each.
    """
    return evidence.response.double().log_softmax(0)


def norm_scale(evidence: Evidence) -> Tensor:
    """Sum of the absolute factors of normalisation, shape (channels,). Liu et al. 2017, Network Slimming, section 3.

    Where there is no normalisation, `magnitude_l2` decides.
    """
    return evidence.scale.abs().sum(1) if evidence.scale.shape[1] else magnitude_l2(evidence).sum(1)


def geometric_median(evidence: Evidence) -> Tensor:
    """Sum of the distances to all other filters, shape (channels,). He et al. 2019, FPGM.

    Those near the geometric median of all go first: the others can stand in for them.
    """
    weight = evidence.weight.double()
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def random(evidence: Evidence) -> Tensor:
    """Uniform in [0, 1), shape (channels, n), the same for the same seed: what every criterion has to beat."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return torch.rand(evidence.weight.shape, generator=generator, dtype=torch.float64)


CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        criterion.__name__: criterion
        for criterion in (
            *(magnitude_l1, magnitude_l2, squared_gradient, fisher, taylor, wanda, obs),
            *(activation_softmax, norm_scale, geometric_median, random),
        )
    }
)


OF_GRADIENTS = (squared_gradient, fisher, taylor)
"""Criteria that ask for gradients, which take labelled training data."""


def criterion_of(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the function itself. TechniqueError names the closest known ones."""
    if not isinstance(criterion, str):
        return criterion
    if criterion not in CRITERIA:
        close = difflib.get_close_matches(criterion, CRITERIA, n=3, cutoff=0.0)
        raise TechniqueError(
            f"criterion={criterion!r} is unknown: choose {', '.join(close)}, or pass a function (on the command line "
            "criterion=FILE.py:NAME)."
        )
    return CRITERIA[criterion]


def importance(criterion: str | Criterion, evidence: Evidence, where: str) -> Tensor:
    """The criterion's answer for the channels of the group `where`, checked: shape (channels,), no NaN or infinity."""
    scores = _checked(criterion, evidence, where)
    return scores.sum(1) if scores.ndim == 2 else scores


def weight_importance(criterion: str | Criterion, evidence: Evidence, where: str) -> Tensor:
    """The criterion's answer for every weight of the layer `where`, checked: shape (channels, n), no NaN or infinity.

    TechniqueError for a criterion that judges whole channels.
    """
    scores = _checked(criterion, evidence, where)
    if scores.ndim == 1:
        raise TechniqueError(
            f"the criterion judges whole channels of {where!r}: for single weights choose one that judges each, "
            "for example magnitude_l1."
        )
    return scores


def _checked(criterion: str | Criterion, evidence: Evidence, where: str) -> Tensor:
    try:
        scores = criterion_of(criterion)(evidence)
    except ParingError:
        raise
    except Exception as error:  # The criterion may be anybody's code.
        raise TechniqueError(f"the criterion failed for {where!r} with {in_words(error)}.") from error
    shapes = [(evidence.channels,), tuple(evidence.weight.shape)]
    if not isinstance(scores, Tensor) or tuple(scores.shape) not in shapes:
        given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        wanted = f"a tensor of shape {shapes[0]}, or {shapes[1]} for each weight"
        raise TechniqueError(f"the criterion gave {given} for {where!r}: it must return {wanted}.")
    if scores.is_complex():
        raise TechniqueError(
            f"the criterion gave complex numbers for {where!r}: return real ones, such as their abs()."
        )
    if scores.layout != torch.strided or scores.is_quantized or scores.is_meta:
        kind = "quantized" if scores.is_quantized else "meta" if scores.is_meta else "sparse"
        raise TechniqueError(f"the criterion gave a {kind} tensor for {where!r}: return plain numbers.")
    scores = scores.detach().double().cpu()
    if not torch.isfinite(scores).all():
        place = tuple((~torch.isfinite(scores)).nonzero()[0].tolist())
        told = f"channel {place[0]}" + (f", weight {place[1]}," if len(place) > 1 else "")
        raise TechniqueError(f"the criterion gave {float(scores[place])} for {told} of {where!r}: it must be finite.")
    return scores
