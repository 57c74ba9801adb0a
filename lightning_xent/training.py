"""The code of both LightningModules: exact steps, metrics, the report, hyperparameters."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_xent import batches
from lightning_xent.base import Loss
from lightning_xent.evaluation import Evaluation, Value
from lightning_xent.layers import LinearLoss, layer_of, spec_of_layer
from lightning_xent.metrics import IGNORED, EpochMean, Predictions, predictions, predictions_of_layer
from lightning_xent.reduction import quotient
from lightning_xent.spec import get, spec_of
from shared_specs.common import arguments, guard

OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]
SCHEDULER_KEYS = {"frequency", "interval", "monitor", "name", "strict"}

EXAMPLE = "functools.partial(torch.optim.AdamW, lr=1e-3)"
TRAINED_WITH = "lightning_xent_trained_with"
"""Key of a checkpoint for the names of optimizer and scheduler. They are code, which a checkpoint cannot hold."""


def loss_of(given: Any) -> Loss | LinearLoss:
    """Return the loss for a module, or the layer that has it, given one of them, a spec or a name.

    Raises:
        ValueError: The entry of a checkpoint that stands for a loss of another package, or a spec that `get` refuses.
        TypeError: A loss of another package.
    """
    if given is None or (isinstance(given, Mapping) and "own_loss" in given):
        name = "its loss" if given is None else given["own_loss"]
        raise ValueError(
            f"loss must be a loss or its spec, got none: the checkpoint holds no spec of {name}, which is not a class "
            "of lightning_xent: pass loss=..., as in load_from_checkpoint(path, network=..., loss=...)"
        )
    if isinstance(given, LinearLoss):
        return given
    if isinstance(given, Mapping) and "linear" in given:
        return layer_of(given)
    if not isinstance(given, Loss | Mapping | str | type):
        raise TypeError(f"loss must be a loss of lightning_xent, its spec or its name, got {given!r}")
    return get(given)  # type: ignore[arg-type]  # it says what is wrong with a class


def held(loss: Loss, head: LinearLoss | None) -> Mapping[str, Any]:
    """Return what a checkpoint holds for a loss: its spec, or its class name if the class is of another package."""
    spec = spec_of(loss) if head is None else spec_of_layer(head)
    if spec is not None:
        return spec
    return {"own_loss": type(loss if head is None or spec_of(loss) is None else head).__name__}


def plain(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return settings with plain numbers and strings: `weights_only=True` refuses to load those of NumPy."""
    return None if settings is None else {name: arguments.as_python(value) for name, value in settings.items()}


