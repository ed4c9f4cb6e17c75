"""Parts of encoder-decoder models: their networks compute what transformers does, their samples are what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.store.folder_part import FolderPart, Part
from bitwright.store.network_source import ModelKind, kind_of, network_digest, open_network, read_samples_for
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import Samples, SamplesError
from bitwright.store.source_error import SourceError
from store.test_folder_source import WORDS, bert, save
from store.test_sounds import save as write_wav

TEXT = "this line and more .\nan encoder reads .\nthis encoder and this line and an encoder\nmore and more\n"


def t5() -> transformers.PreTrainedModel:
    """Relative positions, which the decoder counts from its past; its first token is 0, and it ends with 3."""
    torch.manual_seed(1)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": len(WORDS)}
    ends = {"decoder_start_token_id": 0, "eos_token_id": 3, "pad_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **ends)).eval()


def bart(**settings: int) -> transformers.PreTrainedModel:
    """Learned positions, 34 of them; every text begins with 3 and 7."""
    torch.manual_seed(2)
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 34}
    ends = {"decoder_start_token_id": 3, "eos_token_id": 4, "pad_token_id": 0, "bos_token_id": 2}
    model = transformers.BartForConditionalGeneration(
        transformers.BartConfig(vocab_size=len(WORDS), **layers, **sizes, **ends, forced_eos_token_id=None, **settings)
    )
    model.generation_config.forced_bos_token_id = 7
    return model.eval()


def whisper() -> transformers.PreTrainedModel:
    torch.manual_seed(3)
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_source_positions": 50, "vocab_size": 40}
    ends = {"decoder_start_token_id": 3, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
    config = transformers.WhisperConfig(num_mel_bins=8, max_target_positions=10, **layers, **sizes, **ends)
    return transformers.WhisperForConditionalGeneration(config).eval()


HEARING = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 8,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 1,
    "n_samples": 16000,
    "nb_max_frames": 100,
}
MAKERS = {"t5": t5, "bart": bart, "whisper": whisper}
CLASSES: dict[str, type[transformers.PreTrainedModel]] = {
    "t5": transformers.T5ForConditionalGeneration,
    "bart": transformers.BartForConditionalGeneration,
    "whisper": transformers.WhisperForConditionalGeneration,
}


@dataclass(frozen=True)
class Given:
    """A model's folder, texts or sounds for it, and its parts as sources."""

    folder: Path
    data: Path
    sources: dict[Part, OnnxSource]

    def name(self, part: Part) -> str:
        return f"{self.folder}:{part.value}"

    def samples(self, part: Part, count: int | None = None) -> Samples:
        return read_samples_for(self.name(part), self.sources[part].network(), self.data, count)


@pytest.fixture(scope="module", params=MAKERS)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "whisper":
        folder, data = save(root / "model", whisper(), HEARING), root / "sounds"
        data.mkdir()
        for place in range(3):
            noise = np.random.default_rng(place).integers(-9000, 9000, 3000).tolist()
            write_wav(data / f"{place}.wav", noise, rate=16000)
    else:
        folder, data = save(root / "model", MAKERS[request.param]()), root / "a.txt"
        data.write_text(TEXT)
    return Given(folder, data, {part: open_network(f"{folder}:{part.value}", root / part.value) for part in Part})


def model_of(folder: Path) -> transformers.PreTrainedModel:
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model: transformers.PreTrainedModel = CLASSES[kind].from_pretrained(folder).eval()
    return model


def test_three_files_write_what_the_model_does(given: Given) -> None:
    runners = {part: OnnxRunner(source) for part, source in given.sources.items()}
    model, encoded = model_of(given.folder), given.samples(Part.ENCODER).first(1)
    hidden = runners[Part.ENCODER].run(encoded)["last_hidden_state"]
    mask = {"encoder_attention_mask": encoded["attention_mask"]} if "attention_mask" in encoded else {}
    begins = [one for one in (model.config.decoder_start_token_id, model.generation_config.forced_bos_token_id) if one]
    tokens = torch.tensor([begins or [0]])
    begun = runners[Part.DECODER].run({"input_ids": tokens, "encoder_hidden_states": hidden, **mask})
    past = {name.replace("present", "past_key_values"): value for name, value in begun.items() if name != "logits"}
    logits = begun["logits"]
    wants = set(runners[Part.WITH_PAST].network.inputs)
    for _ in range(4):
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
        with torch.no_grad():
            expected = model(**encoded, decoder_input_ids=tokens).logits[:, -1:]
        feed = {"input_ids": tokens[:, -1:], **mask, **past}
        step = runners[Part.WITH_PAST].run({name: value for name, value in feed.items() if name in wants})
        logits = step["logits"]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        past |= {name.replace("present", "past_key_values"): held for name, held in step.items() if name != "logits"}


