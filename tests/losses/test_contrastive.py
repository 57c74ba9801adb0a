"""Contrastive losses by the calls of docs/contrastive.md beside their formulas: value, gradients of both embeddings."""

import numpy as np
import pytest

from sides import side

PAIRS, FEATURES, TOLERANCE = 24, 6, 1e-6
SCALES = {"flat": 1.0, "at the start of CLIP": 1 / 0.07, "sharp": 100.0}
WEIGHTS = np.arange(PAIRS) % 3 / 2.0


def embeddings():
    """Images and texts [N, D] of length 1: pairs that are alike, half of them."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, PAIRS, FEATURES))
    texts[::2] = images[::2] + 0.3 * texts[::2]
    return [rounded(each / np.linalg.norm(each, axis=1, keepdims=True)) for each in (images, texts)]


def rounded(array):
    """The array as this side computes with it."""
    return side.numpy(side.tensor(array, side.layer_dtype))


def info_nce(queries, keys, scale, weights):
    """-1/N sum_i w_i log(exp(s q_i . k_i) / sum_j exp(s q_i . k_j)), and its gradients of queries and keys."""
    queries, keys = queries.astype("float64"), keys.astype("float64")
    powers = np.exp(scale * queries @ keys.T)
    shares = powers / powers.sum(1, keepdims=True)
    slopes = weights[:, None] * scale * (shares - np.eye(PAIRS)) / PAIRS
    return -np.mean(weights * np.log(np.diag(shares))), slopes @ keys, slopes.T @ queries


def clip(images, texts, scale, weights):
    of_images, of_texts = info_nce(images, texts, scale, weights), info_nce(texts, images, scale, weights)
    pairs = zip(of_images, (of_texts[0], of_texts[2], of_texts[1]), strict=True)
    return [(first + second) / 2 for first, second in pairs]


def siglip(images, texts, scale, bias):
    """-1/N sum_i sum_j log sigmoid(z_ij (s u_i . v_j + b)), and its gradients of u and v."""
    images, texts = images.astype("float64"), texts.astype("float64")
    signs = 2 * np.eye(PAIRS) - 1
    powers = np.exp(-signs * (scale * images @ texts.T + bias))
    slopes = -signs * scale * powers / (1 + powers) / PAIRS
    return np.log1p(powers).sum() / PAIRS, slopes @ texts, slopes.T @ images


def in_chunks(loss, queries, keys, scale, plan, **more):
    """The loss of queries among keys, and its gradients of queries and keys."""
    tensors = [side.tensor(each, side.layer_dtype) for each in (queries, keys)]
    with side.planned(plan):
        value, of_hidden, of_keys = side.layer(
            loss, scale * tensors[0], tensors[1], None, side.given(np.arange(PAIRS)), fused=True, **more
        )
    return value, scale * of_hidden, of_keys


def compare(found, wanted, tolerance=TOLERANCE):
    for name, got, want in zip(("value", "images", "texts"), found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("plan", side.linear_plans)
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_linear_is_info_nce_and_clip(scale, is_weighted, plan):
    images, texts = embeddings()
    loss = side.package.CategoricalCrossEntropy()
    weights = WEIGHTS if is_weighted else np.ones(PAIRS)
    more = {"sample_weight": side.tensor(WEIGHTS, side.layer_dtype)} if is_weighted else {}
    of_images = in_chunks(loss, images, texts, scale, plan, **more)
    compare(of_images, info_nce(images, texts, scale, weights))
    of_texts = in_chunks(loss, texts, images, scale, plan, **more)
    both = [(first + second) / 2 for first, second in zip(of_images, (of_texts[0], *of_texts[:0:-1]), strict=True)]
    compare(both, clip(images, texts, scale, weights))


def test_temperature_is_one_over_the_scale():
    images, texts = embeddings()
    loss = side.package.CategoricalCrossEntropy(temperature=0.125)
    compare(in_chunks(loss, images, texts, 1.0, "whole"), info_nce(images, texts, 8.0, np.ones(PAIRS)))


def test_more_negatives_are_more_classes():
    """A queue of 8 older texts: the softmax of a row has 8 more terms."""
    images, texts = embeddings()
    queue = np.random.default_rng(1).normal(size=(8, FEATURES))
    queue = rounded(queue / np.linalg.norm(queue, axis=1, keepdims=True))
    loss = side.package.CategoricalCrossEntropy()
    value, _, of_keys = in_chunks(loss, images, np.concatenate([texts, queue]), 10.0, "whole")
    scores = 10.0 * images.astype("float64") @ np.concatenate([texts, queue]).astype("float64").T
    want = np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    np.testing.assert_allclose(value, want, rtol=TOLERANCE)
    assert of_keys.shape == (PAIRS + 8, FEATURES)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (100.0, -10.0)])
def test_binary_cross_entropy_of_all_pairs_is_siglip(scale, bias):
    images, texts = embeddings()
    pairs, loss = side.tensor(np.eye(PAIRS), side.layer_dtype), side.package.BinaryCrossEntropy()

    def of_first(first, second):
        scores = scale * (first @ second) + bias
        return side.call(loss, scores, pairs, denominator=PAIRS)

    found = []
    for first, second in ((images, texts), (texts, images)):  # the loss is symmetric
        tensors = [side.tensor(each, side.layer_dtype) for each in (first, second.T.copy())]
        found.append([side.numpy(each) for each in side.value_and_gradient(of_first, tensors[0], "eager", tensors[1])])
    (value, of_images), (again, of_texts) = found
    np.testing.assert_allclose(value, again, rtol=TOLERANCE)
    compare((value, of_images, of_texts), siglip(images, texts, scale, bias))
    # Without a denominator the mean is over the pairs.
    mean = side.call(loss, scale * (tensors[0] @ tensors[1]) + bias, pairs)
    np.testing.assert_allclose(side.numpy(mean) * PAIRS, value, rtol=TOLERANCE)
