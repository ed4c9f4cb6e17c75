"""Plain GPTQ by GPTQModel at its defaults, asymmetric.

Run it with a Python that has gptqmodel (written for 7.6.0):

    python benchmarks/peers/gptqmodel_gptq.py MODEL_DIR OUT_DIR --rows ROWS.npy --bits 4 --group 128
"""

from __future__ import annotations

import os
import tempfile
import time
from importlib.metadata import version

# On two cores the peer gives its CPU pool one worker and then asks two of it.
if (os.cpu_count() or 1) <= 2:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from peer import Job, PeakMemory, start_job, write_dense
from torch import Tensor, nn


def decoded(model: nn.Module, name: str) -> Tensor | None:
    """The float32 values that the codes, scales and zeros of the tensor stand for; None if not quantized."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf != "weight" or not isinstance(module, TorchLinear):
        return None
    # The peer decodes in the type of the scales, which rounds the products: widen them first.
    module.scales = module.scales.float()
    return module.dequantize_weight().T.detach()


def write_decoded(job: Job, saved: str) -> int:
    """Write the dense copy of the checkpoint that the peer saved; the number of tensors it had quantized."""
    # Checkpoints hold float16 scales; the peer's own choice on a CPU would round them to bfloat16 here.
    loaded = GPTQModel.load(saved, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16)
    model: nn.Module = loaded.model
    return write_dense(job.model, job.out, lambda name: decoded(model, name))


def main() -> None:
    job = start_job("Quantize with GPTQModel and write the dequantized model.")
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in job.rows]
    with PeakMemory() as peak:
        began = time.perf_counter()
        settings = QuantizeConfig(bits=job.bits, group_size=job.group, sym=False)
        model = GPTQModel.load(str(job.model), settings, dtype=job.dtype)
        loaded = time.perf_counter()
        model.quantize(rows)
        finished = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=job.out.parent) as saved:
        model.save(saved)
        replaced = write_decoded(job, saved)
    job.report(
        seconds=finished - loaded,
        load_seconds=loaded - began,
        peak_anonymous_bytes=peak.bytes,
        quantized_tensors=replaced,
        peer=f"gptqmodel {version('gptqmodel')}",
    )


if __name__ == "__main__":
    main()
