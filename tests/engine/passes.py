"""One block in both forms with streams that differ, and what a forward hook on its modules sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.engine.block import Flow, Rows, enter
from bitwright.engine.collect import Pair, Pass, by_input
from bitwright.engine.tape import Held, plan_tape
from bitwright.execute import StreamFile, TorchRunner
from bitwright.quantize import plan_source
from bitwright.recipe.plan import BlockJob, Step
from bitwright.recipe.presets import asymmetric
from bitwright.recipe.recipe import Recipe, Rule
from bitwright.store.source import open_source

ROWS = Rows(torch.randint(3, 160, (10, 16), generator=torch.Generator().manual_seed(7)), 2)


@dataclass(frozen=True)
class Setting:
    """A block whose second copy has other weights and reads another stream."""

    job: BlockJob
    block: Pass
    streams: Pair
    folder: Path

    @property
    def groups(self) -> list[tuple[Step, ...]]:
        """The inputs of all stages."""
        return [group for stage in self.job.stages for group in by_input(stage)]

    def taped(self) -> Pass:
        """The same block after the run of the original that fills a tape."""
        return replace(self.walking(), passage=None)

    def walking(self) -> Pass:
        """The same with rows that can stop inside the block, too."""
        runner = self.block.runner
        held = Held(runner.weights, runner.dtype)
        tape = plan_tape(self.job, self.folder, ROWS.count, ROWS.length, held)
        behind = StreamFile(self.folder / "behind", self.streams.original.shape, runner.dtype)
        return enter(self.block, self.job, Flow(ROWS, self.streams, Pair(behind, behind)), tape)


def setting(source_folder: Path, folder: Path, index: int) -> Setting:
    """Block `index` of a model, with noise on the weights and on the stream of its second copy.

    Computed as a run does by default: activations in float32, matrices in the checkpoint's type.
    """
    source = open_source(source_folder)
    plan = plan_source(source, Recipe((Rule("*", asymmetric(3, 16)),)))
    runner = TorchRunner(source, plan.graph, torch.float32, source.dtype)
    runner.load_outside()
    noise = torch.Generator().manual_seed(1)
    original = runner.first_stream(ROWS.tokens)
    quantized = original + 0.02 * torch.randn(original.shape, generator=noise)
    pair = Pair(*(StreamFile(folder / name, tuple(original.shape), torch.float32) for name in ("one", "other")))
    for file, stream in ((pair.original, original), (pair.quantized, quantized)):
        file.create()
        file.write(0, stream)
    weights = source.read(plan.graph.blocks[index].parameters)
    other = {n: w + 0.01 * torch.randn(w.shape, generator=noise) for n, w in weights.items()}
    block = Pass(runner, index, runner.block(index, weights), runner.block(index, other), ROWS.tokens)
    return Setting(plan.blocks[index], block, pair, folder)


@contextmanager
def reads(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What every submodule reads while the context lasts, by name, as tokens in float64: [tokens, channels]."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> object:
        def note(_: nn.Module, args: tuple[object, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                seen[name] = args[0].detach().double().flatten(0, -2)

        return note

    handles = [one.register_forward_pre_hook(hook(name)) for name, one in module.named_modules() if name]
    yield seen
    for handle in handles:
        handle.remove()


def seen_by_hooks(one: Setting, module: nn.Module, stream: Tensor) -> dict[str, Tensor]:
    """The same for one run of the block, and under `""` the stream that the block itself reads."""
    one.block.runner.note_calls(*stream.shape[:2])
    with reads(module) as seen:
        one.block.run(module, stream, 0)
    return seen | {"": stream.double().flatten(0, -2)}