class Training(nn.Module):
    """A network, its loss and its optimizer, for a Trainer or a LightningCLI config.

    The gradient of a step is that of the loss over all rows of the step, for any `accumulate_grad_batches` and number
    of devices. Each micro-batch gives its sum, and `on_before_optimizer_step` divides by the denominator of all, after
    the unscaling of fp16 and before clipping. A Trainer alone averages means, which is another number if rows are
    ignored or weighted, or if the last accumulation of an epoch is short. Callbacks see the gradients before that
    division. A subclass that overrides the hook must call `super()`. `training_step` returns the sum divided by a
    constant near the denominator of the first batch; a term that a subclass adds is also divided by the rows of the
    step.

    Batches are `(inputs, target)`, with sample_weight and mask as third and fourth part if there are any, or
    dictionaries: see `input_key`. The network returns logits, an output with `.logits`, or a dictionary with "logits"
    or "out". `predict` returns the logits, and needs no target.

    At each step of the optimizer the module logs `train_loss_step`, the loss of all rows of the step. At the end of an
    epoch it logs:

    - `train_loss`, `val_loss` and `test_loss`: the loss of all rows of the epoch, however they are batched; it may be
      NaN.
    - `train_accuracy`.
    - as `val_*` and `test_*` the values of `lightning_xent.metrics.Report`: accuracy, precision, recall, f1, their
      `*_weighted`, nll and ece, and for up to 20 classes the values of each class, such as `val_f1_3`. For more than
      20 classes of a categorical loss, such as a vocabulary: perplexity. For more than 1000: no precision, recall and
      f1. Rows that are ignored, masked or of weight 0 are left out.

    With several loaders each has its own values, with Lightning's suffix: `val_loss/dataloader_idx_0`. Then every
    device needs a batch of each loader. The table of all classes is `report`, and goes to loggers that accept text,
    such as TensorBoard's. It is printed when fit, validate or test ends, without the lines of the classes if there are
    more than 20.

    The checkpoint holds the current spec of the loss. If the module came from a config, `load_from_checkpoint` restores
    all of it. Otherwise pass what is code: `network=...`, `optimizer=...` if training goes on, and `loss=...` for a
    loss class of your own. Both work with `weights_only=True`.

    Args:
        network: Maps inputs to the input of the loss, logits by default.
        loss: A loss, or its spec `{"loss": CLASS, "config": {...}}`; the reduction must not be "none". Or the last
            layer with its loss: a `LinearLoss`, or a spec with the entry "linear": {"in_features": D, "classes": C}.
            The network then returns hidden states [..., D], or an output with `.last_hidden_state`.
        optimizer: Function that builds the optimizer from the parameters. None: torch.optim.AdamW with its defaults,
            which another optimizer named in a config must not inherit.
        scheduler: Function that builds the learning-rate scheduler from the optimizer.
        scheduler_config: Lightning's settings of a scheduler: interval ("epoch" or "step"), frequency, monitor (by
            default "val_loss", for ReduceLROnPlateau), strict, name.
        class_names: K names for the report.
        input_key: For batches that are dictionaries: key of the only input, which is passed to the network by position,
            or a list of keys, which are passed by name. None: all entries that its `forward` has arguments for are
            passed by name, as Hugging Face models expect. If the usual name of the input ("inputs", "image",
            "pixel_values" or the like) is not among them, the input is passed by position.
        target_key: Key of the target. None: "labels", "label", "target", "targets" or "y".
        weight_key: Key of the sample weights. None: "sample_weight", "sample_weights", "weight" or "weights", unless
            the network has an argument of that name.
        mask_key: Key of the mask, True for rows that count. None: "mask" or "loss_mask", with the same exception.

    Raises:
        ValueError: A loss that does not reduce, a spec that `lightning_xent.get` refuses, or an unknown key of
            `scheduler_config`. At the first step, a strategy of the Trainer that accumulates gradients by itself, as
            DeepSpeed's does; at the first validation, another number of names than classes.
    """

    # The LightningModule has these.
    trainer: Any
    log: Callable[..., None]
    print: Callable[..., None]
    device: Any
    loggers: Any
    global_step: int

    def _set_up(
        self,
        network: nn.Module,
        loss: Any,
        optimizer: OptimizerCallable | None,
        scheduler: SchedulerCallable | None,
        scheduler_config: dict[str, Any] | None,
        class_names: Sequence[str] | None,
        batch_keys: batches.Keys,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, got {network!r:.200}")
        loss = loss_of(loss)
        head, loss = (loss, loss.loss) if isinstance(loss, LinearLoss) else (None, loss)
        for name, given in (("optimizer", optimizer), ("scheduler", scheduler)):
            if given is not None and not callable(given):
                what = f"parameters, such as {EXAMPLE}" if name == "optimizer" else "optimizer"
                raise TypeError(f"{name} must be a function of the {what}, got {given!r}")
        if loss.reduction == "none":
            raise ValueError('loss must have the reduction "mean", "weighted_mean" or "sum", got "none"')
        unknown = (scheduler_config or {}).keys() - SCHEDULER_KEYS
        if unknown:
            wanted = ", ".join(sorted(SCHEDULER_KEYS))
            raise ValueError(f"scheduler_config must have no other keys than {wanted}, got {min(unknown)!r}")
        self.network, self.loss, self.head = network, loss, head
        self.optimizer, self.scheduler = optimizer, scheduler
        self.scheduler_config = {"monitor": "val_loss"} | (scheduler_config or {})
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.batch_keys = batch_keys
        self.report = self._summary = ""
        self._evaluations: dict[int, Evaluation] = {}
        self._trained_with: dict[str, str] = {}
        self._has_compared = False
        self._unit: float | None = None
        self._step: Tensor | None = None
        self.train_loss = EpochMean(loss.reduction == "sum")
        self.train_accuracy = EpochMean()

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Return the logits: the network's output, its `.logits` (Hugging Face) or its entry "out" (torchvision).

        With a `LinearLoss` they are those of the layer.
        """
        outputs = self.network(*inputs, **named_inputs)
        return batches.logits_of(outputs) if self.head is None else self.head.logits(batches.hidden_of(outputs))

    def to_torchscript(
        self, file_path: Any = None, method: str | None = "script", example_inputs: Any = None, **kwargs: Any
    ) -> Any:
        """Return the module as TorchScript, by method="trace" and example inputs, as Lightning's method does.

        Raises:
            ValueError: method="script", Lightning's default, unless a subclass has a forward that TorchScript can read.
        """
        try:
            return super().to_torchscript(file_path, method, example_inputs, **kwargs)  # type: ignore[misc]
        except Exception as error:
            if method != "script":
                raise
            raise ValueError(
                'method must be "trace", with example_inputs, got "script": TorchScript cannot read a forward that '
                "accepts any inputs. Or export by torch.export.export(module, (inputs,)), or script the network alone: "
                "torch.jit.script(module.network)"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the current loss, to which a callback may have given class weights, and the name of the optimizer."""
        if self._trained_with:
            checkpoint[TRAINED_WITH] = self._trained_with
        saved = checkpoint.get("hyper_parameters", {})
        given = saved.get("loss")
        if not isinstance(given, Mapping):  # a subclass may have a `loss` of another kind
            return
        spec = held(self.loss, self.head)
        if "class_path" in given and "own_loss" in spec:  # from a config, which can build a loss of any class
            spec = {**given, "init_args": dict(given.get("init_args") or {})}
            inner = spec if self.head is None else spec["init_args"].get("loss")
            if isinstance(inner, Mapping) and "class_path" in inner:
                inner = {**inner, "init_args": {**(inner.get("init_args") or {}), **self.loss.get_config()}}
                spec = inner if self.head is None else {**spec, "init_args": {**spec["init_args"], "loss": inner}}
        saved["loss"] = spec

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the optimizer of a checkpoint, so that `configure_optimizers` can warn if it is not passed."""
        self._trained_with = dict(checkpoint.get(TRAINED_WITH, {}))

    def on_fit_start(self) -> None:
        self.report = self._summary = ""

    def on_train_start(self) -> None:
        """Forget the rows that an interrupted fit has left."""
        self._step = None
        self.train_loss.reset()
        self.train_accuracy.reset()

    def on_train_epoch_start(self) -> None:
        """Forget the rows of an interrupted accumulation, because Lightning forgets its gradients too."""
        self._step = None

    def on_validation_epoch_start(self) -> None:
        self._evaluations = {}

    def on_test_epoch_start(self) -> None:
        self._evaluations = {}

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        total, denominator, found = self._parts(batch, has_probabilities=False)
        self.train_loss.update(total, denominator)
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.train_accuracy.update((found.predicted == found.label).sum(), (found.label != IGNORED).sum())
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        parts = torch.stack([total.detach(), denominator])
        self._step = parts if self._step is None else self._step + parts
        return total / self._unit_of(denominator)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Scale the gradients to those of the loss over all rows of the step, and log that loss: see the class."""
        if self._step is None:  # a subclass with a training_step of its own
            return
        (total, denominator), self._step = self.trainer.strategy.reduce(self._step, reduce_op="sum"), None
        is_sum = self.loss.reduction == "sum"
        step_loss = total if is_sum else quotient(total, denominator)
        self.log("train_loss_step", step_loss, on_step=True, on_epoch=False, prog_bar=True)
        assert self._unit is not None
        # Lightning has averaged the gradients over micro-batches and devices.
        averaged = torch.full_like(
            denominator, self._unit * self.trainer.accumulate_grad_batches * self.trainer.world_size
        )
        factor = averaged if is_sum else quotient(averaged, denominator)
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def validation_step(self, batch: Any, batch_index: int, dataloader_idx: int | None = None) -> Tensor:
        return self._evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_index: int, dataloader_idx: int | None = None) -> Tensor:
        return self._evaluate("test", batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_report("val", len(self.trainer.num_val_batches))

    def on_test_epoch_end(self) -> None:
        self._log_report("test", len(self.trainer.num_test_batches))

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "validate":
            self.print(self._summary)

    def on_test_end(self) -> None:
        self.print(self._summary)

    def on_fit_end(self) -> None:
        if self._summary:
            self.print(self._summary)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its scheduler; warn if training goes on from a checkpoint without those it had."""
        missing = [name for name in self._trained_with if getattr(self, name) is None]
        if missing:
            was = " and ".join(self._trained_with[name] for name in missing)
            goes_on = "with AdamW and its defaults" if "optimizer" in missing else "without a scheduler"
            keywords = " and ".join(f"{name}=..." for name in missing)
            guard.warn(
                f"{' and '.join(missing)} must be passed to continue: the checkpoint was trained with {was}, but "
                f"training goes on {goes_on}; pass {keywords} to load_from_checkpoint"
            )
        build = torch.optim.AdamW if self.optimizer is None else self.optimizer
        optimizer = build(self.parameters())
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a function of the parameters that returns an optimizer, such as {EXAMPLE}, "
                f"got one that returns {optimizer!r}"
            )
        self._trained_with = {}
        if self.optimizer is not None:
            rate = optimizer.param_groups[0].get("lr")
            self._trained_with["optimizer"] = f"{type(optimizer).__name__} (lr={rate})"
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        self._trained_with["scheduler"] = type(scheduler).__name__
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.scheduler_config}}

    def predict_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Any:
        """Return the logits of a batch, with a target or without."""
        parts = batches.split(self, batch, needs_target=False)
        return self(*parts.inputs, **parts.named_inputs)

    def _parts(self, batch: Any, *, has_probabilities: bool) -> tuple[Tensor, Tensor, Predictions]:
        parts = batches.split(self, batch)
        if not self._has_compared:
            self._has_compared = True
            if batches.is_copy(parts):
                guard.warn(
                    "labels of the batch are its input_ids: each token would learn itself, not the next one. Causal "
                    "models of Hugging Face shift them inside, for their own loss. Shift them in the collator: "
                    "labels[:, :-1] = input_ids[:, 1:], and the last to ignore_index"
                )
        given = parts.target, parts.sample_weight, parts.mask
        if self.head is None:
            logits = self(*parts.inputs, **parts.named_inputs)
            total, denominator = self.loss.parts(logits, *given)
            return total, denominator, predictions(self.loss, logits, *given, has_probabilities=has_probabilities)
        hidden = batches.hidden_of(self.network(*parts.inputs, **parts.named_inputs))
        if has_probabilities:
            return *self.head.parts(hidden, *given), predictions_of_layer(self.head, hidden, *given)
        total, denominator, predicted = self.head.parts_and_predictions(hidden, *given)
        found = predictions_of_layer(self.head, hidden, *given, has_probabilities=False, predicted=predicted)
        return total, denominator, found

    def _evaluate(self, stage: str, batch: Any, loader: int | None) -> Tensor:
        """Count a batch of one of several loaders, or of the only loader (None)."""
        total, denominator, found = self._parts(batch, has_probabilities=True)
        evaluation, is_new = self._evaluations.get(loader or 0), False
        if evaluation is None:
            evaluation, is_new = self._evaluation(found.classes), True
            self._evaluations[loader or 0] = evaluation
        evaluation.update(total, denominator, found)
        if is_new and loader is not None:
            # At the end of the loader, Lightning computes them, and appends the number of the loader to their names.
            for name in evaluation.places():
                value = Value(evaluation, name)
                value.update()
                options: dict[str, Any] = {"on_step": False, "on_epoch": True, "metric_attribute": name}
                self.log(f"{stage}_{name}", value, prog_bar=name == "loss", **options)
        return quotient(total, denominator)

    def _evaluation(self, classes: int) -> Evaluation:
        return Evaluation(self.loss, classes, self.class_names, self.device)

    def _log_report(self, stage: str, loaders: int) -> None:
        """Log loss and metrics of an epoch with one loader, and make the report of all loaders.

        This runs at the end of the epoch, so that a device without a batch takes part: it gets the number of classes
        from the others.
        """
        evaluations, self._evaluations = self._evaluations, {}
        if loaders == 1:
            classes = evaluations[0].classes if evaluations else 0
            if self.trainer.world_size > 1:
                most = self.trainer.strategy.reduce(torch.tensor(float(classes), device=self.device), reduce_op="max")
                classes = int(most)
            if classes == 0:
                return
            evaluation = evaluations[0] = evaluations.get(0) or self._evaluation(classes)
            evaluation.values()
            if not self.trainer.sanity_checking:
                for name in evaluation.places():
                    self.log(f"{stage}_{name}", evaluation.value(name), sync_dist=True, prog_bar=name == "loss")
        if self.trainer.sanity_checking:
            return
        heads = {index: f"dataloader_idx_{index}:\n" if loaders > 1 else "" for index in sorted(evaluations)}
        self.report = "\n\n".join(head + evaluations[index].text() for index, head in heads.items())
        self._summary = "\n\n".join(head + evaluations[index].summary() for index, head in heads.items())
        for logger in self.loggers:
            if hasattr(logger.experiment, "add_text"):
                indented = self.report.replace("\n", "\n    ")
                logger.experiment.add_text(f"{stage}_report", f"    {indented}", self.global_step)

    def _unit_of(self, denominator: Tensor) -> float:
        """Return a power of 2, the same on all devices, that makes sums about as large as means, as float16 needs."""
        if self._unit is None:
            strategy = self.trainer.strategy
            if strategy.handles_gradient_accumulation:
                name = type(strategy).__name__
                raise ValueError(f"strategy must leave the accumulation of gradients to the Trainer, got {name}")
            self._unit = strategy.broadcast(2.0 ** round(math.log2(max(1.0, denominator.item()))))
        return self._unit
