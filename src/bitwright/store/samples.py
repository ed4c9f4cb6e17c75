"""What the user brings to calibrate a network with, told apart by the ends of the files' names.

One .npz or .npy file, a folder of them, of pictures or of sounds, or text for a model that comes with a tokenizer.
Anything else needs a loader, which is a function of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bitwright.graph.network import Value
from bitwright.store.arrays import samples_from_array, samples_from_arrays
from bitwright.store.pictures import samples_from_pictures
from bitwright.store.processors import Processors
from bitwright.store.sample_set import Samples, SamplesError
from bitwright.store.sentences import samples_from_text
from bitwright.store.sounds import samples_from_sounds

__all__ = ["Samples", "SamplesError", "read_samples"]

ARRAYS = (".npz", ".npy")
TEXTS = (".txt", ".md", ".jsonl")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SOUNDS = (".wav",)
KINDS = (ARRAYS, PICTURES, SOUNDS)
ALLOWED = "one .npz or .npy file, a folder of .npz, .npy, picture or .wav files, or text (.txt, .md, .jsonl)"


def read_samples(
    path: Path,
    inputs: Sequence[Value],
    count: int | None = None,
    processors: Processors | None = None,
    length: int | None = None,
) -> Samples:
    """`count` samples (None: all) for a network with these inputs, spaced evenly over what is at `path`.

    `processors` are a Hugging Face folder's; `length` (in tokens) is for text alone. Raises SamplesError (TextError for
    text), here or while the samples are read, and ImportError where a picture needs a library that is not installed.
    """
    path, processors = Path(path), processors or Processors()
    if not inputs:
        raise SamplesError("the network has no inputs; there is nothing to calibrate")
    if path.is_dir():
        return _from_folder(path, inputs, count, processors, length)
    if not path.is_file():
        raise SamplesError(f"{path}: no such file or folder; give {ALLOWED}")
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return samples_from_array(path, inputs, count)
    if suffix in TEXTS:
        return _from_text(path, inputs, count, processors, length)
    for suffixes in (PICTURES, SOUNDS):
        if suffix in suffixes:
            return _from_files(suffixes, [path], inputs, count, processors)
    raise SamplesError(f"{path}: files that end in {suffix or 'nothing'} are not known; give {ALLOWED}, or a --loader")


def holds_arrays(path: Path) -> bool:
    """Whether it is an .npz or .npy file, or a folder with one in it."""
    return path.suffix.lower() in ARRAYS or any(file.suffix.lower() in ARRAYS for file in path.rglob("*"))


def _from_folder(
    path: Path, inputs: Sequence[Value], count: int | None, processors: Processors, length: int | None
) -> Samples:
    """By the one kind of files that a folder and the folders in it hold; what else lies there is said."""
    hidden = [file for file in path.rglob("*") if file.is_file()]
    files = sorted(file for file in hidden if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise SamplesError(f"{path}: an empty folder; give {ALLOWED}")
    kinds = {suffixes: [file for file in files if file.suffix.lower() in suffixes] for suffixes in KINDS}
    present = [suffixes for suffixes in KINDS if kinds[suffixes]]
    if len(present) > 1:
        first = ", ".join(kinds[suffixes][0].name for suffixes in present)
        raise SamplesError(f"{path}: holds files of several kinds ({first}); give a folder with one kind")
    if not present and any(file.suffix.lower() in TEXTS for file in files):
        return _from_text(path, inputs, count, processors, length)
    if not present:
        raise SamplesError(
            f"{path}: no file in it ends in a way that is known (found {files[0].name}); give {ALLOWED}, or a --loader"
        )
    found = kinds[present[0]]
    made = _from_files(present[0], found, inputs, count, processors)
    others = [file.name for file in files if file not in set(found)]
    if not others:
        return made
    return replace(made, preprocessing=f"{made.preprocessing}; {len(others)} other files not used ({others[0]} ...)")


def _from_files(
    kind: tuple[str, ...], paths: Sequence[Path], inputs: Sequence[Value], count: int | None, processors: Processors
) -> Samples:
    """Files of one of the KINDS."""
    if kind == ARRAYS:
        return samples_from_arrays(paths, inputs, count)
    if kind == PICTURES:
        return samples_from_pictures(paths, inputs, count, processors.pictures)
    return samples_from_sounds(paths, inputs, count, processors.sounds)


def _from_text(
    path: Path, inputs: Sequence[Value], count: int | None, processors: Processors, length: int | None
) -> Samples:
    if processors.tokenizer is None:
        raise SamplesError(
            f"{path}: text needs a tokenizer, and only a Hugging Face folder brings one; give .npz files with the "
            f"inputs {', '.join(value.name for value in inputs)}, or a --loader"
        )
    return samples_from_text(path, inputs, count, processors.tokenizer, length)