def generated(model: transformers.PreTrainedModel, encoded: Mapping[str, Tensor], most: int) -> list[int]:
    """The tokens of the library's own greedy search."""
    options = {"do_sample": False, "num_beams": 1, "max_length": most, "min_length": 0}
    return list(transformers.GenerationMixin.generate(model, **encoded, **options)[0].tolist())


def test_samples_of_a_decoder_are_what_the_model_writes(given: Given) -> None:
    samples, inputs = given.samples(Part.DECODER), given.samples(Part.ENCODER)
    model = model_of(given.folder)
    most = {"t5": 64, "bart": 34, "whisper": 10}[model.config.model_type]
    for place in range(samples.count):
        feed, encoded = samples.at([place]).first(), inputs.at([place]).first()
        expected = generated(model, encoded, most)
        assert feed["input_ids"][0].tolist() == expected[: feed["input_ids"].shape[1]]
        assert feed["input_ids"].shape[1] == len(expected) - 1
        with torch.no_grad():
            hidden = model.get_encoder()(**encoded).last_hidden_state
        torch.testing.assert_close(feed["encoder_hidden_states"], hidden)


def test_samples_with_a_past_are_steps_of_that(given: Given) -> None:
    whole, steps = given.samples(Part.DECODER), given.samples(Part.WITH_PAST)
    runner, decoder = OnnxRunner(given.sources[Part.WITH_PAST]), OnnxRunner(given.sources[Part.DECODER])
    assert steps.count == 4 * whole.count
    for place in range(steps.count):
        feed, text = steps.at([place]).first(), whole.at([place // 4]).first()
        behind = feed["past_key_values.0.decoder.key"].shape[2]
        assert feed["input_ids"].shape == (1, 1)
        if behind < text["input_ids"].shape[1]:
            assert feed["input_ids"].item() == text["input_ids"][0, behind].item()
            expected = decoder.run(text)["logits"][:, behind]
            torch.testing.assert_close(runner.run(feed)["logits"][:, 0], expected, rtol=1e-4, atol=1e-5)
    first, _, again = (steps.at([place]).first() for place in (0, 5, 0))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert steps.preprocessing.endswith("4 steps of them")
    assert given.samples(Part.WITH_PAST, 3).count == 3


def test_a_part_has_a_digest_of_its_own(given: Given) -> None:
    digests = {part: network_digest(given.name(part)) for part in Part}
    assert len(set(digests.values())) == 3
    assert given.sources[Part.DECODER].digest() == digests[Part.DECODER]


def test_arrays_hold_the_inputs_of_the_part_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", bart())
    name = f"{folder}:decoder"
    source = open_network(name, tmp_path)
    feed = {"input_ids": np.ones((2, 3), np.int64), "encoder_hidden_states": np.ones((2, 5, 16), np.float32)}
    np.savez(tmp_path / "s.npz", **feed, encoder_attention_mask=np.ones((2, 5), np.int64))
    samples = read_samples_for(name, source.network(), tmp_path / "s.npz")
    assert samples.count == 2
    with pytest.raises(SamplesError, match="encoder_attention_mask"):
        np.savez(tmp_path / "s.npz", **feed)
        read_samples_for(name, source.network(), tmp_path / "s.npz")


def test_names_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "model", bart())
    assert FolderPart.named(f"{folder}:decoder_with_past") == FolderPart(folder, Part.WITH_PAST)
    assert kind_of(f"{folder}:encoder") is ModelKind.FOLDER
    monkeypatch.chdir(tmp_path)
    Path("package").mkdir()  # of a user's own code, with a factory of this name
    assert FolderPart.named("package:encoder") is None
    assert kind_of("package:encoder") is ModelKind.MODULE
    with pytest.raises(SourceError, match="no such file or folder"):
        kind_of(f"{folder}:head")


def test_a_model_of_one_part_has_no_parts(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", bert("BertModel"))
    with pytest.raises(SourceError, match="a BertModel has no encoder and decoder; give the folder alone"):
        open_network(f"{folder}:encoder", tmp_path)


def test_a_decoder_that_no_token_begins_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", t5())
    for file in ("config.json", "generation_config.json"):
        told = json.loads((folder / file).read_text())
        told.pop("decoder_start_token_id")
        (folder / file).write_text(json.dumps(told))
    with pytest.raises(SourceError, match="no decoder_start_token_id in config.json"):
        open_network(f"{folder}:decoder", tmp_path)
