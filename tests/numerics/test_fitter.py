"""The fitters in the conformance table, on every spec."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bitwright import numerics
from bitwright.numerics import Fitter, Spec
from conformance.fitters import CHECKS, FITTERS
from conformance.specs import SPECS


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("fitter", FITTERS.values(), ids=FITTERS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_fitter_conforms(check: Callable[[Fitter, Spec], None], fitter: Fitter, spec: Spec) -> None:
    check(fitter, spec)


def test_every_exported_fitter_is_in_the_table() -> None:
    exported = [vars(numerics)[name] for name in numerics.__all__]
    kinds = {one for one in exported if isinstance(one, type) and issubclass(one, Fitter)} - {Fitter}
    assert kinds == {type(fitter) for fitter in FITTERS.values()}
