"""Bitwright, measured exactly as the peers are: same rows, same clock, same memory, same dense float32 copy.

python benchmarks/peers/bitwright_preset.py MODEL_DIR OUT_DIR --rows ROWS.npy --bits 4 --group 128
"""

from __future__ import annotations

import math
import shutil
import time

import torch
from peer import Job, PeakMemory, start_job, write_dense

from bitwright import Batches, Recipe, Rule, open_source, quantize, tune
from bitwright.cli.memory import keep_freed_memory
from bitwright.recipe.presets import asymmetric


def main(job: Job, tuned: bool = False) -> None:
    """Quantize with the preset's settings, tune it where that is asked for, then write what its codes stand for."""
    rows = torch.tensor(job.rows)
    batches = Batches(rows, math.ceil(0.1 * len(rows)), f"benchmark {tuple(rows.shape)} {int(rows.sum())}")
    folder = job.out / "artifact"
    shutil.rmtree(folder, ignore_errors=True)
    keep_freed_memory()  # as the command line does
    with PeakMemory() as peak:
        started = time.monotonic()
        source = open_source(job.model)
        artifact = quantize(source, Recipe((Rule("*", asymmetric(job.bits, job.group)),)), folder, batches)
        if tuned:
            shutil.rmtree(job.out / "tuned", ignore_errors=True)
            artifact = tune(artifact, source, batches, job.out / "tuned")
        seconds = time.monotonic() - started
    bits = sum(weight["bits"] for weight in artifact.manifest["weights"])
    count = sum(math.prod(weight["shape"]) for weight in artifact.manifest["weights"])
    dense = {
        source.checkpoint_names(name)[0]: tensor
        for index, _ in artifact.parts()
        for name, tensor in artifact.parameters(index, torch.float32).items()
    }
    write_dense(job.model, job.out, dense.get)
    name = "bitwright tuned" if tuned else "bitwright"
    job.report(peer=name, seconds=seconds, peak_anonymous_bytes=peak.bytes, bits_per_weight=bits / count)


if __name__ == "__main__":
    main(start_job(__doc__ or ""))
