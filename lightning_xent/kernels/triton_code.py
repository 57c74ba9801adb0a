"""The Triton kernels: the outputs of rows from their logits, and the gradient of the logits from those of the outputs.

A program reads tiles of logits, [A, SIZE], in one of three layouts (KIND):

- "long":  one row a program, its classes along both axes; with few rows, several programs share a row
- "short": rows along A, all classes of a row along SIZE
- "many":  class axis second in memory: positions along SIZE, classes along A

What belongs to rows, such as labels, has the shape [], [A, 1] or [1, SIZE]; what counts classes [A, SIZE], [1, SIZE] or
[A, 1]; and what is accumulated, one entry a lane, [1, SIZE / V, 1], [A, 1] or [1, SIZE]. A long row is loaded as
[A, SIZE] and reshaped to [A, SIZE / V, V], so that a lane, which is a thread, owns the A * V elements that it reduces.

The statistics of a row are those of its rivals, the classes other than the label: with the peak of the whole row, the
sum of their exponentials would be 0 where the label leads by 88. Distances, peak - logit, are 0 or more, so no sum
cancels when the peak moves. Numbers of a row that is ignored or has no such label are never used.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
SIZES = ["rows", "inner", "classes", "steps", "splits", "outer_stride", "inner_stride", "class_stride"]
SIZES_OF_BOTH = [*SIZES, "outer_stride_2", "inner_stride_2", "class_stride_2"]
NUMBERS = ["rate_bits", "bound_bits", "factor_bits"]


@triton.jit
def _number(bits, DTYPE: tl.constexpr):
    """The float64 with these bits: a Python float would arrive as float32."""
    return bits.to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def _place(rows, inner, KIND: tl.constexpr, A: tl.constexpr, SIZE: tl.constexpr, ALIGN: tl.constexpr):
    """Where the rows of this program lie, row = outer * inner + position, and which of them exist."""
    program = tl.program_id(0)
    if KIND == "many":
        inner = inner // ALIGN * ALIGN
        blocks = tl.cdiv(inner, SIZE)
        outer = (program // blocks).to(tl.int64)
        position = program % blocks * SIZE + tl.arange(0, SIZE)[None, :]
        exists = position < inner
    else:
        row = program.to(tl.int64)
        if KIND == "short":
            row = row * A + tl.arange(0, A)[:, None]
        outer = row // inner
        position = row % inner
        exists = row < rows
    return outer, position, exists


@triton.jit
def _start(outer, position, outer_stride, inner_stride, KIND: tl.constexpr, ALIGN: tl.constexpr):
    """The offset of each row. Divided and multiplied by ALIGN, it is known to be its multiple: so loads are wide."""
    start = outer * (outer_stride // ALIGN * ALIGN)
    if KIND == "many":
        start += position
    else:
        start += position * (inner_stride // ALIGN * ALIGN)
    return start


@triton.jit
def _index(KIND: tl.constexpr, A: tl.constexpr, SIZE: tl.constexpr):
    """The classes of a tile, counted from its first."""
    if KIND == "long":
        index = tl.arange(0, A)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    elif KIND == "short":
        index = tl.arange(0, SIZE)[None, :]
    else:
        index = tl.arange(0, A)[:, None]
    return index


@triton.jit
def _tiles(classes, steps, is_read, KIND: tl.constexpr, TILE: tl.constexpr):
    """The tiles of this program: from start to whole they need no mask of classes, from whole to end they do."""
    start = tl.program_id(1) * steps
    end = tl.minimum(start + steps, tl.cdiv(classes, TILE))
    whole = tl.minimum(end, classes // TILE)
    if KIND == "short":  # its masks are those of the rows too
        whole = start
    else:
        end = tl.where(tl.max(is_read.to(tl.int32)) > 0 if KIND == "many" else is_read, end, start)
        whole = tl.minimum(end, tl.maximum(whole, start))
    return start, whole, end


@triton.jit
def _offset(first, index, class_stride, KIND: tl.constexpr, ALIGN: tl.constexpr):
    """How far the classes of a tile lie from the start of their row."""
    return (index.to(tl.int64) + first) * (class_stride // ALIGN * ALIGN) if KIND == "many" else index + first


@triton.jit
def _mask(first, index, classes, rows, MASKED: tl.constexpr, KIND: tl.constexpr, ALIGN: tl.constexpr):
    """Which elements of a tile belong to classes and to `rows`; a long row is left out by its loop."""
    if KIND == "long" and not MASKED:
        mask = tl.zeros(index.shape, tl.int32) == 0  # constant, so it is dropped; Triton 3.2 has no zeros of int1
    elif KIND == "long":
        mask = index < classes // ALIGN * ALIGN - first
    elif not MASKED:
        mask = rows & (index >= 0)
    elif KIND == "many":
        mask = rows & (index < classes - first)
    else:
        mask = rows & (index < classes // ALIGN * ALIGN)
    return mask


@triton.jit
def _mask_of_read(mask, index, is_read, KIND: tl.constexpr, TILE: tl.constexpr):
    """A mask less the rows that are not read, where that leaves loads wide."""
    if KIND == "long":
        mask = mask & (index < tl.where(is_read, TILE, 0))
    elif KIND == "short":
        mask = mask & is_read
    return mask


@triton.jit
def _weights(weights, first, index, classes, MASKED: tl.constexpr, DTYPE: tl.constexpr):
    """The weights of the classes of a tile; 0 beyond the last class."""
    if weights is None:
        values = tl.full(index.shape, 1, DTYPE)
    elif MASKED:
        values = tl.load(weights + first + index, mask=index < classes - first, other=0).to(DTYPE)
    else:
        values = tl.load(weights + first + index).to(DTYPE)
    return values


@triton.jit
def _tanh(value):
    """tanh(value), NaN for +inf, and its derivative; both keep their digits, near 0 and near 1."""
    square = value * value
    above = 135135 + square * (17325 + square * (378 + square))
    below = 135135 + square * (62370 + square * (3150 + square * 28))
    shrunk = tl.exp(-2 * tl.abs(value))
    inverse = 1 / (1 + shrunk)
    far = (1 - shrunk) * inverse
    far = tl.where(value < 0, -far, far)
    result = tl.where(square < 0.25, value * (above / below), far)
    return tl.where(value == INFINITY, float("nan"), result), 4 * shrunk * inverse * inverse


@triton.jit
def _log1p(value):
    """log(1 + value) of value >= 0, to all digits: what 1 + value rounds away is multiplied back."""
    sum_ = 1 + value
    return tl.where(sum_ == 1, value, tl.log(sum_) * (value / tl.where(sum_ == 1, 1, sum_ - 1)))


@triton.jit
def _times(factor, value):
    """factor * value; 0 where the factor is 0, even if the value is infinite."""
    return tl.where(factor == 0, 0, factor * value)


@triton.jit
def _lanes(values, KIND: tl.constexpr, SIZE: tl.constexpr, A: tl.constexpr, V: tl.constexpr):
    """A tile in the shape in which it is reduced."""
    if KIND == "long":
        values = tl.reshape(values, (A, SIZE // V, V))
    return values


@triton.jit
def _max(values, KIND: tl.constexpr):
    if KIND == "long":
        values = tl.max(tl.max(values, 2, keep_dims=True), 0, keep_dims=True)
    else:
        values = tl.max(values, 1 if KIND == "short" else 0, keep_dims=True)
    return values


@triton.jit
def _sum(values, KIND: tl.constexpr):
    if KIND == "long":
        values = tl.sum(tl.sum(values, 2, keep_dims=True), 0, keep_dims=True)
    else:
        values = tl.sum(values, 1 if KIND == "short" else 0, keep_dims=True)
    return values


@triton.jit
def _zeros(KIND: tl.constexpr, A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, DTYPE: tl.constexpr):
    """A zero for each lane."""
    if KIND == "long":
        zeros = tl.zeros((1, SIZE // V, 1), DTYPE)
    elif KIND == "short":
        zeros = tl.zeros((A, 1), DTYPE)
    else:
        zeros = tl.zeros((1, SIZE), DTYPE)
    return zeros


@triton.jit
def _moved(peak, highest):
    """How far the peak moved; inf from a lane without classes, and 0 to one."""
    return tl.where(highest == peak, 0, highest - peak)


@triton.jit
def _finite(peak):
    """The peak, or 0 where there is no class but with logit -inf."""
    return tl.where(peak == -INFINITY, 0, peak)


# ---- Labels: statistics of the rivals


@triton.jit
def _with_tile(
    peak, rivals, weight, spread, tilt, x, w, rate,
    SPREAD: tl.constexpr, TILT: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """The statistics of each lane with those of a tile of logits x and weights w, where the label has -inf and 0."""
    highest = tl.maximum(peak, _max(x, KIND))
    moved = _moved(peak, highest)
    fade = tl.exp2(-moved * (rate * LOG2_E))
    distance = _finite(highest) - x
    # Subtracted, then multiplied: one fused operation would be off by 700 eps at logits near 1000.
    exponential = tl.exp2(-distance * (rate * LOG2_E))
    if TILT:
        tilt = fade * (tilt + _times(rivals, moved)) + _sum(_times(exponential, distance), KIND)
    if SPREAD:
        spread += _times(weight, moved) + _sum(_times(w, distance), KIND)
        weight += _sum(w, KIND)
    return highest, rivals * fade + _sum(exponential, KIND), weight, spread, tilt


@triton.jit
def _of_all_lanes(peak, rivals, weight, spread, tilt, rate):
    """The statistics of all lanes together."""
    highest = tl.max(peak)
    moved = _moved(peak, highest)
    fade = tl.exp2(-moved * (rate * LOG2_E))
    spread = tl.sum(spread + _times(weight, moved))
    tilt = tl.sum(fade * (tilt + _times(rivals, moved)))
    return highest, tl.sum(rivals * fade), tl.sum(weight), spread, tilt


@triton.jit
def _write_statistics(statistics, at, step, mask, peak, rivals, weight, tilt, SPREAD: tl.constexpr, TILT: tl.constexpr):
    """Write what the gradient needs."""
    tl.store(statistics + at, peak, mask=mask)
    tl.store(statistics + step + at, rivals, mask=mask)
    if SPREAD:
        tl.store(statistics + 2 * step + at, weight, mask=mask)
    if TILT:
        tl.store(statistics + 3 * step + at, tilt, mask=mask)


@triton.jit
def _write_outputs(
    log_odds, others, log_partition, entropy,
    row, exists, is_read, own, peak, rivals, weight, spread, tilt, rate,
):  # fmt: skip
    """Write the outputs of rows, given the logit of their label, NaN where there is none; 0 if they are ignored."""
    own = tl.where(own == INFINITY, float("nan"), own)  # its surprise would be 0
    own = (own - _finite(peak)) * rate
    of_rivals = tl.log(rivals)  # -inf where they are absent
    odds = own - of_rivals
    shrunk = tl.exp(-tl.abs(odds))
    total = tl.maximum(own, of_rivals) + _log1p(shrunk)  # log of all exponentials
    total = tl.where(odds == odds, total, float("nan"))
    tl.store(log_odds + row, tl.where(is_read, odds, 0), mask=exists)
    if others is not None:
        value = _times(weight, total) + spread * rate
        value = tl.where(odds == odds, value, float("nan"))
        tl.store(others + row, tl.where(is_read, value, 0), mask=exists)
    if log_partition is not None:
        tl.store(log_partition + row, tl.where(is_read, _finite(peak) * rate + total, 0), mask=exists)
    if entropy is not None:
        # That of label or not, and that of the rivals times their share: exact for a confident row.
        share = tl.where(odds > 0, shrunk, 1) / (1 + shrunk)
        of_two = _log1p(shrunk) + _times(shrunk, tl.abs(odds)) / (1 + shrunk)
        value = of_two + _times(share, _times(rivals, of_rivals) + tilt * rate) / tl.where(rivals == 0, 1, rivals)
        tl.store(entropy + row, tl.where(is_read, value, 0), mask=exists)


@triton.jit
def _read_labels(labels, counts, row, exists, classes):
    """Which rows count, their labels, -1 if out of range."""
    is_read = exists
    if counts is not None:
        is_read = exists & (tl.load(counts + row, mask=exists, other=0) != 0)
    label = tl.load(labels + row, mask=is_read, other=0).to(tl.int64)
    label = tl.where((label >= 0) & (label < classes), label, -1)
    return is_read, label.to(tl.int32)


@triton.jit
def _own_logit(logits, start, label, class_stride, is_read, bound, CAP: tl.constexpr, DTYPE: tl.constexpr):
    """The logit of the label, NaN where there is none."""
    own = tl.load(logits + start + label.to(tl.int64) * class_stride, mask=is_read & (label >= 0), other=0).to(DTYPE)
    if CAP:
        own = _tanh(own * bound)[0]
    return tl.where(label >= 0, own, float("nan"))


@triton.jit
def _tile_of_rivals(
    pointer, weights, first, index, label, classes, class_stride, is_read, bound,
    SPREAD: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr, KIND: tl.constexpr,
    A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Logits and weights of a tile; -inf and 0 where there is no rival."""
    mask = _mask(first, index, classes, is_read, MASKED, KIND, ALIGN)
    x = tl.load(pointer + _offset(first, index, class_stride, KIND, ALIGN), mask=mask, other=-INFINITY).to(DTYPE)
    if CAP:
        x = tl.where(mask, _tanh(x * bound)[0], -INFINITY)
    w = x
    if SPREAD:
        if weights is None:  # made of x, or Triton 3.6 would give it another layout, and exchange it in the loop
            w = tl.where(mask, tl.where(x == x, 1, x), 0)
        else:
            w = tl.where(mask, _weights(weights, first, index, classes, MASKED, DTYPE), 0)
    if KIND == "long":  # a branch of the whole program, which one tile takes
        if (label >= first) & (label < first + A * SIZE):
            x = tl.where(index == label - first, -INFINITY, x)
            if SPREAD:
                w = tl.where(index == label - first, 0, w)
    else:
        x = tl.where(index == label - first, -INFINITY, x)
        if SPREAD:
            w = tl.where(index == label - first, 0, w)
    return _lanes(x, KIND, SIZE, A, V), _lanes(w, KIND, SIZE, A, V)


