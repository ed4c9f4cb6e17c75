"""Models of diffusion pipelines: their networks compute what diffusers does, their samples are what it hands them."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Value
from bitwright.store.calls import Call
from bitwright.store.folder_part import FolderPart, PipelinePart, pipeline_parts
from bitwright.store.network_source import ModelKind, kind_of, network_digest, open_network, read_samples_for
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.pipeline import STEPS, Pipeline
from bitwright.store.pipeline_source import pipeline_samples
from bitwright.store.sample_set import Feed, SamplesError
from bitwright.store.source_error import SourceError
from store.diffusion import PROMPTS, save_noise_pipeline, save_pipeline, with_hook

diffusers = pytest.importorskip("diffusers")
PARTS = ("unet", "text_encoder", "vae_decoder")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@dataclass(frozen=True)
class Given:
    folder: Path
    prompts: Path
    sources: dict[str, OnnxSource]

    def samples(self, part: str, count: int | None = None) -> list[Feed]:
        network = self.sources[part].network()
        made = read_samples_for(f"{self.folder}:{part}", network, self.prompts, count)
        return [made.at([place]).first() for place in range(made.count)]

    def run(self, part: str, feed: Feed) -> dict[str, Tensor]:
        return OnnxRunner(self.sources[part]).run(feed)

    def pipeline(self) -> Any:
        made = diffusers.DiffusionPipeline.from_pretrained(str(self.folder), local_files_only=True)
        made.set_progress_bar_config(disable=True)
        return made


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    root = tmp_path_factory.mktemp("diffusion")
    folder, prompts = save_pipeline(root), root / "prompts.txt"
    prompts.write_text("\n\n".join(PROMPTS))
    return Given(folder, prompts, {part: open_network(f"{folder}:{part}", root / part) for part in PARTS})


def picture(pipeline: Any, place: int, output: str) -> Any:
    """What the pipeline makes of a prompt, as it is called for samples."""
    noise = torch.Generator().manual_seed(place)
    return pipeline(PROMPTS[place], num_inference_steps=STEPS, generator=noise, output_type=output).images


@pytest.fixture(scope="module")
def steps(given: Given) -> list[tuple[Feed, Tensor]]:
    """Every sample that the U-Net sees in the first picture, and what it makes of it, seen from outside."""
    pipeline = given.pipeline()
    seen: list[tuple[Any, Any, Any]] = []
    with_hook(pipeline.unet, seen)
    picture(pipeline, 0, "latent")
    rows = []
    for (sample, step), kwargs, (output,) in seen:
        text = kwargs["encoder_hidden_states"]
        for row in (slice(0, 1), slice(1, 2)):  # without the prompt and with it
            feed = {"sample": sample[row], "timestep": step.reshape(1), "encoder_hidden_states": text[row]}
            rows.append((feed, output[row]))
    return rows


def test_samples_of_a_u_net_are_what_its_pipeline_hands_it(given: Given, steps: list[tuple[Feed, Tensor]]) -> None:
    found = given.samples("unet", len(steps))
    assert len(steps) == 2 * (STEPS + 1)  # this schedule takes its second step twice
    assert len({int(feed["timestep"]) for feed in found}) == STEPS
    for mine, (expected, _) in zip(found, steps, strict=True):
        assert mine.keys() == expected.keys()
        assert all(torch.equal(mine[name], expected[name]) for name in mine)


@pytest.mark.parametrize("size", [1, 4])
def test_the_file_computes_what_the_u_net_does_at_every_step(
    size: int, given: Given, steps: list[tuple[Feed, Tensor]]
) -> None:
    for place in range(0, len(steps) - size + 1, size):  # with size 4, two steps in one batch
        some = steps[place : place + size]
        feed = {name: torch.cat([one[name] for one, _ in some]) for name in some[0][0]}
        found = given.run("unet", feed)
        assert list(found) == ["out_sample"]
        torch.testing.assert_close(found["out_sample"], torch.cat([output for _, output in some]), **CLOSE)


def test_a_text_encoder_reads_every_prompt_once_and_computes_the_same(given: Given) -> None:
    seen: list[tuple[Any, Any, Any]] = []
    pipeline = given.pipeline()
    with_hook(pipeline.text_encoder, seen)
    found = given.samples("text_encoder")
    assert len(found) == len(PROMPTS)
    for feed, prompt in zip(found, PROMPTS, strict=True):
        pipeline.encode_prompt(prompt, "cpu", 1, False)
        ids, expected = seen[-1][0][0], seen[-1][2]
        assert torch.equal(feed["input_ids"], ids)
        made = given.run("text_encoder", feed)
        torch.testing.assert_close(made["last_hidden_state"], expected.last_hidden_state, **CLOSE)
        torch.testing.assert_close(made["pooler_output"], expected.pooler_output, **CLOSE)


def test_an_autoencoder_decodes_what_the_pipeline_made(given: Given) -> None:
    pipeline = given.pipeline()
    for place, feed in enumerate(given.samples("vae_decoder")):
        latent = picture(pipeline, place, "latent") / pipeline.vae.config.scaling_factor
        torch.testing.assert_close(feed["latent_sample"], latent)
        pixels = given.run("vae_decoder", feed)["sample"]
        expected = picture(pipeline, place, "pt")  # as numbers from 0 to 1
        torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1), torch.as_tensor(expected), rtol=1e-3, atol=1e-4)


def test_fewer_samples_take_fewer_prompts_from_all_of_the_text(given: Given) -> None:
    network = given.sources["unet"].network()
    made = read_samples_for(f"{given.folder}:unet", network, given.prompts, 30)
    assert made.count == 30
    assert made.preprocessing == "what unet reads while pictures of 2 of 3 prompts are made, in 10 steps each"
    texts = {made.at([place]).first()["encoder_hidden_states"].numpy().tobytes() for place in range(made.count)}
    assert len(texts) == 3  # of no prompt, and of the two
    every = read_samples_for(f"{given.folder}:unet", network, given.prompts)
    assert every.count == 2 * (STEPS + 1) * len(PROMPTS)


def test_arrays_are_the_inputs_themselves(given: Given, tmp_path: Path) -> None:
    shapes = {"sample": (2, 4, 8, 8), "encoder_hidden_states": (2, 16, 16)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "a.npz", timestep=np.array([3, 700]), **arrays)
    samples = read_samples_for(f"{given.folder}:unet", given.sources["unet"].network(), tmp_path / "a.npz")
    assert samples.first(2)["timestep"].tolist() == [3, 700]


def test_a_pipeline_of_noise_has_a_network_but_reads_no_prompts(given: Given, tmp_path: Path) -> None:
    folder = save_noise_pipeline(tmp_path / "noise")
    source = open_network(f"{folder}:unet", tmp_path / "made")
    assert tuple(source.network().inputs) == ("sample", "timestep")
    feed = {"sample": torch.randn(3, 3, 8, 8), "timestep": torch.tensor([0, 40, 999])}
    model = diffusers.UNet2DModel.from_pretrained(str(folder / "unet")).eval()
    with torch.no_grad():
        expected = model(**feed).sample
    torch.testing.assert_close(OnnxRunner(source).run(feed)["out_sample"], expected, **CLOSE)
    with pytest.raises(SamplesError, match=r"reads no prompts; give \.npz files with arrays for sample, timestep"):
        read_samples_for(f"{folder}:unet", source.network(), given.prompts)


def test_nothing_is_written_to_the_terminal(
    given: Given, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    source = open_network(f"{given.folder}:text_encoder", tmp_path)
    read_samples_for(f"{given.folder}:unet", given.sources["unet"].network(), given.prompts, 2).first()
    assert source.path.is_file()
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list


def test_parts_are_those_that_are_there(given: Given) -> None:
    assert {part.name for part in pipeline_parts(given.folder)} == set(PARTS)
    assert kind_of(f"{given.folder}:unet") is ModelKind.FOLDER
    digests = {network_digest(f"{given.folder}:{part}") for part in PARTS}
    assert len(digests) == len(PARTS)
    assert given.sources["unet"].digest() in digests


@pytest.mark.parametrize("name", ["", ":vae"])
def test_a_pipeline_without_a_part_that_it_has_is_told_which_there_are(name: str, given: Given) -> None:
    with pytest.raises(SourceError, match="holds several models; give one of .*:text_encoder, .*:unet, .*vae_decoder"):
        kind_of(f"{given.folder}{name}")


def test_a_model_of_the_library_alone_is_told_of_its_pipeline(given: Given) -> None:
    with pytest.raises(SourceError, match="UNet2DConditionModel of the diffusers library.*PIPELINE:unet"):
        kind_of(str(given.folder / "unet"))


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[]", "holds a list, not an object of settings")])
def test_a_damaged_index_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(SourceError, match=f"model_index.json: {said}"):
        FolderPart.named(f"{tmp_path}:unet")


def test_missing_weights_are_named_before_anything_is_loaded(given: Given, tmp_path: Path) -> None:
    folder = shutil.copytree(given.folder, tmp_path / "copy")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SourceError, match="unet: no weights found; diffusion_pytorch_model.safetensors"):
        open_network(f"{folder}:unet", tmp_path / "made")


def test_a_pipeline_of_an_unknown_class_is_refused(given: Given, tmp_path: Path) -> None:
    folder = shutil.copytree(given.folder, tmp_path / "copy")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))
    with pytest.raises(SourceError, match="diffusers cannot load the pipeline"):
        open_network(f"{folder}:unet", tmp_path / "made")


@pytest.mark.parametrize("part", ["pipeline", "unet"])
def test_code_in_the_folder_is_never_run(part: str, given: Given, tmp_path: Path) -> None:
    folder = shutil.copytree(given.folder, tmp_path / "copy")
    index = json.loads((folder / "model_index.json").read_text())
    place = folder if part == "pipeline" else folder / "unet"
    (place / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
    changed = {"_class_name": ["mine", "Mine"]} if part == "pipeline" else {"unet": ["mine", "Mine"]}
    (folder / "model_index.json").write_text(json.dumps(index | changed))
    with pytest.raises(SourceError):
        open_network(f"{folder}:text_encoder", tmp_path / "made")
    assert not (tmp_path / "ran").exists()


class Scaled(nn.Module):
    def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
        return x * by


class Runs:
    """In the place of the library's pipeline: calls its part with numbers that change, or not at all, or fails."""

    def __init__(self, part: nn.Module, numbers: tuple[float, ...], fails: bool = False) -> None:
        self.part, self.numbers, self.fails = part, numbers, fails

    def __call__(self, prompt: str) -> None:
        if self.fails:
            raise ValueError("an image is needed")
        for number in self.numbers:
            self.part(torch.ones(1, 2), by=number)


