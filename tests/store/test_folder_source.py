"""Models in Hugging Face folders as sources: their heads, and text, pictures and sounds as their samples."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Value
from bitwright.store.batches import TextError
from bitwright.store.folder_source import folder_source, is_causal
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.processors import Processors, read_processors
from bitwright.store.samples import SamplesError, read_samples
from bitwright.store.source_error import SourceError
from store.small_models import save_with_vision

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "encoder", "reads", "this", "line", "and", "more", "."]


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def save(folder: Path, model: transformers.PreTrainedModel, processor: dict[str, Any] | None = None) -> Path:
    """The model's folder, with a processor for pictures or sounds, or else with a tokenizer of a few words."""
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    return folder


def bert(kind: str, **settings: Any) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES, **settings)
    model: transformers.PreTrainedModel = getattr(transformers, kind)(config).eval()
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of two layers with a tokenizer of a few words."""
    return save(tmp_path_factory.mktemp("encoder"), bert("BertModel"))


@pytest.fixture(scope="module")
def source(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxSource:
    return folder_source(encoder, tmp_path_factory.mktemp("made"))


def inputs_of(source: OnnxSource) -> list[Value]:
    network = source.network()
    return [network.values[name] for name in network.inputs]


def text_of(folder: Path) -> Processors:
    return read_processors(folder, ["input_ids", "attention_mask"])


def test_lines_of_text_run_as_in_transformers(encoder: Path, source: OnnxSource, tmp_path: Path) -> None:
    assert {value.name for value in inputs_of(source)} == {"input_ids", "attention_mask", "token_type_ids"}
    (tmp_path / "a.txt").write_text("an encoder reads this line .\n\nand more\n")
    samples = read_samples(tmp_path / "a.txt", inputs_of(source), processors=text_of(encoder), length=9)
    feed = samples.first(2)
    assert samples.count == 2
    assert feed["attention_mask"].sum(1).tolist() == [8, 4]
    assert feed["input_ids"][1].tolist() == [2, 10, 11, 3, 0, 0, 0, 0, 0]
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        expected = model(**feed)
    found = OnnxRunner(source).run(feed)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_nothing_is_written_to_the_terminal(encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder_source(encoder, tmp_path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_digest_is_that_of_the_folder(encoder: Path, source: OnnxSource, tmp_path: Path) -> None:
    assert folder_source(encoder, tmp_path).digest() == source.digest()


def test_lengths_are_the_networks_or_the_users_or_the_tokenizers(encoder: Path, tmp_path: Path) -> None:
    processors = text_of(encoder)
    (tmp_path / "a.txt").write_text("this line and more . " * 30)
    free, fixed = Value("input_ids", (None, None), "int64"), Value("input_ids", (None, 6), "int64")
    assert read_samples(tmp_path / "a.txt", [free], processors=processors).first()["input_ids"].shape == (1, 32)
    assert read_samples(tmp_path / "a.txt", [fixed], processors=processors).first()["input_ids"].shape == (1, 6)
    for value, length, message in ((free, 33, "takes 1 to 32 tokens"), (fixed, 7, "takes 6 tokens and nothing else")):
        with pytest.raises(TextError, match=message):
            read_samples(tmp_path / "a.txt", [value], processors=processors, length=length)


def test_inputs_that_no_tokenizer_makes_ask_for_a_loader(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("this line")
    processors = text_of(encoder)
    with pytest.raises(SamplesError, match="write a --loader that makes position_ids"):
        read_samples(tmp_path, [Value("position_ids", (None, None), "int64")], processors=processors).first()
    with pytest.raises(SamplesError, match="text makes inputs"):
        read_samples(tmp_path, [Value("x", (None, 3, 8, 8), "float32")], processors=processors)


def test_causal_models_are_told_apart(encoder: Path, llama: Path, tmp_path: Path) -> None:
    assert is_causal(llama)
    assert is_causal(save_with_vision(tmp_path))
    assert not is_causal(encoder)


def test_missing_weights_and_a_missing_tokenizer_are_named(encoder: Path, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no usable tokenizer"):
        folder_source(llama, tmp_path / "out")
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match="lack encoder.layer.1.output.dense.weight"):
        folder_source(folder, tmp_path / "out")


def write_text(folder: Path) -> Path:
    (folder / "a.txt").write_text("an encoder reads this line .\n\nand more\n")
    return folder / "a.txt"


def test_the_head_that_the_folder_names_is_kept(tmp_path: Path) -> None:
    model = bert("BertForSequenceClassification", num_labels=3)
    folder = save(tmp_path / "m", model)
    source = folder_source(folder, tmp_path / "out")
    assert "holds a BertForSequenceClassification" in source.notes[0]
    feed = read_samples(write_text(tmp_path), inputs_of(source), processors=text_of(folder)).first(2)
    with torch.no_grad():
        expected = model(**feed).logits
    torch.testing.assert_close(OnnxRunner(source).run(feed)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("why", ["marked", "pre-training", "lacking"])
def test_a_head_that_is_not_for_use_is_left_out(why: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", bert("BertForPreTraining" if why == "pre-training" else "BertForMaskedLM"))
    if why != "pre-training":
        save(folder, bert("BertModel"))
        config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
        (folder / "config.json").write_text(json.dumps(config))
    if why == "marked":
        (folder / "modules.json").write_text("[]")
    source = folder_source(folder, tmp_path / "out")
    assert [*source.network().outputs] == ["last_hidden_state", "pooler_output"]
    assert ("lack what BertForMaskedLM needs" in source.notes[0]) == (why == "lacking")


def test_pictures_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=16, patch_size=8, num_labels=3, **SIZES)
    ).eval()
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    folder = save(tmp_path / "m", model, processor | {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]})
    source = folder_source(folder, tmp_path / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    samples = read_samples(tmp_path / "a.png", inputs_of(source), processors=read_processors(folder, ["pixel_values"]))
    expected = (torch.tensor(pixels) / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    feed = samples.first()
    torch.testing.assert_close(feed["pixel_values"][0], expected.permute(2, 0, 1), rtol=1e-5, atol=1e-6)
    assert "ViTImageProcessor" in samples.preprocessing
    with torch.no_grad():
        logits = model(**feed).logits
    torch.testing.assert_close(OnnxRunner(source).run(feed)["logits"], logits, rtol=1e-4, atol=1e-5)


def test_pictures_that_keep_their_shape_are_taken_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    model = transformers.ResNetForImageClassification(config).eval()
    size = {"shortest_edge": 32, "longest_edge": 96}
    folder = save(tmp_path / "m", model, {"image_processor_type": "DetrImageProcessor", "size": size})
    source = folder_source(folder, tmp_path / "out")
    (tmp_path / "pictures").mkdir()
    for name, width, height in (("a", 64, 32), ("b", 32, 64)):
        Image.fromarray(np.full((height, width, 3), 99, dtype=np.uint8)).save(tmp_path / "pictures" / f"{name}.png")
    processors = read_processors(folder, ["pixel_values"])
    for feed in read_samples(tmp_path / "pictures", inputs_of(source), processors=processors).batches(2):
        with torch.no_grad():
            expected = model(**feed).logits
        torch.testing.assert_close(OnnxRunner(source).run(feed)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_sizes_that_the_exported_network_does_not_follow_stay_fixed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        image_size=28, patch_size=14, out_indices=[1, 2], reshape_hidden_states=False, apply_layernorm=True, **SIZES
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    processor = {"image_processor_type": "DPTImageProcessor", "size": {"height": 28, "width": 28}}
    folder = save(tmp_path / "m", model, processor | {"keep_aspect_ratio": True, "ensure_multiple_of": 14})
    source = folder_source(folder, tmp_path / "out")
    assert "exported for inputs of one size" in source.notes[1]
    assert inputs_of(source)[0].shape == (None, 3, 28, 28)


def write_sound(path: Path, count: int, rate: int = 16000) -> Path:
    values = (3000 * np.sin(np.arange(count) / 9)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


def test_sounds_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=8,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        **SIZES,
    )
    model = transformers.Wav2Vec2ForCTC(config).eval()
    processor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
    folder = save(tmp_path / "m", model, processor)
    source = folder_source(folder, tmp_path / "out")
    processors = read_processors(folder, ["input_values"])
    for count in (4000, 5600):
        sound = write_sound(tmp_path / "a.wav", count)
        feed = read_samples(sound, inputs_of(source), processors=processors).first()
        values = feed["input_values"]
        assert values.shape == (1, count)
        assert float(values.std()) == pytest.approx(1, abs=1e-3)
        with torch.no_grad():
            expected = model(**feed).logits
        torch.testing.assert_close(OnnxRunner(source).run(feed)["logits"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SamplesError, match="8000 Hz, but the model hears 16000 Hz"):
        read_samples(write_sound(tmp_path / "b.wav", 400, 8000), inputs_of(source), processors=processors)
    fixed = [Value("input_values", (None, 3000), "float32")]
    assert read_samples(tmp_path / "a.wav", fixed, processors=processors).first()["input_values"].shape == (1, 3000)


def test_a_model_that_reads_and_writes_asks_for_its_parts(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=len(WORDS), d_model=16, num_layers=1, num_heads=2, d_ff=24, d_kv=8)
    folder = save(tmp_path / "m", transformers.T5ForConditionalGeneration(config))
    with pytest.raises(SourceError, match="give its parts, .*:encoder, .*:decoder and .*:decoder_with_past"):
        folder_source(folder, tmp_path / "out")


def test_inputs_that_nothing_makes_are_named(encoder: Path) -> None:
    with pytest.raises(SourceError, match=r"no text, picture or sound makes its inputs \(past_values\)"):
        read_processors(encoder, ["past_values"])
