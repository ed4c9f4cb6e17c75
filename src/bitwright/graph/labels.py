"""Rules that say where the channels of a value go through one operator, for a scale that belongs to each channel.

Labels are integers with the rank of the value they describe; an axis along which they do not change has size 1.
Label i says that the number is scaled by s_i > 0, -1 that it is not scaled. Operators that move data run for real on
the labels, so any mixture of slices, transpositions and concatenations is followed exactly. Operators that commute
with a positive scale hand labels on; additions of constants are *shifts*, which take part in the scale; a product with
a constant weight over the labelled axis ends the path. Everything else refuses, with the reason.

Dimensions that are not known before the network runs (batch, length) count as 1: labels never lie along them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from bitwright.graph.linear_node import linear_of
from bitwright.graph.network import Network, Node

Labels = Int64[Tensor, "..."]
NONE = -1  # the label of a number that is not scaled
TOO_MANY = 1 << 27  # labels that are laid out in full; more than that is not a channel pattern


class Refused(Exception):
    """The reason why channels cannot be scaled through an operator. Internal: becomes a Refusal."""


class Walk(ABC):
    """What a rule may ask and tell while one producer's channels are followed."""

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network that is walked through."""

    @abstractmethod
    def labels(self, value: str) -> Labels | None:
        """The labels of a value; None if no channel of the producer is in it."""

    @abstractmethod
    def constant(self, value: str) -> Tensor | None:
        """The numbers of a constant; None if it is none or they are not at hand."""

    @abstractmethod
    def shift(self, constant: str, labels: Labels) -> None:
        """Note that the constant is added to (or bounds) labelled numbers, and so is scaled with them."""

    @abstractmethod
    def sink(self, node: Node, labels: Labels) -> None:
        """Note that the node is a linear operator which multiplies these channels [in] with its weight."""


Rule = Callable[[Walk, Node], tuple[Labels, ...]]


def shape_of(walk: Walk, value: str) -> tuple[int, ...]:
    """The shape with 1 for what is unknown before running."""
    found = walk.network.values.get(value)
    if found is None or found.shape is None:
        raise Refused(f"the shape of {value} is not known")
    return tuple(1 if size is None else size for size in found.shape)


def laid_out(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Labels of this full shape."""
    total = 1
    for size in shape:
        total *= size
    if total > TOO_MANY:
        raise Refused(f"a value of {total} numbers is too large to follow its channels")
    return labels.expand(shape)


def gathered(labels: Labels) -> Labels:
    """The same labels with every axis along which they do not change at size 1."""
    for axis, size in enumerate(labels.shape):
        first = labels.narrow(axis, 0, 1)
        if size > 1 and bool((labels == first).all()):
            labels = first
    return labels


def lifted(labels: Labels, rank: int) -> Labels:
    """Labels with axes of size 1 put before, as broadcasting does."""
    return labels.reshape((*[1] * (rank - labels.dim()), *labels.shape))


def only(walk: Walk, node: Node, place: int = 0) -> Labels:
    """The labels of this input, if no other input has any."""
    labelled = [i for i, name in enumerate(node.inputs) if name and walk.labels(name) is not None]
    found = walk.labels(node.inputs[place])
    if labelled != [place] or found is None:
        raise Refused(f"{node.op} reads the channels as its input {labelled[-1]}")
    return found


def integers(walk: Walk, node: Node, place: int, attribute: str = "") -> list[int] | None:
    """Integers given as an attribute or a constant input; None if left out."""
    if attribute in node.attributes:
        return [int(i) for i in node.attributes[attribute]]
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    found = walk.constant(node.inputs[place])
    if found is None:
        raise Refused(f"{node.op} takes {node.inputs[place]}, which is known only when the network runs")
    return [int(i) for i in found.reshape(-1)]


def scalar(walk: Walk, node: Node, place: int, attribute: str = "") -> float | None:
    """A number given as an attribute or as a constant input; None if left out."""
    if attribute in node.attributes:
        return float(node.attributes[attribute])
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    found = walk.constant(node.inputs[place])
    if found is None or found.numel() != 1:
        raise Refused(f"{node.op} takes {node.inputs[place]}, which is no single number known beforehand")
    return float(found)


# operators that commute with a positive scale


