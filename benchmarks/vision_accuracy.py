"""How well quantized networks answer: one line for each tool, the float network's figure beside.

The drop's interval (95 %) comes from drawing evaluation samples with replacement, both networks on the same draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vision_tasks import Feeds, Task, first_of
from vision_tools import Made, Ready, Tool, made, session

from bitwright.engine.simulate import Simulation
from bitwright.store.network_artifact import open_network

DRAWS = 2000
Run = Callable[[Feeds], Tensor]
HEAD = (
    f"{'task':14}{'tool':28}{'figure':>9} {'unit':12}{'float':>9}{'drop':>8}  {'95 % interval':19}{'asked':>6}"
    f"{'SQNR dB':>9}{'s':>7}{'CPU s':>7}{'peak MB':>9}{'file KB':>9}"
)


def accuracy(task: Task, tools: Sequence[Tool], ready: Ready, how: tuple[int, int | None]) -> None:
    """Print the lines of a task; `how`: threads, and evaluation batches (None: all)."""
    threads, batches = how
    reference, before = outputs(_file(ready.model, threads), task, batches)
    for tool in tools:
        result = made(tool, ready)
        if result is None:
            continue
        run = _folder(result.path, threads) if tool.is_simulated else _file(result.path, threads)
        found, after = outputs(run, task, batches)
        print(_line(task, tool, result, (before, after), sqnr(reference, found)), flush=True)


def _line(task: Task, tool: Tool, result: Made, records: tuple[Tensor, Tensor], quality: float) -> str:
    before, after = (task.figure(held) for held in records)
    low, high = interval(task, *records)
    asked = task.reach.get(tool.recipe)
    percent = "%" if task.is_relative else " "
    name = tool.name + (" (sim)" if tool.is_simulated else "")
    return (
        f"{task.name:14}{name:28}{after:9.4f} {task.unit:12}{before:9.4f}"
        f"{task.drop(before, after):8.3f}{percent} {f'[{low:.3f}, {high:.3f}]':19}{'' if asked is None else asked:>6}"
        f"{quality:9.1f}{result.seconds:7.0f}{result.cpu_seconds:7.0f}"
        f"{result.peak_bytes / 1e6:9.0f}{result.file_bytes / 1e3:9.0f}"
    )


def _file(path: Path, threads: int) -> Run:
    run = session(path, threads)
    names = [put.name for put in run.get_inputs()]

    def call(feeds: Feeds) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, feeds.values(), strict=True)}
        return torch.from_numpy(run.run(None, given)[0])

    return call


def _folder(path: Path, threads: int) -> Run:
    """What no engine runs, as it is simulated."""
    simulation = Simulation.of(open_network(path), threads)
    names, output = simulation.network.inputs, simulation.network.outputs[0]
    return lambda feeds: simulation.run(dict(zip(names, feeds.values(), strict=True)))[output]


def outputs(run: Run, task: Task, batches: int | None) -> tuple[list[Tensor], Tensor]:
    """The first output for every evaluation batch, and the records of all samples."""
    found, records = [], []
    for feeds, target in first_of(task.evaluation, batches):
        output = run(feeds)
        found.append(output)
        records.append(task.score(output, target))
    return found, torch.cat(records)


def sqnr(reference: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    wrong = sum(float((a - b).double().square().sum()) for a, b in zip(reference, found, strict=True))
    return 10 * float(np.log10(sum(float(a.double().square().sum()) for a in reference) / max(wrong, 1e-30)))


def interval(task: Task, before: Tensor, after: Tensor) -> tuple[float, float]:
    draws = torch.Generator().manual_seed(0)
    drops = []
    for _ in range(DRAWS):
        picked = torch.randint(len(before), (len(before),), generator=draws)
        drops.append(task.drop(task.figure(before[picked]), task.figure(after[picked])))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(drops, dtype=torch.float64), ends).tolist()
    return low, high
