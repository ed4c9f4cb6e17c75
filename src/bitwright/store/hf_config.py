"""The door to the transformers library, and the config.json of a model folder.

A folder is accepted only if the installed transformers itself can build the model: code that comes with a folder is
never run, and a folder that is quantized already is refused. All of this is known before any weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitwright.store.source_error import SourceError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

QUANTIZED_KEYS = ("quantization_config", "compression_config")
# what transformers raises when it computes with settings that make no sense
LIBRARY_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


def transformers_library() -> ModuleType:
    """The transformers library. Raises ImportError that names the extra if it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        message = f'reading a Hugging Face folder needs {error.name}: pip install "bitwright[hf]"'
        raise ImportError(message, name=error.name) from error
    return transformers


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers from writing to the terminal."""
    logs = transformers_library().utils.logging
    was_on, level = logs.is_progress_bar_enabled(), logs.get_verbosity()
    logs.disable_progress_bar()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if was_on:
            logs.enable_progress_bar()


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in ``folder``/config.json. Raises SourceError if it is absent, unusable or quantized."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: not a folder; give the folder that holds config.json and the weights.")
    file = folder / "config.json"
    if not file.is_file():
        raise SourceError(f"{folder}: no config.json in it; give the folder that holds config.json and the weights.")
    fields = read_fields(file)
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        for key in QUANTIZED_KEYS:
            if part.get(key) is not None:
                raise SourceError(
                    f"{file}: {key} says that this model is quantized already; a source must have plain float weights. "
                    f"Start from the model that it was made from."
                )
    transformers = transformers_library()
    model_type = fields.get("model_type")
    if "_diffusers_version" in fields:
        raise SourceError(
            f"{file}: a {fields.get('_class_name')} of the diffusers library, whose inputs no file says; give the "
            f"pipeline's folder and its part (PIPELINE:{folder.name}), or package.module:factory with a --loader"
        )
    if model_type not in transformers.CONFIG_MAPPING:
        if custom_classes(fields):
            raise custom_code(file, f"model type {model_type!r} is unknown to transformers {transformers.__version__}")
        raise SourceError(
            f"{file}: model type {model_type!r} is unknown to transformers {transformers.__version__}. "
            f"Check the file, or install a transformers that knows this type."
        )
    config = _parse_config(folder, file)
    check_not_custom(config, "AutoConfig", type(config).__name__, file)
    return config


def check_not_custom(config: PreTrainedConfig, role: str, library_class: str, file: Path) -> None:
    """Raises SourceError if the folder's own code, not ``library_class``, is meant to play ``role``.

    Many folders keep the code from before their model joined the library; it then has the library's class name.
    """
    wanted = custom_classes(config.to_dict()).get(role, library_class)
    if wanted.rpartition(".")[2] != library_class:
        raise custom_code(file, f"auto_map asks for {wanted}, and the class in transformers is {library_class}")


def auto_class(config: PreTrainedConfig) -> Any | None:
    """Of transformers' automatic classes for models that read and write text, the one that makes this model.

    That is the one whose class `architectures` names; a model that reads pictures or sound, too, is then made whole,
    not its text part alone. None where neither knows the type.
    """
    transformers = transformers_library()
    found = [
        auto
        for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForMultimodalLM)
        if type(config) in auto._model_mapping
    ]
    named = [auto for auto in found if auto._model_mapping[type(config)].__name__ in (config.architectures or ())]
    return next(iter(named + found), None)


def custom_classes(fields: dict[str, object]) -> dict[str, str]:
    """Role -> class, as far as the folder brings its own code ("auto_map")."""
    found = fields.get("auto_map")
    return {role: name for role, name in found.items() if isinstance(name, str)} if isinstance(found, dict) else {}


def custom_code(file: Path, reason: str) -> SourceError:
    """The error for a folder whose model needs the folder's own code."""
    return SourceError(
        f"{file}: this model needs code from its own folder ({reason}); such code is never run. "
        f"Use a version of the model that the transformers library supports itself."
    )


def read_fields(file: Path) -> dict[str, object]:
    """The settings in a JSON file of a model's folder. Raises SourceError for one that is damaged."""
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: not JSON ({error}). Download it again.") from error
    if not isinstance(fields, dict):
        raise SourceError(f"{file}: holds a {type(fields).__name__}, not an object of settings. Download it again.")
    return fields


def _parse_config(folder: Path, file: Path) -> PreTrainedConfig:
    from huggingface_hub.errors import StrictDataclassError

    auto = transformers_library().AutoConfig
    try:
        config: PreTrainedConfig = auto.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (StrictDataclassError, OSError, *LIBRARY_ERRORS) as error:
        raise SourceError(f"{file}: transformers does not accept it ({error}). Correct the setting.") from error
    return config
