"""Encoders in Hugging Face folders as sources, and text as their samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.graph.network import Value
from bitwright.store.batches import TextError
from bitwright.store.encoder_source import encoder_source, is_causal, read_tokenizer
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.samples import SamplesError, read_samples
from bitwright.store.source_error import SourceError
from store.small_models import save_with_vision

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "encoder", "reads", "this", "line", "and", "more", "."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder of two layers with a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxSource:
    return encoder_source(encoder, tmp_path_factory.mktemp("made"))


def inputs_of(source: OnnxSource) -> list[Value]:
    network = source.network()
    return [network.values[name] for name in network.inputs]


def test_lines_of_text_run_as_in_transformers(encoder: Path, source: OnnxSource, tmp_path: Path) -> None:
    assert {value.name for value in inputs_of(source)} == {"input_ids", "attention_mask", "token_type_ids"}
    (tmp_path / "a.txt").write_text("an encoder reads this line .\n\nand more\n")
    samples = read_samples(tmp_path / "a.txt", inputs_of(source), tokenizer=read_tokenizer(encoder), length=9)
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
    encoder_source(encoder, tmp_path)
    assert tuple(capfd.readouterr()) == ("", "")


def test_the_digest_is_that_of_the_folder(encoder: Path, source: OnnxSource, tmp_path: Path) -> None:
    assert encoder_source(encoder, tmp_path).digest() == source.digest()


def test_lengths_are_the_networks_or_the_users_or_the_tokenizers(encoder: Path, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(encoder)
    (tmp_path / "a.txt").write_text("this line and more . " * 30)
    free, fixed = Value("input_ids", (None, None), "int64"), Value("input_ids", (None, 6), "int64")
    assert read_samples(tmp_path / "a.txt", [free], tokenizer=tokenizer).first()["input_ids"].shape == (1, 32)
    assert read_samples(tmp_path / "a.txt", [fixed], tokenizer=tokenizer).first()["input_ids"].shape == (1, 6)
    for value, length, message in ((free, 33, "takes 1 to 32 tokens"), (fixed, 7, "takes 6 tokens and nothing else")):
        with pytest.raises(TextError, match=message):
            read_samples(tmp_path / "a.txt", [value], tokenizer=tokenizer, length=length)


def test_inputs_that_no_tokenizer_makes_ask_for_a_loader(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("this line")
    tokenizer = read_tokenizer(encoder)
    with pytest.raises(SamplesError, match="write a --loader that makes position_ids"):
        read_samples(tmp_path, [Value("position_ids", (None, None), "int64")], tokenizer=tokenizer).first()
    with pytest.raises(SamplesError, match="text makes inputs"):
        read_samples(tmp_path, [Value("x", (None, 3, 8, 8), "float32")], tokenizer=tokenizer)


def test_causal_models_are_told_apart(encoder: Path, llama: Path, tmp_path: Path) -> None:
    assert is_causal(llama)
    assert is_causal(save_with_vision(tmp_path))
    assert not is_causal(encoder)


def test_missing_weights_and_a_missing_tokenizer_are_named(encoder: Path, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no usable tokenizer"):
        encoder_source(llama, tmp_path / "out")
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match="lack encoder.layer.1.output.dense.weight"):
        encoder_source(folder, tmp_path / "out")
