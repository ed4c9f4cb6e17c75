"""Small random modules, one for each way of building networks that is not in `networks.py`.

`MODULES` has by name a function that makes a module and one that makes a batch of its inputs. Statistics of norms look
trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = Callable[[int], tuple[Tensor, ...]]


def conv(inputs: int, outputs: int, size: int, **more: int) -> nn.Sequential:
    """conv - bn - relu of the same size."""
    groups = more.get("groups", 1)
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Dense(nn.Module):
    """DenseNet: each layer reads all before it; norms before convolutions; grouped convolutions as in ResNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 16 * i) for i in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(16 + 16 * i, 16, 3, padding=1, groups=2) for i in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return x


class Shuffle(nn.Module):
    """ShuffleNet: half of the channels pass, the others are convolved, then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = conv(3, 16, 3), conv(8, 8, 3, groups=8), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = self.stem(x).chunk(2, 1)
        x = torch.cat([kept, self.branch(rest)], 1)
        count, channels, height, width = x.shape
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, channels, height, width)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """Down and up again with a skip; grouped transposed convolution with a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.out = conv(3, 8, 3), conv(8, 16, 3), nn.Conv2d(16, 2, 1)
        self.up, self.norm = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        x = self.middle(F.max_pool2d(skip, 2))
        return self.out(torch.cat([F.relu(self.norm(self.up(x))), skip], 1))


class Recurrent(nn.Module):
    """Convolution in time, then recurrence: an operator of its own (LSTM, GRU), or written out (a plain one)."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv, self.cell = nn.Conv1d(6, 8, 3, padding=1), kind(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(F.relu(self.conv(x)).transpose(1, 2))[0])


class Speech(nn.Module):
    """wav2vec: strided convolutions with group norm and GELU, positions by a grouped convolution, one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(1, 16, 10, stride=5, bias=False), nn.GroupNorm(16, 16), nn.GELU())
        self.places = nn.Conv1d(16, 16, 8, padding=4, groups=2)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x[:, None])
        return self.layer((x + F.gelu(self.places(x)[..., :-1])).transpose(1, 2))


class Volume(nn.Module):
    """Convolutions over three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.max_pool3d(F.relu(self.norm(self.first(x))), 2)).mean((2, 3, 4))


class Gated(nn.Module):
    """An inverted residual with squeeze and excitation: EfficientNet's or MobileNetV3's curves."""

    def __init__(self, curve: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.curve, self.gate = curve(), gate()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 1)
        self.depthwise, self.norm = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16)
        self.squeeze, self.excite, self.project = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.curve(self.stem(x))
        y = self.curve(self.norm(self.depthwise(self.curve(self.expand(x)))))
        y = y * self.gate(self.excite(self.curve(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y)


class ChannelsLast(nn.Module):
    """ConvNeXt: a depthwise convolution, then a layer norm and two linear layers over channels, scaled by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.wide, self.narrow = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.gamma = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


class Windows(nn.Module):
    """Swin: attention inside windows that are rolled out of place and back, with a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.mix, self.out, self.table = nn.Linear(16, 48), nn.Linear(16, 16), nn.Parameter(torch.randn(2, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2)).view(n, h // 4, 4, w // 4, 4, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.mix(y).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = (((q * 8**-0.5) @ k.transpose(-2, -1) + self.table).softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, c)
        y = self.out(y).view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + torch.roll(y, (2, 2), (1, 2))


class Queries(nn.Module):
    """DETR: learned queries look at a picture's features; two heads. Tracing fixes its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.queries = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(5, 16))
        self.layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)
        self.classes, self.boxes = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem(x).flatten(2).transpose(1, 2)
        found = self.layer(self.queries[None].expand(len(x), -1, -1), features)
        return self.classes(found), self.boxes(found).sigmoid()


class Generator(nn.Module):
    """From a vector to a picture: pixel shuffle, PReLU, upsampling, instance norm, leaky ReLU, reflected borders."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 64)
        self.rest = nn.Sequential(
            *(nn.Conv2d(4, 16, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(4), nn.Upsample(scale_factor=2)),
            *(nn.Conv2d(4, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2)),
            *(nn.ReflectionPad2d(1), nn.Conv2d(8, 3, 3), nn.Tanh()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x).view(-1, 4, 4, 4))


class Several(nn.Module):
    """Words, a picture and a number for each sample; named outputs, one of them a scalar; a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.conv = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Conv2d(3, 16, 3)
        self.out = nn.Linear(32, 1)

    def forward(self, ids: Tensor, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        a = self.mix(F.relu(self.mix(self.words(ids)))).mean(1)
        y = self.out(torch.cat([a, F.relu(self.conv(x)).mean((2, 3)) * scale], 1))
        return {"y": y, "features": a, "total": y.sum()}


def picture(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 3, 16, 16),)


def series(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 6, 12),)


def several(count: int) -> tuple[Tensor, ...]:
    return torch.randint(0, 20, (count, 7)), torch.randn(count, 3, 8, 8), torch.rand(count, 1)


MODULES: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "dense": (Dense, picture),
    "shuffle": (Shuffle, picture),
    "unet": (UNet, picture),
    "lstm": (lambda: Recurrent(nn.LSTM), series),
    "gru": (lambda: Recurrent(nn.GRU), series),
    "rnn": (lambda: Recurrent(nn.RNN), series),
    "speech": (Speech, lambda count: (torch.randn(count, 200),)),
    "volume": (Volume, lambda count: (torch.randn(count, 2, 6, 8, 8),)),
    "efficientnet": (lambda: Gated(nn.SiLU, nn.Sigmoid), picture),
    "mobilenet_v3": (lambda: Gated(nn.Hardswish, nn.Hardsigmoid), picture),
    "channels_last": (ChannelsLast, picture),
    "windows": (Windows, picture),
    "queries": (Queries, picture),
    "generator": (Generator, lambda count: (torch.randn(count, 8),)),
    "several": (Several, several),
}


def built(name: str) -> tuple[nn.Module, Batch]:
    """The module of this name in eval mode, with seeded weights, and its batches."""
    torch.manual_seed(1)
    make, batch = MODULES[name]
    module = make()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    return module.eval(), batch
