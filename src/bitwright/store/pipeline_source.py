"""Models of a diffusion pipeline as sources, and what they read while it makes pictures of the user's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bitwright.graph.network import Value
from bitwright.store.batches import read_text
from bitwright.store.calls import Call, CalledModule
from bitwright.store.files import text_digest
from bitwright.store.folder_part import PipelinePart
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.pipeline import STEPS, Pipeline
from bitwright.store.sample_set import Feed, Samples, SamplesError, gather, pick
from bitwright.store.samples import holds_arrays, read_samples
from bitwright.store.source_error import SourceError
from bitwright.store.torch_module import CANNOT_TRACE, export_placed
from bitwright.store.weight_files import SAFETENSORS, find_weight_files

EXAMPLE_PROMPT = "a house by the sea"
DEFAULT_COUNT = 128  # samples; a prompt makes many, and every one costs a call of the network in float


def pipeline_source(folder: Path, part: PipelinePart, exports: Path) -> OnnxSource:
    """One model of the pipeline in `folder`, in float32, exported to `exports`/model.onnx. Raises SourceError.

    Inputs are called as in the pipeline's own call, and sizes are those that it makes by default; the batch is free
    where the model allows it.
    """
    digest = pipeline_digest(folder, part)
    pipeline = Pipeline.open(folder, part)
    example = _for_each_sample(pipeline, pipeline.calls(EXAMPLE_PROMPT, 0, most=1)[0])
    first = next(iter(example.tensors), "")
    module = CalledModule(pipeline.module, pipeline.function, example, "sample" if part.decodes else f"out_{first}")
    name, path = f"{folder}:{part.name}", exports / "model.onnx"
    notes = [f"{folder} holds a {type(pipeline.module).__name__}"]
    try:
        notes += _export(module.eval(), example, path)
    except SourceError as error:
        raise SourceError(f"{name}: {error}; give it as module:factory, or as an ONNX file of its own") from error
    source = OnnxSource.open(path)
    return replace(source, notes=(*notes, *source.notes), made_from=digest)


def _for_each_sample(pipeline: Pipeline, call: Call) -> Call:
    """The call with a number for each sample in place of a scalar (the step, say), if it does the same."""
    spread = call.spread()
    with torch.no_grad():
        found = []
        for one in (call, spread):
            bound = call.form.filled(one.tensors)
            try:
                found.append(tree_leaves(pipeline.function(*bound.args, **bound.kwargs)))
            except CANNOT_TRACE:
                return call
    pairs = zip(*found, strict=True)
    return spread if all(torch.equal(one, other) for one, other in pairs if isinstance(one, Tensor)) else call


def _export(module: CalledModule, example: Call, path: Path) -> list[str]:
    """Write the module to a file, with a free batch where it allows that, and say so where it does not."""
    batched = [name for name in example.tensors if not example.is_shared(name)]
    double = {n: torch.cat([held[:1]] * 2) if n in batched else held for n, held in example.tensors.items()}
    try:
        export_placed(module, double, {name: (0,) if name in batched else () for name in double}, path)
    except SourceError as error:
        export_placed(module, example.tensors, dict.fromkeys(example.tensors, ()), path)
        return [f"the batch is fixed to {example.rows}, because with a free one {error}"]
    return []


def pipeline_digest(folder: Path, part: PipelinePart) -> str:
    """What identifies such a model as a source: its configuration, its weight files, and which part it is."""
    inside = folder / part.folder
    name = SAFETENSORS if part.package == "transformers" else f"diffusion_pytorch_{SAFETENSORS}"
    files = find_weight_files(inside, name=name)
    return text_digest([files.digest((inside / "config.json").read_bytes()), part.name])


def pipeline_samples(
    folder: Path, part: PipelinePart, inputs: Sequence[Value], path: Path, count: int | None = None
) -> Samples:
    """`count` samples (None: 128) for a model with these inputs: what it reads while pictures of prompts are made.

    Every line of the text at `path` is a prompt; arrays hold the model's own inputs. Raises SamplesError and TextError
    for what cannot be used, SourceError for a pipeline that does not run.
    """
    if holds_arrays(path):
        return read_samples(path, inputs, count)
    pipeline = Pipeline.open(folder, part)
    if not pipeline.reads_prompts:
        raise SamplesError(
            f"{path}: the pipeline in {folder} makes pictures of noise alone and reads no prompts; give .npz files "
            f"with arrays for {', '.join(value.name for value in inputs)}"
        )
    prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    wanted = DEFAULT_COUNT if count is None else count
    pictures = _Pictures(pipeline, prompts)
    each = len(pictures.samples(0))
    used = min(len(prompts), -(-wanted // each))
    pictures.keep([place * len(prompts) // used for place in range(used)])

    def read(index: int) -> tuple[str, Feed]:
        picture, place = divmod(index, each)
        label = f"{path}, picture {picture + 1} of {used}, sample {place + 1} of {each}"
        made = pictures.samples(picture)[place]
        one_each = {value.name for value in inputs if len(value.shape or ()) == 1} & made.keys()
        return label, pick(label, made | {name: made[name].reshape(-1) for name in one_each}, inputs)

    said = f"what {part.name} reads while pictures of {used} of {len(prompts)} prompts are made"
    said += f", in {STEPS} steps each" if part.is_repeated else ""
    return gather(inputs, used * each, wanted, said, read)


@final
class _Pictures:
    """What a part reads for each prompt; kept, because every one takes many calls of large networks.

    The pipeline is let go of once there is a picture of every prompt.
    """

    def __init__(self, pipeline: Pipeline, prompts: Sequence[str]) -> None:
        self._pipeline: Pipeline | None = pipeline
        self._prompts = prompts
        self._made: dict[int, list[Feed]] = {}

    def keep(self, places: Sequence[int]) -> None:
        """Of all prompts these alone, the first of which is still the first."""
        self._prompts = [self._prompts[place] for place in places]
        self._let_go()

    def samples(self, picture: int) -> list[Feed]:
        """The samples of one picture, in the order of the steps. Raises SourceError for a part called in two ways."""
        if picture not in self._made:
            assert self._pipeline is not None
            self._made[picture] = self._run(self._pipeline, picture)
            self._let_go()
        return self._made[picture]

    def _let_go(self) -> None:
        if len(self._made) == len(self._prompts):
            self._pipeline = None

    def _run(self, pipeline: Pipeline, picture: int) -> list[Feed]:
        calls = pipeline.calls(self._prompts[picture], picture, None if pipeline.part.is_repeated else 1)
        for place in range(1, len(calls)):
            calls[place] = calls[place].sharing(calls[place - 1])
        made = [call.row(place) for call in calls for place in range(call.rows)]
        is_alike = all(call.form.fits(calls[0].form) for call in calls)
        if not is_alike or (self._made and len(made) != len(self._made[0])):
            raise SourceError(
                f"{pipeline.folder}: the pipeline calls its {pipeline.part.name} in ways that change from step to step "
                f"or from prompt to prompt, so that it is no one network; give it as package.module:factory, with a "
                f"--loader"
            )
        return made
