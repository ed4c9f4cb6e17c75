"""The ONNX file of a quantized network as it is delivered: where it lies, and how large it is."""

from __future__ import annotations

from pathlib import Path

from bitwright.export.onnx_forms import OnnxForm, export_onnx
from bitwright.store.files import file_digest, text_digest
from bitwright.store.network_artifact import MANIFEST, float_bytes
from bitwright.store.quantized import QuantizedNetwork

FILE = "model.onnx"


def export_to(network: QuantizedNetwork, folder: Path, form: OnnxForm = OnnxForm.STANDARD) -> Path:
    """The network as `folder`/model.onnx."""
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(network, file, form)
    return file


def exported_inside(network: QuantizedNetwork, form: OnnxForm = OnnxForm.STANDARD) -> Path:
    """The file in the artifact's export/FORM, written unless it is there and newer than the artifact."""
    file = network.folder / "export" / form.value / FILE
    if not file.is_file() or file.stat().st_mtime_ns < (network.folder / MANIFEST).stat().st_mtime_ns:
        export_to(network, file.parent, form)
    return file


def file_bytes(file: Path) -> int:
    """Size of a delivered file and of the data beside it."""
    return sum(path.stat().st_size for path in _files(file))


def delivered_digest(file: Path) -> str:
    """What identifies a delivered file: its contents and those of the data beside it."""
    return text_digest([file_digest(path) for path in _files(file)])


def stored_bytes(network: QuantizedNetwork) -> int:
    """Size of the artifact's weights in codes, and of the float file without what they stand for."""
    return (network.folder / "weights.safetensors").stat().st_size + float_bytes(network)


def _files(file: Path) -> list[Path]:
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.is_file() else [file]
