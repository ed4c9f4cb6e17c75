"""The command line as a program of its own: what reaches stdout and stderr, exit codes, Ctrl-C, missing extras."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from bitwright.version import __version__

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # even as a background job
START = "from bitwright.cli import main; main()"


def command(*arguments: object, before: str = "") -> list[str]:
    return [sys.executable, "-c", f"{before}{START}", *(str(argument) for argument in arguments)]


def program(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, before=before), capture_output=True, text=True, env=ENVIRONMENT)


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bitwright.cli", "--version"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0 and done.stdout.strip() == __version__


def test_json_is_all_of_stdout_and_progress_all_of_stderr(model: Path, text: Path, tmp_path: Path) -> None:
    options = ("-r", "w4a16", "-c", text, "--samples", 8, "--length", 32, "-o", tmp_path / "out")
    done = program("quantize", model, *options, "--to", "dense", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["blocks"] == 2
    lines = done.stderr.splitlines()
    assert lines[0].startswith("predicted:") and [line[:9] for line in lines[1:]] == ["block 1/2", "block 2/2"]


def test_a_user_error_is_one_paragraph(tmp_path: Path) -> None:
    done = program("plan", tmp_path / "nowhere", "-r", "w4a16")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_ctrl_c_keeps_finished_blocks(model: Path, text: Path, tmp_path: Path) -> None:
    options = ("-r", "w4a16", "-c", text, "--samples", 64, "--length", 32, "-o", tmp_path / "out")
    with subprocess.Popen(
        command("quantize", model, *options, before=LISTENING),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("block 1/2"):
                running.send_signal(signal.SIGINT)
                break
        rest = running.stderr.read()
    assert running.returncode == 130
    assert "same command again" in rest and "Traceback" not in rest
    assert (tmp_path / "out" / "blocks" / "00000.safetensors").is_file()
    again = program("quantize", model, *options, "--json")
    assert json.loads(again.stdout)["blocks_resumed"] >= 1


def test_a_missing_extra_is_named(model: Path) -> None:
    for module, extra in (("typer", "bitwright[cli]"), ("transformers", "bitwright[hf]")):
        done = program("plan", model, "-r", "w4a16", before=f"import sys; sys.modules[{module!r}] = None; ")
        assert done.returncode == 2, done.stderr
        assert f'pip install "{extra}"' in done.stderr and "Traceback" not in done.stderr


def test_a_library_that_is_there_but_broken_is_named_with_its_cause(model: Path, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms is missing')\n"
    )
    (tmp_path / "torchvision-0.99.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n"
    (tmp_path / "torchvision-0.99.0.dist-info" / "METADATA").write_text(metadata)
    done = program("plan", model, "-r", "w4a16", before=f"import sys; sys.path.insert(0, {str(tmp_path)!r}); ")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "RuntimeError: operator torchvision::nms is missing" in done.stderr
