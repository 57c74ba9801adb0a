"""The loss of the last linear layer: what `linear` of a categorical loss reads, and how it chooses the work."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import kernels, private, reading, reduction, targets, weighting
from keras_xent.reduction import Rows
from keras_xent.shapes import along_classes, are_known
from shared_specs.common import arguments, guard

if TYPE_CHECKING:
    from keras_xent.categorical import CategoricalLoss, Given

_DROPS_ROWS = keras.backend.backend() != "jax"
"""Whether another number of rows costs nothing; JAX compiles all operations again."""


@dataclass(frozen=True, eq=False)
class TopK:
    """A distribution over the classes, given by its largest probabilities, as a teacher saves it.

    Args:
        indices: Class indices [..., k], of an integer dtype, different within a row.
        probabilities: Their probabilities [..., k].
        rest: "drop": the other classes have probability 0. "spread": they share 1 - sum(probabilities) equally.
    """

    indices: Any
    probabilities: Any
    rest: Literal["drop", "spread"] = "drop"

    def __post_init__(self) -> None:
        for name in ("indices", "probabilities"):
            given: Any = getattr(self, name)
            if not hasattr(given, "shape"):
                object.__setattr__(self, name, guard.as_array(name, given))
        arguments.choice("rest", self.rest, ("drop", "spread"))
        shapes = tuple(self.indices.shape), tuple(self.probabilities.shape)
        if not reading.fits(*shapes) or not shapes[0] or 0 in (shapes[0][-1], shapes[1][-1]):
            raise ValueError(f"probabilities must have the shape of indices, (..., k), got {shapes[1]} and {shapes[0]}")
        dtype = keras.backend.standardize_dtype(self.indices.dtype)
        if not keras.backend.is_int_dtype(dtype):
            raise TypeError(f"indices must have an integer dtype, got {dtype}")

    def dense(self, classes: int, dtype: str) -> Tensor:
        """Return the probabilities [..., C] of all classes."""
        probabilities, share = ops.cast(self.probabilities, dtype), self.share(classes, dtype)
        shape = ops.shape(self.indices)
        flat = ops.reshape(ops.cast(self.indices, "int32"), (-1, shape[-1]))  # [N, k]
        size = (ops.shape(flat)[0], classes)
        numbers = ops.expand_dims(ops.arange(size[0], dtype="int32"), 1) * ops.ones_like(flat)
        places = ops.reshape(ops.stack([numbers, flat], -1), (-1, 2))  # [N k, 2]
        whole = ops.scatter(places, ops.reshape(probabilities, (-1,)), size)
        if self.rest == "spread":
            is_given = ops.scatter(places, ops.ones_like(places[:, 0]), size) > 0
            whole = ops.where(is_given, whole, ops.reshape(share, (-1, 1)))
        return ops.reshape(whole, (*shape[:-1], classes))

    def share(self, classes: int, dtype: str) -> Tensor:
        """Return the probability [...] of each class that is not among the indices."""
        probabilities = ops.cast(self.probabilities, dtype)
        if self.rest == "drop" or classes <= self.indices.shape[-1]:
            return ops.zeros_like(probabilities[..., 0])
        return (1 - ops.sum(probabilities, -1)) / (classes - self.indices.shape[-1])

    def weights(self, class_weight: Tensor | None, classes: int, dtype: str) -> Tensor:
        """Return the sum [...] over the classes of probability times weight."""
        probabilities, share = ops.cast(self.probabilities, dtype), self.share(classes, dtype)
        if class_weight is None:
            return ops.sum(probabilities, -1) + share * (classes - self.indices.shape[-1])
        own = weighting.per_label(class_weight, self.indices)
        return ops.sum(probabilities * own, -1) + share * (ops.sum(class_weight) - ops.sum(own, -1))


class _Call(NamedTuple):
    """A call of `linear`, with the rows in one axis; those that need no loss are left out."""

    head: Any
    work: Any
    places: Tensor | None
    """Numbers [N] of the rows that are left; None if all are."""
    factor: Tensor | None
    """NaN [N] for rows with an invalid target, else 1; None if all are valid."""
    rows: Rows
    """The rows, without their losses."""
    fuses: bool
    """Whether chunks can be computed: not of symbolic tensors, nor under traces and transforms of torch."""


def quotient(loss: "CategoricalLoss", *given: Any, denominator: Any = None, trains: bool = True) -> Tensor:
    """Return the loss of the layer `given`, divided by the caller's `denominator` if there is one.

    The slopes of the rows are divided, and not the sum, whose gradients would be copied to be divided.

    Without `trains`, gradients are not computed in the forward pass; asked for, they are still right.
    """
    call, slopes, own = _slopes(loss, *given)
    slopes = reduction.of_parts(slopes, own, loss.reduction, denominator, loss.check_labels)
    return _total(call, slopes, trains)


def parts(loss: "CategoricalLoss", *given: Any, trains: bool = True) -> tuple[Tensor, Tensor]:
    """Return (sum k s l, denominator) of the layer `given`: (hidden, kernel, bias, target, sample_weight, mask)."""
    call, slopes, denominator = _slopes(loss, *given)
    return _total(call, slopes, trains), denominator


def _slopes(loss: "CategoricalLoss", *given: Any) -> tuple[_Call, Tensor, Tensor]:
    """Return the layer, the slopes k s [N] of its rows, and the denominator of the reduction."""
    call = _read(loss, *given, is_ranked=False)
    denominator = reduction.parts(call.rows, loss.reduction)[1]
    ones = ops.ones_like(call.rows.losses)
    slopes = reduction.weighted_losses(call.rows._replace(losses=ones))  # 0 for rows that do not count
    slopes = _left(slopes, call.places)
    return call, slopes if call.factor is None else slopes * call.factor, denominator


def _total(call: _Call, slopes: Tensor, trains: bool) -> Tensor:
    """Return the sum of slope times loss over the rows."""
    if call.fuses and trains:
        return kernels.total(call.head, slopes, call.work)
    losses = _losses(call)
    return ops.sum(ops.where(ops.equal(slopes, 0), ops.zeros_like(losses), slopes * losses))


def rows(loss: "CategoricalLoss", *given: Any) -> Rows:
    """Return all rows of the layer `given`, with their losses."""
    call = _read(loss, *given, is_ranked=loss.hard_fraction < 1.0)
    losses = _losses(call)
    losses = losses if call.factor is None else losses * call.factor
    if call.places is not None:
        numbers, count = ops.arange(1, len(call.places) + 1, dtype="int32"), ops.size(call.rows.losses)
        numbers = ops.scatter(ops.expand_dims(call.places, 1), numbers, (count,))  # 0 for a row that is left out
        losses = ops.take(ops.concatenate([ops.zeros((1,), dtype=losses.dtype), losses]), numbers)
    found = call.rows._replace(losses=reading.in_shape_of(call.rows.losses, losses))
    return found._replace(kept=reduction.hardest(found.losses, found.kept, loss.hard_fraction))


def _losses(call: _Call) -> Tensor:
    return kernels.losses(call.head, call.work) if call.fuses else call.work.plain(kernels.all_logits(call.head))


def _read(
    loss: "CategoricalLoss",
    hidden: Any,
    kernel: Any,
    bias: Any,
    target: Any,
    sample_weight: Any,
    mask: Any,
    *,
    is_ranked: bool,
) -> _Call:
    if not loss.reads_one_logits:
        raise ValueError(
            f"linear() cannot be used with {type(loss).__name__}, which reads more than one tensor of logits for each "
            "row: compute the logits, and call the loss"
        )
    if not loss.from_logits:
        raise ValueError("from_logits must be True for linear(), whose layer returns logits, got False")
    keras_mask = private.keras_mask_of(hidden)
    target, sample_weight, mask = map(reading.whole, (target, sample_weight, mask))
    head, like, size = _head(hidden, kernel, bias)
    shape = (*like.shape, size)
    if size == 1 and not loss._watch.has_warned:
        loss._watch.has_warned = True
        guard.warn(f"{type(loss).__name__} {guard.of_one_class(shape, len(shape) - 1)}")
    if loss.takes_cosines and not loss._watch.has_looked and reading.is_readable(head.hidden, None):
        few = head._replace(hidden=head.hidden[: reading.CORNER])
        loss._watch.look(loss._kind_of_layer(size), ops.stop_gradient(kernels.all_logits(few)), None)
    classes, class_weight = loss.count_classes(size), None
    if loss._class_weight is not None:
        class_weight = weighting.per_class("class_weight", loss._class_weight, head.hidden, classes)  # [C]
    # A model that was saved passes a list in place of the tuple.
    if isinstance(target, tuple | list) and len(target) == 2 and all(getattr(each, "shape", ()) for each in target):
        target = TopK(*target)
    if isinstance(target, TopK):
        given = _given_top(loss, like, shape, target, sample_weight, mask, keras_mask)
    else:
        axis = len(shape) - 1
        given = loss._given(like, shape, axis, target, sample_weight, mask, keras_mask)
    checked, weights, validity = _checked(loss, like, classes, given, class_weight)
    if validity is not None:
        validity = ops.cast(validity, like.dtype)
        loss._watch.say_unchecked(type(loss).__name__, validity, loss.check_labels)
    counts = given.kept if is_ranked else given.active
    head, places = _without(head, counts)
    checked = _left(checked, places, 0 if given.is_labels else 1)
    counts = None if places is not None or counts is None else ops.reshape(counts, (-1,))
    work = _work(loss, head, checked, class_weight, _left(weights, places), counts, given.is_labels, classes)
    rows_of_call = Rows(ops.zeros_like(like), weights, given.kept, given.sample_weight)
    soft = checked.probabilities if isinstance(checked, TopK) else checked
    return _Call(head, work, places, _left(validity, places), rows_of_call, kernels.fuses(head, soft))


def _given_top(
    loss: "CategoricalLoss",
    like: Tensor,
    shape: tuple[int | None, ...],
    top: TopK,
    sample_weight: Any,
    mask: Any,
    keras_mask: Any,
) -> "Given":
    """Return what is given beside the logits, as the loss does for other targets."""
    indices = reading.as_tensor("y_true", top.indices, like)
    if loss.labels_only or not loss.takes_distributions or not reading.fits(tuple(indices.shape)[:-1], shape[:-1]):
        wanted = f"class indices of shape {shape[:-1]}" if loss.labels_only else f"TopK of {shape[:-1]} rows"
        raise ValueError(f"y_true must be {wanted}, got TopK of shape {tuple(indices.shape)}")
    # As one class index a row, of which weights and masks are read. It is none that is ignored.
    no_label = ops.full_like(indices[..., 0], int(loss.ignore_index == 0))
    probabilities = reading.as_tensor("y_true", top.probabilities, like)
    given = loss._given(like, shape, len(shape) - 1, no_label, sample_weight, mask, keras_mask)
    return given._replace(target=TopK(indices, probabilities, top.rest), is_labels=False)


def _checked(
    loss: "CategoricalLoss", like: Tensor, classes: int, given: "Given", class_weight: Tensor | None
) -> tuple[Any, Tensor | None, Tensor | None]:
    """Return the target, the weights [...] of the rows in a weighted mean, and a factor [...]: NaN for bad targets."""
    target, _, _, active, _ = given
    dtype = reading.dtype_of(like)
    if isinstance(target, TopK):
        columns = None if active is None else ops.expand_dims(active, -1) & ops.ones_like(target.indices, dtype="bool")
        indices, validity = targets.checked_labels(target.indices, classes, columns, loss.check_labels)
        top = TopK(indices, target.probabilities, target.rest)
        return top, top.weights(class_weight, classes, dtype), None if validity is None else ops.mean(validity, -1)
    if given.is_labels:
        target, validity = targets.checked_labels(target, classes, active, loss.check_labels)
        return target, None if class_weight is None else weighting.per_label(class_weight, target), validity
    if not are_known(*target.shape, *like.shape):
        logits = ops.expand_dims(like, -1) * ops.zeros((classes,), dtype=dtype)
        target = reading.fitted("y_true", target, logits)
    read = loss.check_labels, loss.ignore_index, dtype
    target, validity = targets.checked_distribution(target, len(target.shape) - 1, active, *read)
    weights = None
    if loss.reduction == "weighted_mean":
        masses = target if class_weight is None else target * along_classes(class_weight, target)
        weights = ops.sum(masses, -1)  # not a product of matrices, which devices compute with fewer digits
    return target, weights, validity


def _left(values: Any, places: Tensor | None, inner: int = 0) -> Any:
    """Values of the rows that are left, in one axis, with their `inner` axes; None for None."""
    if values is None:
        return None
    if isinstance(values, TopK):
        indices, probabilities = (_left(each, places, inner) for each in (values.indices, values.probabilities))
        return TopK(indices, probabilities, values.rest)
    values = ops.reshape(values, (-1, *ops.shape(values)[len(values.shape) - inner :]))
    return values if places is None else ops.take(values, places, axis=0)


def _head(hidden: Any, kernel: Any, bias: Any) -> tuple[Any, Tensor, int]:
    """Return the layer with hidden states [N, D], a tensor [...] like the rows, and the number of classes."""
    given = {"hidden": hidden, "kernel": kernel, **({} if bias is None else {"bias": bias})}
    for name, tensor in given.items():
        tensor = reading.as_tensor(name, reading.whole(tensor))
        if not reading.is_floating(tensor):
            raise TypeError(f"{name} must be a floating-point tensor, got {reading.dtype_of(tensor)}")
        given[name] = tensor
    hidden, kernel = given["hidden"], given["kernel"]
    shapes = tuple(hidden.shape), tuple(kernel.shape)
    if len(shapes[1]) != 2 or not shapes[1][1] or not shapes[0] or not reading.fits(shapes[0][-1:], shapes[1][:1]):
        raise ValueError(
            "kernel must be a matrix of (features, classes), with the features of hidden on its last axis, got shape "
            f"{shapes[1]} for hidden of shape {shapes[0]}"
        )
    if bias is not None and tuple(given["bias"].shape) != shapes[1][1:]:
        raise ValueError(f"bias must have shape {shapes[1][1:]}, got {tuple(given['bias'].shape)}")
    dtypes = {reading.dtype_of(tensor) for tensor in given.values()}
    # Keras has no float64 in its rules, but on TensorFlow.
    dtype = "float64" if "float64" in dtypes else keras.backend.result_type(*dtypes)
    given = {name: ops.cast(tensor, dtype) for name, tensor in given.items()}
    like = targets.rows_of(given["hidden"], len(shapes[0]) - 1)
    given["hidden"] = ops.reshape(given["hidden"], (-1, ops.shape(given["kernel"])[0]))
    return kernels.head(**given), ops.stop_gradient(like), shapes[1][1]


def _without(head: Any, read: Tensor | None) -> tuple[Any, Tensor | None]:
    """Return the layer of the rows that are `read`, and their numbers; under a trace all rows.

    On torch, whose traces compute all logits, the others become 0; TensorFlow and JAX do that with the gradient.
    """
    if read is None:
        return head, None
    read = ops.reshape(read, (-1,))
    if not _DROPS_ROWS or not all(reading.is_readable(each, True) for each in (head.hidden, read)):
        if not kernels.IS_ON_TORCH:
            return head, None
        zeros = ops.zeros_like(head.hidden)
        return head._replace(hidden=ops.where(ops.expand_dims(read, 1), head.hidden, zeros)), None
    (places,) = ops.nonzero(read)
    if len(places) == len(read):
        return head, None
    return head._replace(hidden=ops.take(head.hidden, places, axis=0)), places


def _work(
    loss: "CategoricalLoss",
    head: Any,
    target: Any,
    class_weight: Tensor | None,
    weights: Tensor | None,
    counts: Tensor | None,
    is_labels: bool,
    classes: int,
) -> Any:
    """Return the work for a loss; `counts` [N] are the rows that do, None if all do."""
    dtype = reading.compute_dtype(head.hidden)
    tensors = (target.indices, target.probabilities) if isinstance(target, TopK) else (target,)

    def chosen(*tensors: Tensor) -> Tensor:
        if isinstance(target, TopK):
            return replace(target, indices=tensors[0], probabilities=tensors[1]).dense(classes, dtype)
        return tensors[0] if is_labels else ops.cast(tensors[0], dtype)

    is_symbolic = any(isinstance(each, Tensor) for each in (*head, *tensors))
    if kernels.IS_ON_TORCH and not is_symbolic:
        label = target if is_labels else None
        return kernels.work_of(
            loss, head, lambda rows: chosen(*(each[rows] for each in tensors)), label, class_weight, weights, counts
        )
    is_direct = loss._is_direct(is_labels, False)
    has_weights = weights is not None

    def losses_of(logits: Tensor, counts: Tensor, *data: Tensor) -> Tensor:
        of_rows, given = (data[0], chosen(*data[1:])) if has_weights else (None, chosen(*data))
        if is_direct:
            losses = loss._direct(logits, given, class_weight, of_rows, counts, is_labels, False)
        else:
            logits = weighting.harmless_logits(ops.cast(logits, dtype), counts, None, ranked=False)
            given = given if is_labels else weighting.harmless_logits(given, counts, None, ranked=False)
            losses = loss._indirect(logits, given, class_weight, is_labels)
        return ops.cast(losses, dtype)

    if counts is None:
        counts = ops.ones_like(head.hidden[:, 0], dtype="bool")
    data = (counts, weights, *tensors) if has_weights else (counts, *tensors)
    by_label = _by_label(loss, class_weight, has_weights, classes, dtype) if is_labels else None
    return kernels.Work(losses_of, data, 2 if is_direct else 4, by_label)


def _by_label(
    loss: "CategoricalLoss", class_weight: Tensor | None, has_weights: bool, classes: int, dtype: str
) -> kernels.ByLabel | None:
    """Return how a loss of labels reads blocks of classes; None if it needs all classes of a row."""
    if not loss._is_of_statistics:
        return None
    smooths = loss.label_smoothing > 0.0
    bound = None if loss.softcap is None else loss.softcap * loss.temperature
    reads = kernels.Reads(
        loss.divisor if bound is None else loss.divisor / bound, bound,
        others=smooths, log_partition=loss.z_loss != 0.0, entropy=loss.entropy_penalty != 0.0,
    )  # fmt: skip

    def losses_of(found: kernels.Found, _: Tensor, *data: Tensor) -> Tensor:
        of_rows, label = data if has_weights else (None, *data)
        score = found.log_odds
        if not loss.has_plain_softmax:
            score = loss._less_margin(score, found.own, label, classes)
        losses = loss._of_score(score, found.others, of_rows, classes)
        regulariser = loss._common_regulariser(found.log_partition, found.entropy)
        return ops.cast(losses if regulariser is None else losses + regulariser, dtype)

    return kernels.ByLabel(losses_of, reads, class_weight if smooths else None, 2 if has_weights else 1)