@triton.jit(do_not_specialize=[*SIZES, *NUMBERS])
def label_forward(
    logits, labels, counts, weights, log_odds, others, log_partition, entropy, statistics,
    rows, inner, classes, steps, outer_stride, inner_stride, class_stride, rate_bits, bound_bits,
    SPREAD: tl.constexpr, CAP: tl.constexpr, SPLIT: tl.constexpr, KIND: tl.constexpr,
    A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The outputs of rows and the statistics that the gradient needs; if SPLIT, the statistics of a part of the row."""
    TILT: tl.constexpr = entropy is not None
    TILE: tl.constexpr = A * SIZE if KIND == "long" else (SIZE if KIND == "short" else A)
    rate = _number(rate_bits, DTYPE)
    bound = _number(bound_bits, DTYPE)
    outer, position, exists = _place(rows, inner, KIND, A, SIZE, ALIGN)
    row = outer * inner + position
    is_read, label = _read_labels(labels, counts, row, exists, classes)
    start = _start(outer, position, outer_stride, inner_stride, KIND, ALIGN)
    index = _index(KIND, A, SIZE)
    is_loaded = exists if KIND == "many" else is_read  # a mask of single positions would narrow the loads

    rivals = _zeros(KIND, A, SIZE, V, DTYPE)
    weight, spread, tilt, peak = rivals, rivals, rivals, rivals - INFINITY
    begin, whole, end = _tiles(classes, steps, is_read, KIND, TILE)
    for tile in range(begin, whole):
        x, w = _tile_of_rivals(
            logits + start, weights, tile * TILE, index, label, classes, class_stride, is_loaded, bound,
            SPREAD, CAP, False, KIND, A, SIZE, V, ALIGN, DTYPE,
        )  # fmt: skip
        peak, rivals, weight, spread, tilt = _with_tile(
            peak, rivals, weight, spread, tilt, x, w, rate, SPREAD, TILT, KIND
        )
    for tile in range(whole, end):
        x, w = _tile_of_rivals(
            logits + start, weights, tile * TILE, index, label, classes, class_stride, is_loaded, bound,
            SPREAD, CAP, True, KIND, A, SIZE, V, ALIGN, DTYPE,
        )  # fmt: skip
        peak, rivals, weight, spread, tilt = _with_tile(
            peak, rivals, weight, spread, tilt, x, w, rate, SPREAD, TILT, KIND
        )
    if KIND == "long":
        peak, rivals, weight, spread, tilt = _of_all_lanes(peak, rivals, weight, spread, tilt, rate)
    if SPLIT:
        splits = tl.num_programs(1)
        at = row * splits + tl.program_id(1)
        step = splits.to(tl.int64) * rows
        _write_statistics(statistics, at, step, exists, peak, rivals, weight, tilt, SPREAD, TILT)
        if SPREAD:
            tl.store(statistics + 4 * step + at, spread, mask=exists)
    else:
        step = tl.zeros((), tl.int64) + rows
        own = _own_logit(logits, start, label, class_stride, is_read, bound, CAP, DTYPE)
        _write_statistics(statistics, row, step, exists, peak, rivals, weight, tilt, SPREAD, TILT)
        _write_outputs(
            log_odds, others, log_partition, entropy,
            row, exists, is_read, own, peak, rivals, weight, spread, tilt, rate,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "splits", *NUMBERS])
def label_merge(
    logits, labels, counts, log_odds, others, log_partition, entropy, parts, statistics,
    rows, splits, inner, classes, outer_stride, inner_stride, class_stride, rate_bits, bound_bits,
    SPREAD: tl.constexpr, CAP: tl.constexpr, SPLITS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The outputs of `label_forward`, from the statistics of the parts of a row; SPLITS is a power of 2."""
    TILT: tl.constexpr = entropy is not None
    rate = _number(rate_bits, DTYPE)
    bound = _number(bound_bits, DTYPE)
    outer, position, exists = _place(rows, inner, "long", 1, 1, 1)
    row = outer * inner + position
    is_read, label = _read_labels(labels, counts, row, exists, classes)
    start = _start(outer, position, outer_stride, inner_stride, "long", 1)
    own = _own_logit(logits, start, label, class_stride, is_read, bound, CAP, DTYPE)

    lane = tl.arange(0, SPLITS)
    part = parts + row * splits + lane
    step = splits.to(tl.int64) * rows
    mask = lane < splits
    peak = tl.load(part, mask=mask, other=-INFINITY)
    rivals = tl.load(part + step, mask=mask, other=0)
    weight = tl.zeros_like(rivals)
    spread, tilt = weight, weight
    if SPREAD:
        weight = tl.load(part + 2 * step, mask=mask, other=0)
        spread = tl.load(part + 4 * step, mask=mask, other=0)
    if TILT:
        tilt = tl.load(part + 3 * step, mask=mask, other=0)
    peak, rivals, weight, spread, tilt = _of_all_lanes(peak, rivals, weight, spread, tilt, rate)
    step = tl.zeros((), tl.int64) + rows
    _write_statistics(statistics, row, step, exists, peak, rivals, weight, tilt, SPREAD, TILT)
    _write_outputs(
        log_odds, others, log_partition, entropy,
        row, exists, is_read, own, peak, rivals, weight, spread, tilt, rate,
    )  # fmt: skip


@triton.jit
def _row_value(values, row, exists, is_read, DTYPE: tl.constexpr):
    """An entry of each row that is read, 0 of the others; 0 if there are none."""
    if values is None:
        value = tl.zeros_like(row).to(DTYPE)
    else:
        value = tl.where(is_read, tl.load(values + row, mask=exists, other=0).to(DTYPE), 0)
    return value


@triton.jit(do_not_specialize=[*SIZES_OF_BOTH, *NUMBERS])
def label_backward(
    logits, gradient, labels, counts, weights, log_odds, statistics,
    of_log_odds, of_others, of_log_partition, of_entropy,
    rows, inner, classes, steps, outer_stride, inner_stride, class_stride,
    outer_stride_2, inner_stride_2, class_stride_2, rate_bits, bound_bits, factor_bits,
    CAP: tl.constexpr, KIND: tl.constexpr,
    A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of the logits, given those of the outputs; exactly 0 in ignored rows."""
    TILE: tl.constexpr = A * SIZE if KIND == "long" else (SIZE if KIND == "short" else A)
    rate = _number(rate_bits, DTYPE)
    bound = _number(bound_bits, DTYPE)
    factor = _number(factor_bits, DTYPE)
    outer, position, exists = _place(rows, inner, KIND, A, SIZE, ALIGN)
    row = outer * inner + position
    is_read, label = _read_labels(labels, counts, row, exists, classes)
    start = _start(outer, position, outer_stride, inner_stride, KIND, ALIGN)
    start_2 = _start(outer, position, outer_stride_2, inner_stride_2, KIND, ALIGN)
    index = _index(KIND, A, SIZE)

    # The slopes of the label, of a rival's exponential, that times the distance, and of a rival's weight.
    step = tl.zeros((), tl.int64) + rows
    odds = _row_value(log_odds, row, exists, is_read, DTYPE)
    peak = _finite(_row_value(statistics, row, exists, is_read, DTYPE))
    rivals = _row_value(statistics + step, row, exists, is_read, DTYPE)
    slope = _row_value(of_log_odds, row, exists, is_read, DTYPE)
    spread = _row_value(of_others, row, exists, is_read, DTYPE)
    total = _row_value(of_log_partition, row, exists, is_read, DTYPE)
    tilt = tl.zeros_like(odds)
    shrunk = tl.exp(-tl.abs(odds))
    less = shrunk / (1 + shrunk)
    more = 1 / (1 + shrunk)
    of_label = tl.where(odds > 0, more, less)
    of_rivals = tl.where(odds > 0, less, more)  # the probabilities
    if of_others is not None:
        total += _times(_row_value(statistics + 2 * step, row, exists, is_read, DTYPE), spread)
    own = slope + total * of_label
    rival = total * of_rivals - slope
    if of_entropy is not None:
        mean = _row_value(statistics + 3 * step, row, exists, is_read, DTYPE) / tl.where(rivals == 0, 1, rivals)
        entropy = tl.log(tl.where(rivals == 0, 1, rivals)) + mean * rate  # of the rivals
        of_odds = _times(of_label * of_rivals, odds + entropy)
        change = _row_value(of_entropy, row, exists, is_read, DTYPE)
        own -= change * of_odds
        rival += change * (of_odds - of_rivals * mean * rate)
        tilt = change * of_rivals * rate / tl.where(rivals == 0, 1, rivals)
    rival = tl.where(rivals == 0, 0, rival / tl.where(rivals == 0, 1, rivals))

    begin, whole, end = _tiles(classes, steps, exists, KIND, TILE)
    for tile in range(begin, whole):
        _write_tile(
            logits + start, gradient + start_2, weights, tile * TILE, index, label, classes, class_stride,
            class_stride_2, exists, is_read, bound, rate, factor, peak, own, rival, spread, tilt,
            of_others is not None, of_entropy is not None, CAP, False, KIND, TILE, ALIGN, DTYPE,
        )  # fmt: skip
    for tile in range(whole, end):
        _write_tile(
            logits + start, gradient + start_2, weights, tile * TILE, index, label, classes, class_stride,
            class_stride_2, exists, is_read, bound, rate, factor, peak, own, rival, spread, tilt,
            of_others is not None, of_entropy is not None, CAP, True, KIND, TILE, ALIGN, DTYPE,
        )  # fmt: skip


@triton.jit
def _write_tile(
    pointer, result, weights, first, index, label, classes, class_stride,
    class_stride_2, exists, is_read, bound, rate, factor, peak, own, rival, spread, tilt,
    SPREAD: tl.constexpr, TILT: tl.constexpr, CAP: tl.constexpr, MASKED: tl.constexpr,
    KIND: tl.constexpr, TILE: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write a tile of the gradient."""
    mask = _mask(first, index, classes, exists, MASKED, KIND, ALIGN)
    is_loaded = _mask_of_read(mask, index, is_read, KIND, TILE)
    x = tl.load(pointer + _offset(first, index, class_stride, KIND, ALIGN), mask=is_loaded, other=0).to(DTYPE)
    if CAP:
        x, of_cap = _tanh(x * bound)
    distance = peak - x
    exponential = tl.exp2(-distance * (rate * LOG2_E))
    slope = exponential * rival
    if TILT:
        slope += _times(exponential, distance * tilt)
    if SPREAD:
        slope -= spread * _weights(weights, first, index, classes, MASKED, DTYPE)
    slope = tl.where(index == label - first, own, slope)
    if CAP:
        slope *= of_cap
    slope *= factor
    if KIND == "many":
        slope = tl.where(is_read, slope, 0)
    tl.store(result + _offset(first, index, class_stride_2, KIND, ALIGN), slope.to(result.dtype.element_ty), mask=mask)


# ---- Distributions: sums over all classes but one at the peak


@triton.jit
def _with_tile_of_masses(peak, rest, at_peak, below, distances, x, t, rate, KIND: tl.constexpr):
    """The sums of each lane with those of a tile of logits x, -inf beyond the last class, and masses t.

    rest is the sum of exponentials but one at the peak; at_peak and below are the masses of classes there and below.
    """
    highest = tl.maximum(peak, _max(x, KIND))
    moved = _moved(peak, highest)
    has_moved = moved > 0
    fade = tl.exp2(-moved * (rate * LOG2_E))
    distance = _finite(highest) - x
    is_peak = x == highest
    exponential = tl.where(is_peak, 0, tl.exp2(-distance * (rate * LOG2_E)))
    count = _sum(is_peak.to(rest.dtype), KIND)
    distances += _times(at_peak + below, moved) + _sum(_times(t, tl.where(is_peak, 0, distance)), KIND)
    rest = tl.where(has_moved, (rest + 1) * fade + (count - 1), rest + count) + _sum(exponential, KIND)
    below += tl.where(has_moved, at_peak, 0) + _sum(tl.where(is_peak, 0, t), KIND)
    at_peak = tl.where(has_moved, 0, at_peak) + _sum(tl.where(is_peak, t, 0), KIND)
    return highest, rest, at_peak, below, distances


@triton.jit
def _of_all_lanes_of_masses(peak, rest, at_peak, below, distances, rate):
    """The sums of all lanes together."""
    highest = tl.max(peak)
    moved = _moved(peak, highest)
    is_peak = peak == highest
    faded = (rest + 1) * tl.exp2(-moved * (rate * LOG2_E))
    distances = tl.sum(distances + _times(at_peak + below, moved))
    rest = tl.sum(tl.where(is_peak, rest, faded)) + (tl.sum(is_peak.to(rest.dtype)) - 1)
    below = tl.sum(tl.where(is_peak, below, at_peak + below))
    return highest, rest, tl.sum(tl.where(is_peak, at_peak, 0)), below, distances


@triton.jit
def _finite_or_nan(peak):
    """The peak, NaN if it is infinite: so are the loss and the gradient of its row."""
    return tl.where(tl.abs(peak) == INFINITY, float("nan"), peak)


@triton.jit
def _write_sums(statistics, at, step, mask, peak, rest, at_peak, below):
    """Write what the gradient needs."""
    tl.store(statistics + at, peak, mask=mask)
    tl.store(statistics + step + at, rest, mask=mask)
    tl.store(statistics + 2 * step + at, at_peak, mask=mask)
    tl.store(statistics + 3 * step + at, below, mask=mask)


@triton.jit
def _write_losses(losses, row, exists, is_read, peak, rest, at_peak, below, distances, rate):
    """Write the losses of rows; 0 if they are ignored."""
    loss = distances * rate + (at_peak + below) * _log1p(rest)
    loss = tl.where(peak == peak, loss, float("nan"))
    tl.store(losses + row, tl.where(is_read, loss, 0), mask=exists)


@triton.jit
def _which_count(counts, row, exists):
    """Which rows are read."""
    is_read = exists
    if counts is not None:
        is_read = exists & (tl.load(counts + row, mask=exists, other=0) != 0)
    return is_read


@triton.jit(do_not_specialize=[*SIZES_OF_BOTH, *NUMBERS])
def distribution_forward(
    logits, masses, counts, losses, statistics,
    rows, inner, classes, steps, outer_stride, inner_stride, class_stride,
    outer_stride_2, inner_stride_2, class_stride_2, rate_bits,
    SPLIT: tl.constexpr, KIND: tl.constexpr,
    A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """sum_c t_c (-log p_c) of rows, with masses t in strides of their own, and the sums that the gradient needs."""
    TILE: tl.constexpr = A * SIZE if KIND == "long" else (SIZE if KIND == "short" else A)
    rate = _number(rate_bits, DTYPE)
    outer, position, exists = _place(rows, inner, KIND, A, SIZE, ALIGN)
    row = outer * inner + position
    is_read = _which_count(counts, row, exists)
    start = _start(outer, position, outer_stride, inner_stride, KIND, ALIGN)
    start_2 = _start(outer, position, outer_stride_2, inner_stride_2, KIND, ALIGN)
    index = _index(KIND, A, SIZE)
    is_loaded = exists if KIND == "many" else is_read

    rest = _zeros(KIND, A, SIZE, V, DTYPE)
    at_peak, below, distances, peak = rest, rest, rest, rest - INFINITY
    begin, whole, end = _tiles(classes, steps, is_read, KIND, TILE)
    for tile in range(begin, whole):
        x, t = _tile_of_both(
            logits + start, masses + start_2, tile * TILE, index, classes, class_stride, class_stride_2, is_loaded,
            False, KIND, A, SIZE, V, ALIGN, DTYPE,
        )  # fmt: skip
        peak, rest, at_peak, below, distances = _with_tile_of_masses(
            peak, rest, at_peak, below, distances, x, t, rate, KIND
        )
    for tile in range(whole, end):
        x, t = _tile_of_both(
            logits + start, masses + start_2, tile * TILE, index, classes, class_stride, class_stride_2, is_loaded,
            True, KIND, A, SIZE, V, ALIGN, DTYPE,
        )  # fmt: skip
        peak, rest, at_peak, below, distances = _with_tile_of_masses(
            peak, rest, at_peak, below, distances, x, t, rate, KIND
        )
    if KIND == "long":
        peak, rest, at_peak, below, distances = _of_all_lanes_of_masses(peak, rest, at_peak, below, distances, rate)
    if SPLIT:
        splits = tl.num_programs(1)
        at = row * splits + tl.program_id(1)
        step = splits.to(tl.int64) * rows
        _write_sums(statistics, at, step, exists, peak, rest, at_peak, below)
        tl.store(statistics + 4 * step + at, distances, mask=exists)
    else:
        step = tl.zeros((), tl.int64) + rows
        peak = _finite_or_nan(peak)
        _write_sums(statistics, row, step, exists, peak, rest, at_peak, below)
        _write_losses(losses, row, exists, is_read, peak, rest, at_peak, below, distances, rate)


@triton.jit
def _tile_of_both(
    pointer, masses, first, index, classes, class_stride, class_stride_2, is_loaded,
    MASKED: tl.constexpr, KIND: tl.constexpr,
    A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Logits and masses of a tile; -inf and 0 beyond the last class."""
    mask = _mask(first, index, classes, is_loaded, MASKED, KIND, ALIGN)
    x = tl.load(pointer + _offset(first, index, class_stride, KIND, ALIGN), mask=mask, other=-INFINITY).to(DTYPE)
    t = tl.load(masses + _offset(first, index, class_stride_2, KIND, ALIGN), mask=mask, other=0).to(DTYPE)
    return _lanes(x, KIND, SIZE, A, V), _lanes(t, KIND, SIZE, A, V)


@triton.jit(do_not_specialize=["rows", "splits", *NUMBERS])
def distribution_merge(
    counts, losses, parts, statistics, rows, splits, rate_bits, SPLITS: tl.constexpr, DTYPE: tl.constexpr
):
    """The losses of `distribution_forward`, from the sums of the parts of a row; SPLITS is a power of 2."""
    rate = _number(rate_bits, DTYPE)
    row = tl.program_id(0).to(tl.int64)
    exists = row < rows
    is_read = _which_count(counts, row, exists)
    lane = tl.arange(0, SPLITS)
    part = parts + row * splits + lane
    step = splits.to(tl.int64) * rows
    mask = lane < splits
    peak = tl.load(part, mask=mask, other=-INFINITY)
    rest = tl.load(part + step, mask=mask, other=0)
    at_peak = tl.load(part + 2 * step, mask=mask, other=0)
    below = tl.load(part + 3 * step, mask=mask, other=0)
    distances = tl.load(part + 4 * step, mask=mask, other=0)
    peak, rest, at_peak, below, distances = _of_all_lanes_of_masses(peak, rest, at_peak, below, distances, rate)
    step = tl.zeros((), tl.int64) + rows
    peak = _finite_or_nan(peak)
    _write_sums(statistics, row, step, exists, peak, rest, at_peak, below)
    _write_losses(losses, row, exists, is_read, peak, rest, at_peak, below, distances, rate)


@triton.jit(do_not_specialize=[*SIZES_OF_BOTH, "outer_stride_3", "inner_stride_3", "class_stride_3", *NUMBERS])
def distribution_backward(
    logits, masses, gradient, counts, statistics, of_losses,
    rows, inner, classes, steps, outer_stride, inner_stride, class_stride,
    outer_stride_2, inner_stride_2, class_stride_2, outer_stride_3, inner_stride_3, class_stride_3,
    rate_bits, factor_bits,
    KIND: tl.constexpr, A: tl.constexpr, SIZE: tl.constexpr, V: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of the logits, given that of the losses; exactly 0 in ignored rows."""
    TILE: tl.constexpr = A * SIZE if KIND == "long" else (SIZE if KIND == "short" else A)
    rate = _number(rate_bits, DTYPE)
    factor = _number(factor_bits, DTYPE)
    outer, position, exists = _place(rows, inner, KIND, A, SIZE, ALIGN)
    row = outer * inner + position
    is_read = _which_count(counts, row, exists)
    start = _start(outer, position, outer_stride, inner_stride, KIND, ALIGN)
    start_2 = _start(outer, position, outer_stride_2, inner_stride_2, KIND, ALIGN)
    start_3 = _start(outer, position, outer_stride_3, inner_stride_3, KIND, ALIGN)
    index = _index(KIND, A, SIZE)

    step = tl.zeros((), tl.int64) + rows
    peak = _row_value(statistics, row, exists, is_read, DTYPE)
    rest = _row_value(statistics + step, row, exists, is_read, DTYPE)
    at_peak = _row_value(statistics + 2 * step, row, exists, is_read, DTYPE)
    below = _row_value(statistics + 3 * step, row, exists, is_read, DTYPE)
    change = _row_value(of_losses, row, exists, is_read, DTYPE) * factor
    share = (at_peak + below) * change / (1 + rest)
    # p - t of a single peak is minus the sum of p - t of the others, which keeps its digits near certainty.
    of_peak = change * below - share * rest
    alone = tl.where(rest < 1, peak, float("nan"))

    begin, whole, end = _tiles(classes, steps, exists, KIND, TILE)
    for tile in range(begin, whole):
        _write_tile_of_masses(
            logits + start, masses + start_2, gradient + start_3, tile * TILE, index, classes,
            class_stride, class_stride_2, class_stride_3, exists, is_read, rate, peak, alone, change, share, of_peak,
            False, KIND, TILE, ALIGN, DTYPE,
        )  # fmt: skip
    for tile in range(whole, end):
        _write_tile_of_masses(
            logits + start, masses + start_2, gradient + start_3, tile * TILE, index, classes,
            class_stride, class_stride_2, class_stride_3, exists, is_read, rate, peak, alone, change, share, of_peak,
            True, KIND, TILE, ALIGN, DTYPE,
        )  # fmt: skip


@triton.jit
def _write_tile_of_masses(
    pointer, masses, result, first, index, classes,
    class_stride, class_stride_2, class_stride_3, exists, is_read, rate, peak, alone, change, share, of_peak,
    MASKED: tl.constexpr, KIND: tl.constexpr, TILE: tl.constexpr, ALIGN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write a tile of the gradient."""
    mask = _mask(first, index, classes, exists, MASKED, KIND, ALIGN)
    is_loaded = _mask_of_read(mask, index, is_read, KIND, TILE)
    x = tl.load(pointer + _offset(first, index, class_stride, KIND, ALIGN), mask=is_loaded, other=0).to(DTYPE)
    t = tl.load(masses + _offset(first, index, class_stride_2, KIND, ALIGN), mask=is_loaded, other=0).to(DTYPE)
    slope = tl.exp2(-(peak - x) * (rate * LOG2_E)) * share - t * change
    slope = tl.where(x == alone, of_peak, slope)
    if KIND == "many":
        slope = tl.where(is_read, slope, 0)
    tl.store(result + _offset(first, index, class_stride_3, KIND, ALIGN), slope.to(result.dtype.element_ty), mask=mask)
