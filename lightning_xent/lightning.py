"""The LightningModule for lightning, whose Trainer accepts only modules of its own package."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_xent.base import Loss
from lightning_xent.batches import Keys
from lightning_xent.layers import LayerSpec, LinearLoss
from lightning_xent.training import OptimizerCallable, SchedulerCallable, Training, held, plain
from shared_specs.common.spec import LossSpec


class XentModule(Training, LightningModule):  # noqa: D101  the next line sets it
    __doc__ = Training.__doc__

    def __init__(
        self,
        network: nn.Module,
        loss: Loss | LossSpec | LayerSpec | LinearLoss,
        optimizer: OptimizerCallable | None = None,
        scheduler: SchedulerCallable | None = None,
        scheduler_config: dict[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        input_key: str | Sequence[str] | None = None,
        target_key: str | None = None,
        weight_key: str | None = None,
        mask_key: str | None = None,
    ) -> None:
        super().__init__()
        keys = Keys(input_key, target_key, weight_key, mask_key)
        self._set_up(network, loss, optimizer, scheduler, scheduler_config, class_names, keys)
        loss = held(self.loss, self.head)  # type: ignore[assignment]
        class_names, scheduler_config = self.class_names, plain(scheduler_config)
        input_key, target_key, weight_key, mask_key = keys.input, keys.target, keys.weight, keys.mask
        self.save_hyperparameters(ignore=["network", "optimizer", "scheduler"])
        if "_instantiator" in self.hparams:  # built from a config, which is data
            self.save_hyperparameters()
