"""The networks of the examples in torch: the layers of keras_networks.py, channels first."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo import data
from demo.examples import EXAMPLES
from lightning_xent import LinearLoss
from lightning_xent.categorical import CategoricalLoss


class ImageClassifier(nn.Module):
    """Images [N, 1, H, W] to logits [N, C]."""

    def __init__(self, channels: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding="same")
        self.second = nn.Conv2d(channels, channels, 3, padding="same")
        self.third = nn.Conv2d(channels, 2 * channels, 3, padding="same")
        self.last = nn.Linear(2 * channels, classes)
        initialise(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).relu()  # [N, channels, H, W]
        hidden = self.second(hidden).relu()
        hidden = functional.max_pool2d(hidden, 2)  # [N, channels, H/2, W/2]
        hidden = self.third(hidden).relu()
        return self.last(hidden.amax((2, 3)))


class TokenClassifier(nn.Module):
    """Word numbers [N, T] to logits [N, C, T]: each word sees four words before it and four after it."""

    def __init__(self, vocabulary: int, size: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size)
        self.first = nn.Conv1d(size, size, 5, padding="same")
        self.second = nn.Conv1d(size, size, 5, padding="same")
        self.last = nn.Conv1d(size, classes, 1)
        initialise(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embedding(inputs).transpose(1, 2)  # [N, size, T]
        hidden = self.first(hidden).relu()
        hidden = self.second(hidden).relu()
        return self.last(hidden)


class Segmenter(nn.Module):
    """Images [N, 1, H, W] to logits [N, C, H, W]."""

    def __init__(self, channels: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding="same")
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding="same")
        self.third = nn.Conv2d(2 * channels, 2 * channels, 3, padding="same")
        self.fourth = nn.Conv2d(2 * channels, 2 * channels, 3, padding="same")
        self.fifth = nn.Conv2d(3 * channels, channels, 3, padding="same")
        self.last = nn.Conv2d(channels, classes, 1)
        initialise(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        fine = self.first(inputs).relu()  # [N, channels, H, W]
        hidden = functional.max_pool2d(fine, 2)  # [N, channels, H/2, W/2]
        hidden = self.second(hidden).relu()
        hidden = self.third(hidden).relu()
        hidden = self.fourth(hidden).relu()
        hidden = functional.interpolate(hidden, scale_factor=2)  # [N, 2 channels, H, W]
        hidden = torch.cat([fine, hidden], dim=1)  # [N, 3 channels, H, W]
        hidden = self.fifth(hidden).relu()
        return self.last(hidden)


class LanguageModel(nn.Module):
    """Word numbers [N, T] to hidden states [N, T, size] for the next word: each sees the last five words."""

    def __init__(self, vocabulary: int, size: int, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size)
        self.first = nn.Conv1d(size, size, 3)
        self.second = nn.Conv1d(size, size, 3)
        initialise(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embedding(inputs).transpose(1, 2)  # [N, size, T]
        hidden = self.first(functional.pad(hidden, (2, 0))).relu()
        hidden = self.second(functional.pad(hidden, (2, 0))).relu()
        return hidden.transpose(1, 2)


class Embedder(nn.Module):
    """Images [N, 64] to embeddings [N, size] of the length `scale`."""

    def __init__(self, hidden: int, size: int, scale: float, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.second = nn.Linear(hidden, size)
        self.scale = scale
        initialise(self, seed)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * functional.normalize(self.second(self.first(inputs).tanh()), dim=1)


class LastLayer(LinearLoss):
    """The last layer of an example with its loss, whose initial kernel is the same on the other side; the bias is 0.

    Args:
        example: Name of the example.
        in_features: Number of features of the hidden states.
        classes: Number of logits.
        loss: A categorical loss.
        bias: Whether the layer has a bias.
        seed: Seed of the kernel.
    """

    def __init__(
        self, example: str, in_features: int, classes: int, loss: CategoricalLoss, bias: bool = True, seed: int = 0
    ) -> None:
        super().__init__(in_features, classes, loss, bias)
        kernel = EXAMPLES[example].last_kernel((in_features, classes), seed)
        self.weight.data = torch.from_numpy(kernel.T.copy())
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Give `network` kernels from NumPy, the same as on the other side, and biases of 0."""
    layers = list(network.children())
    kernels = [_kernel(layer) for layer in layers]
    values = data.initial_kernels([tuple(kernel.shape) for kernel in kernels], seed)
    for layer, kernel, value in zip(layers, kernels, values, strict=True):
        kernel.copy_(torch.from_numpy(value))
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()


def _kernel(layer: nn.Module) -> Tensor:
    """Return a view of the weight of `layer` as [..., inputs, outputs], which is how Keras has it."""
    weight = layer.weight
    if isinstance(layer, nn.Embedding):
        return weight
    return weight.permute(*range(2, weight.ndim), 1, 0)
