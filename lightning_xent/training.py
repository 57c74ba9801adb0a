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
from lightning_xent.binary import BinaryLoss
from lightning_xent.metrics import IGNORED, EpochMean, Predictions, Report, predictions, table
from lightning_xent.reduction import quotient
from lightning_xent.spec import spec_of

OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]
SCHEDULER_KEYS = {"frequency", "interval", "monitor", "name", "strict"}

NAMED_CLASSES = 20
"""Up to so many classes each has its own logged values; the report has all."""


class Training(nn.Module):
    """A network, its loss and its optimizer, for a Trainer or a LightningCLI config.

    The gradient of a step is that of its loss over all rows that the step sees, whatever `accumulate_grad_batches` and
    the number of devices are: each micro-batch gives its sum, and `on_before_optimizer_step` divides by the denominator
    of all, after fp16's unscaling and before clipping. A Trainer alone averages means, which is another number where
    rows are ignored or weighted, and where the last accumulation of an epoch is short. Callbacks see gradients
    before that division; a module that overrides the hook calls it by `super()`. `training_step` returns the sum over a
    constant near the first batch's denominator: what a subclass adds to it is divided by the rows of the step, too.

    Batches are `(inputs, target)`, with sample_weight and mask as third and fourth part if there are any, or
    dictionaries: see `input_key`. The network returns logits, an output with `.logits`, or a dictionary with "logits" or
    "out". `predict` gives the logits, and needs no target. Logged for the whole epoch: `train_loss`,
    `val_loss` and `test_loss`, the loss of all its rows, whatever the batches, NaN included; `train_accuracy`; and, as
    `val_*` and `test_*`, what `lightning_xent.metrics.Report` holds, of which ignored rows and those of weight 0 are no
    part: accuracy, precision, recall, f1, their `*_weighted`, nll and ece, and up to 20 classes one by one, `val_f1_3`.
    The table of all classes is `report`, is printed when fit, validate or test ends, and goes to a logger that takes
    text, as TensorBoard's. Categorical losses are over classes, binary ones over one label, or several for logits
    (N, L). Several loaders count as one.

    The checkpoint has the spec of the loss as it is when it is saved. `load_from_checkpoint` makes all of a module that
    came from a config; otherwise it takes `network=...` and, for training to go on, `optimizer=...`: these are code.
    Both work with `weights_only=True`.

    Args:
        network: Maps inputs to what the loss takes, logits by default.
        loss: A loss, or its spec `{"loss": CLASS, "config": {...}}`; its reduction is not "none".
        optimizer: Builds the optimizer from the parameters. None: torch.optim.AdamW with its defaults, which
            another optimizer named in a config must not inherit.
        scheduler: Builds the learning-rate scheduler from the optimizer.
        scheduler_config: What Lightning takes beside a scheduler: interval ("epoch" or "step"), frequency, monitor
            (by default "val_loss", for ReduceLROnPlateau), strict, name.
        class_names: K names for the report.
        input_key: For batches that are dictionaries: key of the only input, which the network takes by position, or a
            list of keys, which it takes by name. None: by name all entries that its `forward` has arguments for, as
            Hugging Face models do; else the entry "inputs", "image", "pixel_values" or the like.
        target_key: Key of the target. None: "labels", "label", "target", "targets" or "y".
        weight_key: Key of the sample weights. None: "sample_weight" or "weight".
        mask_key: Key of the mask, True for rows that count. None: "mask", unless the network has such an argument.

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
        loss: Loss,
        optimizer: OptimizerCallable | None,
        scheduler: SchedulerCallable | None,
        scheduler_config: dict[str, Any] | None,
        class_names: Sequence[str] | None,
        batch_keys: batches.Keys,
    ) -> None:
        if loss.reduction == "none":
            raise ValueError('loss must have the reduction "mean", "weighted_mean" or "sum", got "none"')
        unknown = (scheduler_config or {}).keys() - SCHEDULER_KEYS
        if unknown:
            wanted = ", ".join(sorted(SCHEDULER_KEYS))
            raise ValueError(f"scheduler_config must have no other keys than {wanted}, got {min(unknown)!r}")
        self.network, self.loss = network, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.scheduler_config = {"monitor": "val_loss"} | (scheduler_config or {})
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.batch_keys = batch_keys
        self.report = ""
        self._report: Report | None = None
        self._unit: float | None = None
        self._denominator: Tensor | None = None
        self.train_loss, self.val_loss, self.test_loss = (EpochMean(loss.reduction == "sum") for _ in range(3))
        self.train_accuracy = EpochMean()

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Return the logits: what the network gives, or its `.logits` (Hugging Face) or entry "out" (torchvision)."""
        return batches.logits_of(self.network(*inputs, **named_inputs))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the loss as it is now: a callback may have given it class weights."""
        saved = checkpoint.get("hyper_parameters", {})
        if isinstance(saved.get("loss"), Mapping):  # a subclass may have a `loss` of another kind
            saved["loss"] = spec_of(self.loss)

    def on_fit_start(self) -> None:
        self.report = ""

    def on_train_start(self) -> None:
        """Forget what an interrupted fit has left: rows of an epoch, and of an accumulation."""
        self._denominator = None
        self.train_loss.reset()
        self.train_accuracy.reset()

    def on_train_epoch_start(self) -> None:
        """Forget the rows of an accumulation that was interrupted, as Lightning forgets its gradients."""
        self._denominator = None

    def on_validation_epoch_start(self) -> None:
        self._report = None
        self.val_loss.reset()

    def on_test_epoch_start(self) -> None:
        self._report = None
        self.test_loss.reset()

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        total, denominator, found = self._parts(self.train_loss, batch, has_probabilities=False)
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.train_accuracy.update((found.predicted == found.label).sum(), (found.label != IGNORED).sum())
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        self._denominator = denominator if self._denominator is None else self._denominator + denominator
        return total / self._unit_of(denominator)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Make the gradient that of the loss over all rows of the step: see the class."""
        if self._denominator is None:  # a subclass with a training_step of its own
            return
        factor = self._factor()
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def validation_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Tensor:
        return self._evaluate(self.val_loss, batch)

    def test_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Tensor:
        return self._evaluate(self.test_loss, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_report("val", self.val_loss)

    def on_test_epoch_end(self) -> None:
        self._log_report("test", self.test_loss)

    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "validate":
            self.print(self.report)

    def on_test_end(self) -> None:
        self.print(self.report)

    def on_fit_end(self) -> None:
        if self.report:
            self.print(self.report)

    def configure_optimizers(self) -> Any:
        build = torch.optim.AdamW if self.optimizer is None else self.optimizer
        optimizer = build(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), **self.scheduler_config},
        }

    def predict_step(self, batch: Any, batch_index: int, dataloader_idx: int = 0) -> Any:
        """Return the logits of a batch, with a target or without."""
        parts = batches.split(self, batch, needs_target=False)
        return self(*parts.inputs, **parts.named_inputs)

    def _parts(
        self, epoch_loss: EpochMean, batch: Any, *, has_probabilities: bool
    ) -> tuple[Tensor, Tensor, Predictions]:
        parts = batches.split(self, batch)
        logits = self(*parts.inputs, **parts.named_inputs)
        given = (logits, parts.target, parts.sample_weight, parts.mask)
        total, denominator = self.loss.parts(*given)
        epoch_loss.update(total, denominator)
        return total, denominator, predictions(self.loss, *given, has_probabilities=has_probabilities)

    def _evaluate(self, epoch_loss: EpochMean, batch: Any) -> Tensor:
        total, denominator, found = self._parts(epoch_loss, batch, has_probabilities=True)
        if self._report is None:
            self._report = self._new_report(found.classes)
        self._report.update(found)
        return quotient(total, denominator)

    def _new_report(self, classes: int) -> Report:
        if self.class_names is not None and len(self.class_names) != classes:
            raise ValueError(f"class_names must have {classes} names for these logits, got {len(self.class_names)}")
        return Report(isinstance(self.loss, BinaryLoss), classes).to(self.device)

    def _log_report(self, stage: str, epoch_loss: EpochMean) -> None:
        """Log loss and metrics of an epoch.

        At its end, so that a device that had no batch takes part: it asks the others how many classes there are.
        """
        classes = 0 if self._report is None else self._report.classes
        if self.trainer.world_size > 1:
            most = self.trainer.strategy.reduce(torch.tensor(float(classes), device=self.device), reduce_op="max")
            classes = int(most)
        if classes == 0:
            return
        loss, values = epoch_loss.compute(), (self._report or self._new_report(classes)).compute()
        self._report = None
        epoch_loss.reset()
        if self.trainer.sanity_checking:
            return
        self.log(f"{stage}_loss", loss, sync_dist=True, prog_bar=True)
        for name, value in values.items():
            if value.ndim == 0:
                self.log(f"{stage}_{name}", value, sync_dist=True)
            elif name.endswith("_none") and classes <= NAMED_CLASSES:
                for class_name, of_class in zip(self.class_names or range(classes), value, strict=True):
                    self.log(f"{stage}_{name.removesuffix('none')}{class_name}", of_class, sync_dist=True)
        self.report = table(values, self.class_names)
        for logger in self.loggers:
            if hasattr(logger.experiment, "add_text"):
                indented = self.report.replace("\n", "\n    ")
                logger.experiment.add_text(f"{stage}_report", f"    {indented}", self.global_step)

    def _unit_of(self, denominator: Tensor) -> float:
        """Return a power of 2, the same on all devices, that makes sums about as large as means: float16 needs it."""
        if self._unit is None:
            strategy = self.trainer.strategy
            if strategy.handles_gradient_accumulation:
                name = type(strategy).__name__
                raise ValueError(f"strategy must leave the accumulation of gradients to the Trainer, got {name}")
            self._unit = strategy.broadcast(2.0 ** round(math.log2(max(1.0, denominator.item()))))
        return self._unit

    def _factor(self) -> Tensor:
        """Return what the gradients lack: Lightning has averaged them over micro-batches and devices."""
        assert self._unit is not None and self._denominator is not None
        denominator, self._denominator = self._denominator, None
        averaged = torch.full_like(
            denominator, self._unit * self.trainer.accumulate_grad_batches * self.trainer.world_size
        )
        if self.loss.reduction == "sum":
            return averaged
        return quotient(averaged, self.trainer.strategy.reduce(denominator, reduce_op="sum"))
