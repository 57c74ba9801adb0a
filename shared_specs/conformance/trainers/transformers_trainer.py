"""The Trainer of Transformers, with the loss that a model computes by itself and with `compute_loss`.

The rows of the step are texts here: all labels of a text count, or none.
"""

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

import lightning_xent
from lightning_xent.integrations.transformers import compute_loss
from shared_specs.conformance.trainers import step, torch_step

LENGTH, WORDS = 7, 11
SIZES = {"vocab_size": WORDS, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 16}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model(model_class: Any) -> Any:
    """A tiny model before the step."""
    torch.manual_seed(0)
    if model_class is LlamaForCausalLM:
        return model_class(LlamaConfig(**SIZES, num_key_value_heads=2))
    return model_class(BertConfig(**SIZES, **NO_DROPOUT, num_labels=step.CLASSES))


def texts(model_class: Any, scenario: str) -> tuple[Tensor, Tensor]:
    """Token ids [texts, LENGTH] and labels of the step: the ids themselves, or classes of the tokens or of the text."""
    generator = np.random.default_rng(0)
    kept = np.array([label != step.IGNORED for _, labels in step.batches(scenario) for label in labels])
    ids = generator.integers(0, WORDS, (len(kept), LENGTH))
    labels = ids if model_class is LlamaForCausalLM else generator.integers(0, step.CLASSES, ids.shape)
    labels = np.where(kept[:, None], labels, step.IGNORED)
    labels = labels[:, 0] if model_class is BertForSequenceClassification else labels
    return torch.from_numpy(ids), torch.from_numpy(labels)


def trained(model_class: Any, scenario: str, compute_loss_func: Any = None) -> Any:
    """Train for one step; return the gradients of all parameters, one after the other."""
    network = model(model_class)
    before = vector(network.parameters())
    data = [{"input_ids": row, "labels": label} for row, label in zip(*texts(model_class, scenario), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=2 * step.HALF // torch_step.PROCESSES,
            gradient_accumulation_steps=step.MICRO_BATCHES,
            max_steps=1,
            max_grad_norm=0.0,
            use_cpu=True,
            ddp_backend="gloo" if torch_step.PROCESSES > 1 else None,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
        )
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        trainer = transformers.Trainer(
            network,
            arguments,
            train_dataset=data,
            compute_loss_func=compute_loss_func,
            optimizers=(optimizer, None),
        )
        trainer.train()
    return before - vector(network.parameters())


def vector(tensors: Any) -> Any:
    """Tensors as one vector in float64."""
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def right(model_class: Any, scenario: str) -> Any:
    """The gradient of the mean of all labels of the step that count."""
    network = model(model_class)
    ids, labels = texts(model_class, scenario)
    logits = network(input_ids=ids).logits.double()
    if model_class is LlamaForCausalLM:
        logits, labels = logits[:, :-1], labels[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=step.IGNORED)
    return vector(torch.autograd.grad(loss, list(network.parameters())))


def steps(model_class: Any) -> tuple[Callable[[str], Any], Callable[[str], Any], Callable[[str], Any]]:
    """The step with the loss of the model, that with ours, and the right gradient."""
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    own = compute_loss(loss, shift_labels=model_class is LlamaForCausalLM)
    return (
        lambda scenario: trained(model_class, scenario),
        lambda scenario: trained(model_class, scenario, own),
        lambda scenario: right(model_class, scenario),
    )


def main() -> None:
    """Print the rows of this trainer."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    packages = ["transformers", "accelerate", "torch"]
    for model_class in (LlamaForCausalLM, BertForTokenClassification, BertForSequenceClassification):
        native, ours, gradient = steps(model_class)
        step.report("Transformers' Trainer", f"that of `{model_class.__name__}`", native, ours, packages, gradient)
    torch_step.leave_group()
