"""torch.nn.functional, which the modules of torch.nn call."""

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch",)
DISTRIBUTION = "torch"

WEIGHTED_MEAN = "mean divides by the sum of the weights of the labels"
MEAN_OF_ENTRIES = "mean divides by the rows times the classes"


def cross_entropy(asked: Asked) -> Offer | str | None:
    """F.cross_entropy; for probabilities F.nll_loss of their logarithm."""
    smooths = ("label_smoothing",) if asked.has_logits else ("from_logits",)
    if not asked.only("class_weight", "ignore_index", *smooths):
        return None
    if not asked.has_indices and ("ignore_index" in asked.config or not asked.has_logits):
        return "ignores class indices only, and takes distributions only beside logits"
    divides_by_weights = asked.reduction == "mean" and "class_weight" in asked.config and asked.has_indices

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        options: dict[str, Any] = {"weight": shared.class_weight(asked, logits)}
        options["reduction"] = asked.reduction.removeprefix("weighted_")
        if asked.has_indices:
            target = shared.labels(asked, target)
            options["ignore_index"] = asked.get("ignore_index", -100)
        else:
            target = shared.second(asked, target.to(logits.dtype))
        if asked.has_logits:
            function: Any = partial(functional.cross_entropy, label_smoothing=asked.get("label_smoothing", 0.0))
            scores = shared.second(asked, logits)
        else:
            p = shared.probabilities(asked, logits, normalise=undo)
            function, scores = functional.nll_loss, shared.second(asked, shared.clipped(p) if undo else p).log()
            options["weight"] = shared.class_weight(asked, scores)
        if undo and divides_by_weights:
            options["reduction"] = "sum"
        value = function(scores, target, **options).to(logits.dtype)
        return value / asked.kept_rows if undo and divides_by_weights else value

    return offered(call, WEIGHTED_MEAN if divides_by_weights else None, shared.of_probabilities(asked))


def binary_cross_entropy(asked: Asked) -> Offer | str | None:
    """F.binary_cross_entropy_with_logits, and F.binary_cross_entropy for probabilities."""
    weights = "pos_weight" if asked.has_logits else "from_logits"
    if not asked.only("sample_weight", weights):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool, sample_weight: Tensor | None = None) -> Tensor:
        target = shared.binary(asked, logits, target)
        options: dict[str, Any] = {"reduction": asked.reduction}
        if sample_weight is not None:
            options["weight"] = shared.against_rows(asked, sample_weight)
        if not asked.has_logits:
            p = shared.clipped(logits) if undo else logits
            options["weight"] = options["weight"].to(p.dtype) if "weight" in options else None
            return functional.binary_cross_entropy(p, target.to(p.dtype), **options).to(logits.dtype)
        if "pos_weight" in asked.config:
            options["pos_weight"] = logits.new_tensor(asked.pos_weight)
        return functional.binary_cross_entropy_with_logits(logits, target, **options)

    return offered(call, shared.UNCLIPPED if asked.is_clipped else None)


def kl_divergence(asked: Asked) -> Offer | str | None:
    """F.kl_div of the log-softmax, or of the logarithm of probabilities."""
    if not asked.only("from_logits"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        wanted = shared.distribution(asked, logits, target)
        if asked.has_logits:
            logs = logits.log_softmax(asked.axis)
        else:
            p = shared.probabilities(asked, logits, normalise=undo)
            logs = (shared.clipped(p) if undo else p).log()
        if asked.reduction == "none" or undo:
            entries = functional.kl_div(logs, wanted.to(logs.dtype), reduction="none")
            return shared.reduced(asked, entries.sum(asked.axis)).to(logits.dtype)
        return functional.kl_div(logs, wanted, reduction=asked.reduction)

    return offered(call, MEAN_OF_ENTRIES if asked.reduction == "mean" else None, shared.of_probabilities(asked))


def hinge(asked: Asked) -> Offer | str | None:
    """F.multi_margin_loss, which sums over the rivals: of two classes it is ours over 2."""
    if not asked.only("class_weight"):
        return None
    if asked.classes != 2 or not asked.has_indices:
        return "of more than two classes it is another loss, the sum over the rivals; takes class indices only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        weight, given = shared.class_weight(asked, logits), shared.labels(asked, target).reshape(-1)
        value = functional.multi_margin_loss(
            shared.flat(asked, logits), given, weight=weight, reduction=asked.reduction
        )
        value = value.reshape(asked.row_shape) if asked.reduction == "none" else value
        return 2 * value if undo else value

    return offered(call, "the sum over the rivals is divided by the number of classes")


def distance(function: Any) -> Any:
    """F.mse_loss and F.l1_loss of probabilities and one-hot rows."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("from_logits"):
            return None
        if not asked.is_hard:
            return "of soft targets it is another loss, the distance to the mixture"
        if asked.is_clipped:
            return shared.UNCLIPPED
        scale = 2 if asked.loss == "BinaryMeanAbsoluteError" else 1

        def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
            if asked.is_binary:
                wanted = shared.binary(asked, logits, target)
                p = logits.sigmoid() if asked.has_logits else logits
            else:
                wanted = shared.distribution(asked, logits, target)
                p = shared.probabilities(asked, logits, normalise=undo)
            if not undo and (asked.is_binary or asked.reduction != "none"):
                return function(p, wanted, reduction=asked.reduction)
            values = function(p, wanted, reduction="none")
            return shared.reduced(asked, scale * values if asked.is_binary else values.sum(asked.axis))

        counts_entries = not asked.is_binary and asked.reduction == "mean"
        return offered(
            call,
            MEAN_OF_ENTRIES if counts_entries else None,
            "a binary loss has one of two equal terms" if scale == 2 else None,
            None if asked.is_binary else shared.of_probabilities(asked),
        )

    return make


OFFERS = {
    "BinaryCrossEntropy": binary_cross_entropy,
    "BinaryMeanAbsoluteError": distance(functional.l1_loss),
    "BinarySquaredError": distance(functional.mse_loss),
    "CategoricalCrossEntropy": cross_entropy,
    "CategoricalHinge": hinge,
    "CategoricalMeanAbsoluteError": distance(functional.l1_loss),
    "CategoricalSquaredError": distance(functional.mse_loss),
    "KLDivergence": kl_divergence,
    "SparseCategoricalCrossEntropy": cross_entropy,
}


def weighted_mean(asked: Asked) -> bool:
    """The mean of indices with class weights divides by these."""
    return asked.has_indices and asked.loss in ("CategoricalCrossEntropy", "SparseCategoricalCrossEntropy")


offer = answers(OFFERS, weighted_mean)
