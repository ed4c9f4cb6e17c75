"""One table for language models: KL, time and memory of Bitwright beside plain GPTQ of two peers, same rows for all.

Each toolkit runs in a process of its own, one after the other, with its own Python (a peer that is not given is left
out). Run it on an otherwise idle machine.

    python benchmarks/language.py accuracy --model DIR --calibration TEXT --heldout TEXT --work DIR \
        [--llmcompressor PYTHON] [--gptqmodel PYTHON] [--bits 4 3 2]
    python benchmarks/language.py cost --model DIR --calibration TEXT --work DIR [--rows 128 --length 512] [...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "bitwright": "bitwright_preset.py",
    "bitwright tuned": "bitwright_tuned.py",
    "llm-compressor": "llmcompressor_gptq.py",
    "GPTQModel": "gptqmodel_gptq.py",
}
OURS = {"bitwright", "bitwright tuned"}


def run_json(command: list[str]) -> list[dict[str, Any]]:
    """The JSON lines at the end of what a command prints."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def make_rows(arguments: argparse.Namespace) -> Path:
    """The calibration rows that everybody gets."""
    rows = Path(arguments.work) / f"rows-{arguments.rows}x{arguments.length}.npy"
    rows.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "rows.py"), arguments.model, arguments.calibration, "-o", str(rows)]
    subprocess.run([*command, "--rows", str(arguments.rows), "--length", str(arguments.length)], check=True)
    return rows


def quantize(
    peer: str, python: str, arguments: argparse.Namespace, rows: Path, bits: int
) -> tuple[Path, dict[str, Any]]:
    """Run one toolkit; the dense folder and its figures."""
    out = Path(arguments.work) / f"{peer.replace(' ', '-')}-{bits}bit"
    script = str(HERE / "peers" / SCRIPTS[peer])
    command = [python, script, arguments.model, str(out), "--rows", str(rows), "--bits", str(bits), "--group", "128"]
    return out, run_json(command)[-1]


def accuracy(arguments: argparse.Namespace, pythons: dict[str, str]) -> None:
    """KL of every toolkit at every width, and ours over the best peer's."""
    rows = make_rows(arguments)
    print(f"{'bits':>4} {'toolkit':<15} {'KL':>8} {'p99.9':>8} {'top-1':>6} {'ppl':>8} {'seconds':>8} {'MiB':>6}")
    for bits in arguments.bits:
        found: dict[str, float] = {}
        for peer, python in pythons.items():
            folder, cost = quantize(peer, python, arguments, rows, bits)
            command = [sys.executable, str(HERE / "kl.py"), arguments.model, str(folder), "--text", arguments.heldout]
            score = run_json([*command, "--chars", "200000", "--length", str(arguments.length)])[-1]
            found[peer] = score["kl_mean"]
            figures = f"{score['kl_mean']:>8.5f} {score['kl_p999']:>8.4f} {score['top1_agreement']:>6.4f}"
            costs = f"{cost['seconds']:>8.1f} {cost['peak_anonymous_bytes'] / 2**20:>6.0f}"
            print(f"{bits:>4} {peer:<15} {figures} {score['perplexity']:>8.3f} {costs}", flush=True)
        others = [value for peer, value in found.items() if peer not in OURS]
        for peer in sorted(found.keys() & OURS) if others else ():
            print(f"     {peer}: {found[peer] / min(others):.3f} of the best peer's", flush=True)


def cost(arguments: argparse.Namespace, pythons: dict[str, str]) -> None:
    """Seconds and peak anonymous memory of every toolkit at 4 bits, and the ratios."""
    rows = make_rows(arguments)
    print(f"{'toolkit':<15} {'seconds':>9} {'peak MiB':>9}")
    figures: dict[str, tuple[float, float]] = {}
    for peer, python in pythons.items():
        _, one = quantize(peer, python, arguments, rows, 4)
        figures[peer] = one["seconds"], one["peak_anonymous_bytes"] / 2**20
        print(f"{peer:<15} {figures[peer][0]:>9.1f} {figures[peer][1]:>9.0f}", flush=True)
    ours = figures["bitwright"]
    for peer, (seconds, memory) in figures.items():
        if peer not in OURS:
            print(f"{peer}: {seconds / ours[0]:.2f}x our time, {memory / ours[1]:.2f}x our memory", flush=True)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("accuracy", "cost"))
    for name in ("model", "calibration", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--heldout", help="text to score on (accuracy)")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--llmcompressor", help="a Python with llmcompressor")
    parser.add_argument("--tuned", action="store_true", help="also what `bitwright tune` makes of it")
    parser.add_argument("--gptqmodel", help="a Python with GPTQModel")
    arguments = parser.parse_args()
    tuned = sys.executable if arguments.tuned else None
    given = {
        "bitwright": sys.executable,
        "bitwright tuned": tuned,
        "llm-compressor": arguments.llmcompressor,
        "GPTQModel": arguments.gptqmodel,
    }
    pythons = {peer: python for peer, python in given.items() if python}
    {"accuracy": accuracy, "cost": cost}[arguments.table](arguments, pythons)


if __name__ == "__main__":
    main()