def handed_on(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Element by element, and f(s x) = s f(x) for s > 0."""
    return (only(walk, node),)


def cast(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Between floats only."""
    found = walk.network.values.get(node.outputs[0])
    if found is None or "float" not in found.dtype:
        raise Refused("Cast to something that is no float")
    return (only(walk, node),)


def clip(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Zero as the only finite bound commutes; any other bound is one number for all channels."""
    low, high = scalar(walk, node, 1, "min"), scalar(walk, node, 2, "max")
    if low not in (None, 0.0, float("-inf")) or high not in (None, 0.0, float("inf")):
        raise Refused(f"Clip to [{low}, {high}] bounds all channels alike; give each channel its own bound first")
    return (only(walk, node),)


def pooled(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Pools windows of axes 2 and on, along which nothing may change."""
    labels = only(walk, node)
    if any(size > 1 for size in labels.shape[2:]):
        raise Refused(f"{node.op} mixes differently scaled numbers")
    return (labels,)


def reduced(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Sums, means and extremes along axes on which nothing changes."""
    labels = only(walk, node)
    axes = integers(walk, node, 1, "axes")
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            return (labels,)
        axes = list(range(labels.dim()))
    axes = sorted(axis % labels.dim() for axis in axes)
    if any(labels.shape[axis] > 1 for axis in axes):
        raise Refused(f"{node.op} mixes differently scaled numbers")
    if not node.attributes.get("keepdims", 1):
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in axes])
    return (labels,)


def resized(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Interpolates along axes on which nothing changes."""
    labels = only(walk, node)
    before, after = shape_of(walk, node.inputs[0]), shape_of(walk, node.outputs[0])
    if node.attributes.get("coordinate_transformation_mode") in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        raise Refused("Resize fills in a number of its own")
    if any(size > 1 and a != b for size, a, b in zip(labels.shape, before, after, strict=True)):
        raise Refused("Resize mixes differently scaled numbers")
    return (labels,)


# operators with two activations, or an activation and a constant


def product(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Mul, and Div by what is not scaled: linear in the labelled input."""
    place = 0 if node.op == "Div" or walk.labels(node.inputs[0]) is not None else 1
    labels = only(walk, node, place)
    return (lifted(labels, max(labels.dim(), len(shape_of(walk, node.inputs[1 - place])))),)


def together(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Add, Sub, Min, Max: with a constant that is scaled alike, or among values that are scaled alike."""
    ranks = [len(shape_of(walk, name)) for name in node.inputs]
    found = {name: lifted(labels, max(ranks)) for name in node.inputs if (labels := walk.labels(name)) is not None}
    labels, *others = found.values()
    if any(other.shape != labels.shape or not torch.equal(other, labels) for other in others):
        raise Refused(f"{node.op} joins numbers that are scaled differently")
    for name in node.inputs:
        if name in found:
            continue
        if name not in walk.network.constants:
            raise Refused(f"{node.op} joins another path ({name}) that is not scaled alike")
        numbers = walk.constant(name)
        if numbers is None or bool((numbers != 0).any()):
            walk.shift(name, labels)
    return (labels,)


def multiplied(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """MatMul: a sink if it sums over the labels with a constant weight, linear in them otherwise."""
    place = 0 if walk.labels(node.inputs[0]) is not None else 1
    labels = only(walk, node, place)
    other = len(shape_of(walk, node.inputs[1 - place]))
    if labels.dim() < 2 or other < 2:
        raise Refused("MatMul with a vector")
    linear = linear_of(walk.network, node) if place == 0 else None
    if linear is not None and labels.numel() == labels.shape[-1]:
        walk.sink(node, labels.reshape(-1).expand(linear.inputs))
        return ()
    if labels.shape[-1 - place] > 1:
        raise Refused("MatMul sums differently scaled numbers with a weight that is no constant matrix")
    return (lifted(labels, max(labels.dim(), other)),)


def weighed(walk: Walk, node: Node) -> tuple[Labels, ...]:
    """Conv, ConvTranspose and Gemm end the path in their weight."""
    linear = linear_of(walk.network, node)
    labels = only(walk, node)
    if linear is None:
        raise Refused(f"{node.op} without a constant weight")
    if labels.numel() != labels.shape[linear.axis]:
        raise Refused(f"{node.op} reads channels that do not lie along its axis {linear.axis}")
    walk.sink(node, labels.reshape(-1).expand(linear.inputs))
    return ()


COMMUTES: Mapping[str, Rule] = (
    dict.fromkeys(("Identity", "Dropout", "Relu", "LeakyRelu", "PRelu", "Neg", "Abs"), handed_on)
    | dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), pooled)
    | dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), reduced)
    | dict.fromkeys(("Add", "Sub", "Min", "Max", "Sum"), together)
    | dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), weighed)
    | {"Mul": product, "Div": product, "MatMul": multiplied, "Clip": clip, "Cast": cast}
    | {"Resize": resized, "Upsample": resized}
)
