"""Runs a network on as many samples at a time as their values leave room for.

All the values of all layers are far more than a network needs to run: 7 million numbers for one picture in MobileNetV2.
A few samples fit what the processor and the memory allocator keep at hand, which is faster, too: a sixth of the time
of 16 pictures at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from bitwright.execute.node_walk import NodeWalk
from bitwright.execute.onnx_runner import OnnxRunner, RunError
from bitwright.graph.network import Network
from bitwright.recipe.network_cost import BATCH, batch_of
from bitwright.store.sample_set import Samples

ROOM = 1 << 23  # numbers held at a time, unless one sample has more: 32 MiB

Feeds = Mapping[str, Tensor]
Take = Callable[[int, Feeds], None]


def run_in_parts(runner: OnnxRunner, batch: Feeds, values: Sequence[str], take: Take, room: int = ROOM) -> None:
    """Hand these values out for parts of a batch, in order, each with the number of its samples.

    The first sample alone says how many numbers there are. What was handed out is given up before the next part runs,
    if `take` keeps nothing. A batch stays whole where the network fixes its size, or where inputs do not run along the
    samples alike.
    """
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in batch.values()}
    size = min((found for found in sizes if found), default=1)
    if len(sizes) > 1 or size == 1 or not _is_free(runner.network):
        take(size, runner.run(batch, tuple(values)))
        return
    start, rows = 0, 1
    while start < size:
        stop = min(start + rows, size)
        made = runner.run({name: tensor[start:stop] for name, tensor in batch.items()}, tuple(values))
        take(stop - start, made)
        numbers = sum(value.numel() for value in made.values()) // (stop - start)
        del made
        start, rows = stop, max(1, room // max(1, numbers))


def roomy(runner: OnnxRunner, samples: Samples) -> Samples:
    """The samples, in smaller batches where the values of so many as usual would not leave room.

    What attention over a whole picture holds for one sample is more than most networks hold for a batch. A network that
    cannot be run node by node as it came keeps the usual ones.
    """
    if not samples.stacking.shares or samples.stacking.fixed is not None:
        return samples
    try:
        size = batch_of(runner.network, measured_sizes(runner, samples))
    except RunError:
        return samples
    return samples if size == BATCH else samples.limited(size)


def measured_sizes(runner: OnnxRunner, samples: Samples) -> dict[str, int]:
    """How many numbers each value has for one sample, from running the first one (of a fixed batch: its share)."""
    feed = samples.first(1)
    count = min((len(tensor) for tensor in feed.values() if tensor.dim()), default=1)
    walk, sizes = NodeWalk(runner, [feed], {}), {name: tensor.numel() for name, tensor in feed.items()}
    for node in runner.network.nodes:
        walk.advance(node)
        sizes |= {name: walk.live[0][name].numel() for name in node.outputs if name in walk.live[0]}
    runner.close()
    return {name: max(1, size // count) for name, size in sizes.items()}


def _is_free(network: Network) -> bool:
    """Whether any number of samples can go in at once."""
    shapes = [network.values[name].shape for name in network.inputs]
    return all(shape is not None and len(shape) > 0 and shape[0] is None for shape in shapes)
