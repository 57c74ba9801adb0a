"""The recipes of docs/training_loops.md: the gradient of three uneven micro-batches is that of the whole step.

They run in the tox environment `integrations`, which has Fabric, Accelerate and Transformers.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import training_loops


@pytest.mark.parametrize(
    ("word", "class_weight"), [("batches):\n    rows", None), (".parts(", (1, 1, 2, 4))], ids=["rows", "parts"]
)
def test_a_plain_loop(word, class_weight):
    import torch

    model = training_loops.network()
    names = training_loops.block("def train_step(network", word)
    assert class_weight is None or names["loss"].class_weight == class_weight
    names["train_step"](model, torch.optim.SGD(model.parameters(), 1.0), training_loops.micro_batches())
    assert training_loops.difference(model.weight.detach(), 1, class_weight) < 1e-6


@pytest.mark.parametrize(
    ("loop", "devices"), [("fabric", 1), ("fabric", 2), ("accelerate", 1), ("accelerate", 2), ("torch", 2)]
)
def test_a_loop_over_devices(loop, devices):
    command = [sys.executable, training_loops.__file__, loop, str(devices)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.splitlines()[-1]) < 1e-6


def tiny_language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


def texts(rows=6, length=7):
    """Token ids and labels of which some are ignored, more in some rows than in others."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 11, (rows, length))
    labels = np.where(np.arange(length) < rng.integers(0, length, (rows, 1)), -100, ids)
    labels[-1] = -100
    return ids, labels


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shift_labels", [True, False])
def test_the_trainer_of_transformers(tmp_path: Path, shift_labels, monkeypatch):
    """Three micro-batches of two texts; the optimizer's step is compared with the gradient of all texts at once."""
    import torch
    from transformers import Trainer, TrainingArguments

    import lightning_xent
    from lightning_xent.integrations.transformers import compute_loss

    torch.manual_seed(0)
    model = tiny_language_model()
    if not shift_labels:  # a masked language model predicts its own positions, and its labels are counted so
        model.loss_type = "ForMaskedLM"
    ids, labels = (torch.from_numpy(values) for values in texts())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    logits = model(input_ids=ids).logits.double()
    logits, targets = (logits[:, :-1], labels[:, 1:]) if shift_labels else (logits, labels)
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    wanted = dict(zip(before, torch.autograd.grad(whole, model.parameters()), strict=True))

    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_steps=1,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        compute_loss_func=compute_loss(loss, shift_labels=shift_labels),
        optimizers=(torch.optim.SGD(model.parameters(), 1.0), None),
    )
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1.0)
    assert trainer.train().training_loss == pytest.approx(float(whole), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, weight in model.named_parameters():
        step = before[name] - weight.detach()
        assert float((step - wanted[name]).abs().max()) < 1e-6 * max(1.0, largest), name


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_block_of_transformers_builds_a_trainer(tmp_path):
    from transformers import TrainingArguments

    names = training_loops.block("compute_loss_func")
    trainer = names["build_trainer"](
        tiny_language_model(), TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[]), []
    )
    assert trainer.compute_loss_func is not None


def test_the_logits_of_other_models():
    """Classifiers, images with the class axis second, tuples, multi-label targets; evaluations, which have no count."""
    import torch

    import lightning_xent
    from lightning_xent.integrations.transformers import compute_loss

    def close(value, wanted):
        return float(value) == pytest.approx(float(wanted), rel=1e-6)

    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    of_outputs = compute_loss(loss, shift_labels=False)
    generator = torch.Generator().manual_seed(0)
    for shape, rows in (((4, 3), (4,)), ((2, 3, 4, 5), (2, 4, 5))):
        logits, labels = torch.randn(shape, generator=generator), torch.randint(0, 3, rows, generator=generator)
        wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        assert close(of_outputs({"logits": logits}, labels), wanted / labels.numel())
        assert close(of_outputs((logits,), labels, num_items_in_batch=torch.tensor(40)), wanted / 40)
    logits, labels = torch.randn(2, 3, generator=generator), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    multi_label = compute_loss(lightning_xent.BinaryCrossEntropy(), shift_labels=False)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    assert close(multi_label({"logits": logits}, labels, num_items_in_batch=12), wanted / 12)


@pytest.mark.parametrize(
    ("config", "shift_labels", "message"),
    [
        ({"ignore_index": None}, True, "ignore_index of the loss must be -100.*got None: set ignore_index=-100"),
        ({"reduction": "weighted_mean"}, True, 'the reduction "mean"'),
        ({"hard_fraction": 0.5}, True, "hard_fraction=1"),
    ],
)
def test_losses_that_transformers_would_count_otherwise(config, shift_labels, message):
    import lightning_xent
    from lightning_xent.integrations.transformers import compute_loss

    with pytest.raises(ValueError, match=message):
        compute_loss(lightning_xent.CategoricalCrossEntropy(**{"ignore_index": -100} | config), shift_labels)
    with pytest.raises(ValueError, match="shift_labels must be False for BinaryCrossEntropy"):
        compute_loss(lightning_xent.BinaryCrossEntropy())
    with pytest.raises(TypeError, match="loss must be a loss of lightning_xent, got function"):
        compute_loss(compute_loss)
    with pytest.raises(ValueError, match='labels must be a tensor, got None: the batch needs the key "labels"'):
        compute_loss(lightning_xent.CategoricalCrossEntropy(ignore_index=-100))({"logits": None}, None)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("SequenceClassifierOutput", (4,)), ("TokenClassifierOutput", (4, 7)), ("MaskedLMOutput", (4, 7))],
)
def test_labels_are_not_shifted_for_models_that_predict_their_own_positions(name, labels):
    """In silence, a classifier would learn the label of the next row, and a masked model that of the next token."""
    import torch
    from transformers import modeling_outputs

    import lightning_xent
    from lightning_xent.integrations.transformers import compute_loss

    outputs = getattr(modeling_outputs, name)(logits=torch.zeros(*labels, 3))
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    with pytest.raises(
        ValueError, match=f"shift_labels must be False.*got {name} with labels of shape .*shift_labels=False"
    ):
        compute_loss(loss)(outputs, torch.zeros(labels, dtype=torch.long))
    assert float(compute_loss(loss, shift_labels=False)(outputs, torch.zeros(labels, dtype=torch.long))) > 1
