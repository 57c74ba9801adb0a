"""ONNX Runtime: SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss, which give a value only."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "numpy"
REQUIREMENTS = ("onnx", "onnxruntime")
DISTRIBUTION = "onnxruntime"

Array = NDArray[Any]


def cross_entropy(asked: Asked) -> Offer | str | None:
    """SoftmaxCrossEntropyLoss of logits; of probabilities NegativeLogLikelihoodLoss of their logarithm."""
    if not asked.only("class_weight", "ignore_index", "from_logits"):
        return None
    if not asked.has_indices or len(asked.shape) < 2:
        return "takes class indices only, and at least one row"
    divides_by_weights = asked.reduction == "mean" and "class_weight" in asked.config

    def call(logits: Array, target: Array, *, undo: bool) -> Array:
        scores = np.moveaxis(logits, asked.axis, 1)
        if not asked.has_logits:
            p = logits / logits.sum(asked.axis, keepdims=True) if undo else logits
            scores = np.moveaxis(np.log(np.clip(p, 1e-7, 1 - 1e-7) if undo else p), asked.axis, 1)
        inputs = {"scores": scores, "labels": target.reshape(asked.row_shape)}
        if "class_weight" in asked.config:
            inputs["weights"] = np.asarray(asked.config["class_weight"], logits.dtype)
        divides = undo and divides_by_weights
        value = run(asked, inputs, "sum" if divides else asked.reduction.removeprefix("weighted_"))
        return value / np.asarray(asked.kept_rows, value.dtype) if divides else value

    return offered(
        call,
        "mean divides by the sum of the weights of the labels" if divides_by_weights else None,
        None if asked.has_logits else "probabilities have no clip at 1e-7",
    )


def run(asked: Asked, inputs: dict[str, Array], reduction: str) -> Array:
    """Run a model of one operator."""
    operator = "SoftmaxCrossEntropyLoss" if asked.has_logits else "NegativeLogLikelihoodLoss"
    ignored = {"ignore_index": asked.config["ignore_index"]} if "ignore_index" in asked.config else {}
    node = helper.make_node(operator, list(inputs), ["loss"], reduction=reduction, **ignored)
    floats = helper.np_dtype_to_tensor_dtype(inputs["scores"].dtype)
    types = {name: TensorProto.INT64 if name == "labels" else floats for name in inputs}
    graph = helper.make_graph(
        [node],
        "loss",
        [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("loss", floats, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (loss,) = session.run(None, {name: np.ascontiguousarray(array) for name, array in inputs.items()})
    return np.asarray(loss)


def weighted_mean(asked: Asked) -> bool:
    """The mean of indices with class weights divides by these."""
    return asked.has_indices and "sample_weight" not in asked.inputs


OFFERS = {"CategoricalCrossEntropy": cross_entropy, "SparseCategoricalCrossEntropy": cross_entropy}
offer = answers(OFFERS, weighted_mean)