def pipeline_of(run: Runs) -> Pipeline:
    part = PipelinePart("unet", "unet", "diffusers", decodes=False)
    return Pipeline(Path("there"), part, run.part, run.part.forward, run)


def test_calls_are_recorded_and_then_no_more() -> None:
    module = Scaled()
    pipeline = pipeline_of(Runs(module, (2.0, 3.0)))
    calls = pipeline.calls("", 0)
    assert [call.form.fits(calls[0].form) for call in calls] == [True, False]
    assert len(pipeline.calls("", 0, most=1)) == 1
    assert "forward" not in vars(module)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Runs(Scaled(), ()), "without its unet"),
        (Runs(Scaled(), (), fails=True), r"prompt alone \(an image is needed\)"),
    ],
)
def test_a_pipeline_that_does_not_call_its_part_is_refused(run: Runs, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        pipeline_of(run).calls("", 0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pipeline]]:
    """What is opened in the place of a pipeline in a folder."""
    held: list[Pipeline] = []
    monkeypatch.setattr(Pipeline, "open", lambda folder, part: held[-1])
    yield held


def test_a_part_that_is_called_in_changing_ways_is_refused(given: Given, opened: list[Pipeline]) -> None:
    opened.append(pipeline_of(Runs(Scaled(), (2.0, 3.0))))
    with pytest.raises(SourceError, match="ways that change from step to step"):
        read_samples_for(f"{given.folder}:unet", given.sources["unet"].network(), given.prompts)


def test_tensors_that_stay_the_same_are_held_once() -> None:
    def reads(x: Tensor, text: Tensor) -> None: ...

    text = torch.randn(2, 3)
    first, second = (Call.of(reads, (torch.full((2, 1), step),), {"text": text.clone()}) for step in (1.0, 2.0))
    shared = second.sharing(first)
    assert shared.tensors["text"] is first.tensors["text"]
    assert shared.tensors["x"] is second.tensors["x"]


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (2, 1)])
def test_a_pipeline_is_let_go_of_once_all_pictures_are_made(
    count: int, kept: int, given: Given, opened: list[Pipeline]
) -> None:
    def alive() -> int:
        gc.collect()
        return sum(run() is not None for run in runs)

    opened.append(pipeline_of(Runs(Scaled(), (2.0,))))
    runs = [weakref.ref(opened[0]._run)]
    inputs = [Value("x", (None, 2), "float32")]
    samples = pipeline_samples(given.folder, opened[0].part, inputs, given.prompts, count)
    opened.clear()
    assert alive() == kept
    assert samples.first(2)["x"].shape == (count, 2)
    assert alive() == 0
