"""Plain GPTQ by llm-compressor: asymmetric groups, its recommended static activation order, head left alone.

Run it with a Python that has llmcompressor (written for 0.14.0.1 with compressed-tensors 0.19.0):

    python benchmarks/peers/llmcompressor_gptq.py MODEL_DIR OUT_DIR --rows ROWS.npy --bits 4 --group 128
"""

from __future__ import annotations

import time
from importlib.metadata import version

import torch
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationScheme,
    QuantizationStrategy,
    QuantizationType,
    dequantize,
    quantize,
)
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from peer import Job, PeakMemory, start_job, write_dense
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel


def recipe(job: Job) -> GPTQModifier:
    weights = QuantizationArgs(
        num_bits=job.bits,
        type=QuantizationType.INT,
        strategy=QuantizationStrategy.GROUP,
        group_size=job.group,
        symmetric=False,
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    return GPTQModifier(config_groups=groups, ignore=["lm_head"], actorder="static")


def decoded(model: PreTrainedModel, name: str) -> Tensor | None:
    """The float32 values that the codes, scales and zeros of the tensor stand for; None if not quantized.

    The model holds values already rounded to its own type. Codes come back from them exactly as they do when
    the peer packs a checkpoint; decoding them in float32 then adds no rounding of ours.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    scheme = getattr(module, "quantization_scheme", None)
    if leaf != "weight" or scheme is None:
        return None
    scale = module.weight_scale.detach().float()
    zero = module.weight_zero_point.detach().float()
    codes = quantize(module.weight.detach().float(), scale, zero, scheme.weights)
    return dequantize(codes, scale, zero, scheme.weights, dtype=torch.float32)


def main() -> None:
    job = start_job("Quantize with llm-compressor's GPTQ and write the dequantized model.")
    rows = Dataset.from_dict({"input_ids": job.rows, "attention_mask": [[1] * len(row) for row in job.rows]})
    with PeakMemory() as peak:
        began = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(job.model, dtype=job.dtype)
        loaded = time.perf_counter()
        oneshot(
            model=model,
            dataset=rows,
            recipe=recipe(job),
            num_calibration_samples=len(job.rows),
            max_seq_length=len(job.rows[0]),
            shuffle_calibration_samples=False,
        )
        finished = time.perf_counter()
    replaced = write_dense(job.model, job.out, lambda name: decoded(model, name))
    job.report(
        seconds=finished - loaded,
        load_seconds=loaded - began,
        peak_anonymous_bytes=peak.bytes,
        quantized_tensors=replaced,
        peer=f"llmcompressor {version('llmcompressor')}",
    )


if __name__ == "__main__":
    main()
