"""Shared fixtures, and shape checks on every annotated function of the package while tests run.

`Float[Tensor, "out in"]` is documentation in production and a check here: the import hook wraps each function of
`bitwright` as it is imported. BITWRIGHT_SHAPE_CHECK=0 turns the checks off, to time something or for a bare traceback.
"""

from __future__ import annotations

import os
from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parents[1]

if os.environ.get("BITWRIGHT_SHAPE_CHECK", "1") != "0":
    # The numeric tower: an int is accepted where a float is asked for, as mypy does.
    jaxtyping.install_import_hook("bitwright", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture(scope="session")
def bookllama() -> Path:
    """The shipped model folder, with calibration.txt and heldout.txt in it. Read-only: write to `tmp_path`."""
    return ROOT / "examples" / "bookllama"


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of further trained models and data, which is not part of the repository; skips where it is absent."""
    place = Path(os.environ.get("BITWRIGHT_ZOO", ROOT.parent / "shared" / "zoo"))
    if not (place / "models").is_dir():
        pytest.skip(f"no model zoo at {place}: set BITWRIGHT_ZOO to the folder that holds its models/ and data/")
    return place
