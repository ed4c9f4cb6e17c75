"""config.json: what is refused before anything else is looked at."""

import builtins
import json
import sys

import pytest

from bitwright.store.hf_config import read_config, transformers_library
from bitwright.store.source import open_source
from bitwright.store.source_error import SourceError


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="nowhere: not a folder"):
        open_source(tmp_path / "nowhere")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no config.json"):
        open_source(tmp_path)


@pytest.mark.parametrize("text, message", [("{", "not JSON"), ("\xff", "not JSON"), ("[1]", "holds a list")])
def test_a_damaged_config_is_refused(llama, text, message):
    (llama / "config.json").write_text(text, encoding="latin1")
    with pytest.raises(SourceError, match=message):
        open_source(llama)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantized_model_is_refused(llama, key):
    edit_config(llama, **{key: {"quant_method": "gptq"}})
    with pytest.raises(SourceError, match=f"{key} says that this model is quantized already"):
        open_source(llama)


def test_a_quantized_part_is_refused(llama):
    edit_config(llama, text_config={"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(SourceError, match="quantized already"):
        open_source(llama)


def test_an_empty_quantization_entry_means_nothing(llama):
    edit_config(llama, quantization_config=None)
    open_source(llama)


@pytest.mark.parametrize("model_type", ["my_own", None, 3])
def test_an_unknown_model_type_is_refused(llama, model_type):
    edit_config(llama, model_type=model_type)
    with pytest.raises(SourceError, match="is unknown to transformers"):
        open_source(llama)


def test_a_model_of_another_library_gets_the_way_to_give_it(llama):
    edit_config(llama, model_type=None, _class_name="UNet2DConditionModel", _diffusers_version="0.35.0")
    with pytest.raises(
        SourceError, match="a UNet2DConditionModel of the diffusers library.*PIPELINE:.*package.module:factory"
    ):
        open_source(llama)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "my_own", "auto_map": {"AutoConfig": "own.MyConfig", "AutoModelForCausalLM": "own.MyModel"}},
        {"auto_map": {"AutoConfig": "own.MyConfig"}},
        {"auto_map": {"AutoModelForCausalLM": "own.MyModel"}},
        {"auto_map": {"AutoModelForCausalLM": "someone/repository--own.MyModel"}},
    ],
)
def test_code_of_the_folder_is_refused_and_never_run(llama, changes):
    (llama / "own.py").write_text("raise SystemExit('ran')")
    edit_config(llama, **changes)
    with pytest.raises(SourceError, match="such code is never run"):
        open_source(llama)


def test_code_that_has_joined_the_library_since_is_not_needed(llama):
    (llama / "modeling_llama.py").write_text("raise SystemExit('ran')")
    edit_config(llama, auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})
    assert type(open_source(llama).skeleton()).__module__ == "transformers.models.llama.modeling_llama"


@pytest.mark.parametrize("changes", [{"hidden_size": "many"}, {"num_attention_heads": 0}, {"hidden_size": -32}])
def test_impossible_settings_are_refused(llama, changes):
    edit_config(llama, **changes)
    with pytest.raises(SourceError, match="config.json"):
        open_source(llama)


def test_a_model_that_is_no_language_model_is_refused(llama):
    edit_config(llama, model_type="vit")
    with pytest.raises(SourceError, match="no model of type .vit. that continues a text"):
        open_source(llama)


def test_without_transformers_the_extra_is_named(llama, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ModuleNotFoundError("no", name=name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "transformers")
    with pytest.raises(ImportError, match=r'needs transformers: pip install "bitwright\[hf\]"'):
        transformers_library()
    with pytest.raises(ImportError, match="bitwright"):
        read_config(llama)
