"""Small random networks of the kinds that are quantized as a whole, and their ONNX files.

Every module is in eval mode, seeded, with BatchNorm statistics that look trained. `sample(module)` gives it inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitwright.store.onnx_source import OnnxSource
from bitwright.store.torch_module import export_module


class Residual(nn.Module):
    """conv - bn - relu, with a residual block and a linear head."""

    inputs = ((3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        inner = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(x + self.bn2(self.conv2(inner))), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    """Pointwise - depthwise - pointwise with relu6 and a linear bottleneck, added to its input."""

    inputs = ((3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.expand, self.bn1 = nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depthwise, self.bn2 = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.project, self.bn3 = nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        x = x + self.bn3(self.project(y))
        return self.head(x.mean((2, 3)))


class Squeeze(nn.Module):
    """Hard-swish convolutions with a squeeze-and-excitation gate (hard-sigmoid), and a pooled concatenation."""

    inputs = ((3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.conv2 = nn.Conv2d(16, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.bn1(self.conv1(x)))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        x = torch.cat([x * gate, F.avg_pool2d(x, 3, 1, 1)], dim=1)
        return F.hardswish(self.conv2(x))


class Gated(nn.Module):
    """Convolutions with a hard-swish in parts and a learned line behind it, as exported by PaddlePaddle."""

    inputs = ((3, 12, 12),)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.conv3 = nn.Conv2d(8, 6, 3, padding=1)
        self.lines = nn.Parameter(torch.tensor([[1.7, 0.4], [0.6, -0.3], [1.2, 0.5], [0.8, 0.2]]))

    def line(self, place: int, x: Tensor) -> Tensor:
        return self.lines[place, 0] * x + self.lines[place, 1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(0, self.conv1(x))
        x = self.line(1, x * (x + 3).clamp(0, 6) / 6)
        x = self.line(2, self.conv2(x))
        x = self.line(3, x * (x + 3).clamp(0, 6) / 6)
        return self.conv3(x)


class Attention(nn.Module):
    """One pre-norm transformer layer on a sequence of vectors, with a GELU and a residual stream."""

    inputs = ((6, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        query, key, value = (self._heads(linear(y)) for linear in (self.query, self.key, self.value))
        scores = torch.softmax(query @ key.transpose(-1, -2) / 8**0.5, dim=-1)
        x = x + self.out((scores @ value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 8)).transpose(1, 2)


class TwoInputs(nn.Module):
    """A small U-shaped network with GroupNorm, SiLU, a transposed convolution, and a second input of numbers."""

    inputs = ((2, 8, 8), (4,))

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.norm, self.mix = nn.GroupNorm(2, 8), nn.Linear(4, 8)
        self.up, self.leave = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = F.silu(self.enter(x))
        y = F.silu(self.norm(self.down(x)) + self.mix(time)[:, :, None, None])
        return self.leave(torch.cat([x, self.up(y)], dim=1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "depthwise": Depthwise,
    "squeeze": Squeeze,
    "gated": Gated,
    "attention": Attention,
    "two_inputs": TwoInputs,
}


def network(name: str, seed: int = 0) -> nn.Module:
    """The network of this name, seeded, in eval mode, its BatchNorms with statistics and scales of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = NETWORKS[name]()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2.0)
    return module.eval()


def sample(module: nn.Module, batch: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs for a network of this file."""
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((batch, *shape), generator=draws) for shape in module.inputs)


def exported(module: nn.Module, folder: Path, name: str = "network") -> OnnxSource:
    """The module as an ONNX file in `folder`, opened."""
    return OnnxSource.open(export_module(module, sample(module, 2), folder / f"{name}.onnx").path)
