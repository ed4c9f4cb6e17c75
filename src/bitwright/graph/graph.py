"""What the model computes, as far as quantization needs to know.

A model is a prefix (embeddings), a row of blocks that hand one tensor on to the next (the stream), perhaps with others
beside it for all later ones (the shelf), and a suffix (last norm, head). Inside a block the graph knows every linear
operation: which parameter it multiplies with, in which orientation, on which input, after which other linears, and
whether its output is added to the stream. Nothing here knows a model's name: it is all read off the operators that ran
(see `trace.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from bitwright.graph.blocks import Returned
from bitwright.graph.stream import Stream


@dataclass(frozen=True, slots=True)
class WeightView:
    """A weight as a matrix [out, in]: a parameter, or one slice of a fused 3-D one, perhaps stored [in, out]."""

    parameter: str
    shape: tuple[int, int]
    index: int | None = None
    transposed: bool = False

    @property
    def name(self) -> str:
        """The name of the matrix: that of the module that owns it, plus the slice of a fused parameter."""
        stem = self.parameter.removesuffix(".weight")
        return stem if self.index is None else f"{stem}.{self.index}"

    def read(self, parameter: Shaped[Tensor, "..."]) -> Shaped[Tensor, "out in"]:
        """The matrix inside the parameter's tensor; a view, nothing is copied."""
        matrix = parameter if self.index is None else parameter[self.index]
        return matrix.mT if self.transposed else matrix


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear operation of a block.

    `source`: number of the value it reads (linears with the same number share their input). `after`: names of the
    linears whose outputs reach this input without passing another linear. `writes_stream`: its output is added
    straight to the stream. `routed`: it sees only the tokens that a router sent, so the two activation streams cannot
    be lined up row by row. `selects`: its output is ranked to choose experts (a router).
    """

    view: WeightView
    source: int
    after: tuple[str, ...]
    writes_stream: bool = False
    routed: bool = False
    selects: bool = False

    @property
    def kind(self) -> str:
        """What a recipe calls it: a router, a gate (one number for every token, as of shared experts) or a linear."""
        if self.selects:
            return "router"
        return "gate" if self.view.shape[0] == 1 else "linear"


@dataclass(frozen=True, slots=True)
class Block:
    """One repeated unit of the model: module path, linears in the order they ran, all parameters, what it returns.

    `finds`: how many entries are on the shelf when it runs.
    """

    name: str
    linears: tuple[Linear, ...]
    parameters: tuple[str, ...]
    returned: Returned
    notes: tuple[str, ...] = ()
    finds: int = 0


@dataclass(frozen=True, slots=True)
class Outside:
    """A parameter outside all blocks and what it is: an embedding, the head, a norm or something else."""

    parameter: str
    kind: str


@dataclass(frozen=True, slots=True)
class Graph:
    """The blocks in running order, and the parameters around them.

    `tells_tokens`: what some block is given besides the stream depends on the tokens.
    """

    blocks: tuple[Block, ...]
    outside: tuple[Outside, ...]
    stream: Stream
    tells_tokens: bool

    def views(self) -> dict[str, WeightView]:
        """Every weight matrix inside a block, by name."""
        return {linear.view.name: linear.view for block in self.blocks for linear in block.linears}

    @property
    def is_alike(self) -> bool:
        """Whether a block reads the same beside its stream whatever the batch; one recorded run then serves all."""
        return not self.tells_tokens and not self.stream.shelf.width
