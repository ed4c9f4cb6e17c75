"""High-bias absorption: exact where the assumption holds, and left alone where it cannot."""

from __future__ import annotations

import pytest
import torch

from bitwright.graph.channels import find_sites
from bitwright.transforms import Absorb, Moments, open_clips
from conformance.networks import Sketch, Toy, moved, run


def high(clip: bool = False, kernel: int = 1, relu: bool = True) -> Toy:
    """Two convolutions; the bias of the first is so high that half of its channels are always positive."""
    s = Sketch(3)
    weight, bias = s.weight(6, 3, 1, 1), torch.tensor([40.0, -1, 30, 0, 20, 50], dtype=torch.float64)
    x = s.add("Conv", s.input(None, 3, 5, 5), weight, s.constant(bias))
    if relu:
        x = s.add("Clip", x, s.number(0.0), s.number(45.0)) if clip else s.add("Relu", x)
    x = s.add("MaxPool", x, kernel_shape=[2, 2])
    weight = s.weight(4, 6, kernel, kernel)
    network, constants = s.done(s.add("Conv", x, weight, pads=[kernel // 2] * 4))
    return network, constants, {"q": torch.randn(3, 3, 5, 5, generator=s.generator, dtype=torch.float64).clamp(-3, 3)}


def moments_of(toy: Toy) -> dict[str, Moments]:
    first = toy[0].nodes[0]
    bias, weight = toy[1][first.inputs[2]], toy[1][first.inputs[1]]
    return {first.outputs[0]: Moments(bias, weight.abs().sum((1, 2, 3)))}  # inputs are within 3: a sure bound


@pytest.mark.parametrize("clip", [False, True])
def test_absorption_keeps_the_output_and_takes_the_constant_part_off(clip: bool) -> None:
    network, constants, inputs = high(clip)
    network, constants = open_clips(network, constants).apply(network, constants)
    toy = network, constants, inputs
    (site,) = find_sites(network, constants).sites
    found = Absorb().plan(network, constants, site, moments_of(toy))
    known = moments_of(toy)[site.value]
    assert found.reason == ""
    assert found.amount.tolist() == [
        max(0.0, float(m - 3 * d)) for m, d in zip(known.mean, known.deviation, strict=True)
    ]
    assert int((found.amount > 0).sum()) >= 3
    after, numbers = found.edit.apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) < 1e-12
    torch.testing.assert_close(found.moments.mean, known.mean - found.amount)
    bias = after.producers[site.value].inputs[2]
    torch.testing.assert_close(numbers[bias], constants[bias] - found.amount)


def test_without_a_relu_the_whole_mean_goes() -> None:
    network, constants, inputs = high(relu=False)
    (site,) = find_sites(network, constants).sites
    found = Absorb().plan(network, constants, site, moments_of((network, constants, inputs)))
    assert bool((found.moments.mean == 0).all())
    after, numbers = found.edit.apply(network, constants)
    assert moved(run(network, constants, inputs), run(after, numbers, inputs)) < 1e-12


def test_a_reader_that_pads_is_left_unless_asked_for_and_then_only_borders_move() -> None:
    network, constants, inputs = high(kernel=3)
    (site,) = find_sites(network, constants).sites
    moments = moments_of((network, constants, inputs))
    assert "pads" in Absorb().plan(network, constants, site, moments).reason
    found = Absorb(across_padding=True).plan(network, constants, site, moments)
    after, numbers = found.edit.apply(network, constants)
    (before,), (edited,) = run(network, constants, inputs), run(after, numbers, inputs)
    torch.testing.assert_close(edited[:, :, 1:-1, 1:-1], before[:, :, 1:-1, 1:-1])
    assert float((edited - before).abs().max()) > 1


def test_what_cannot_be_absorbed_says_why() -> None:
    network, constants, _ = high()
    (site,) = find_sites(network, constants).sites
    nothing = Absorb().plan(network, constants, site, {})
    assert nothing.edit.steps == () and "BatchNormalization" in nothing.reason
    low = {site.value: Moments(torch.zeros(6).double(), torch.ones(6).double())}
    assert "above zero" in Absorb().plan(network, constants, site, low).reason
    s = Sketch()
    x = s.add("LeakyRelu", s.conv(s.input(1, 3, 4, 4), 6, 3))
    network, constants = s.done(s.conv(x, 3, 6))
    (site,) = find_sites(network, constants).sites
    assert "LeakyRelu" in Absorb().plan(network, constants, site, {site.value: low.popitem()[1]}).reason
