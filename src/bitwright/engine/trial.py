"""What a network would come to if it were quantized now: the quick answer that edits are judged by.

Few samples make the ranges, weights are rounded to nearest, and the noise of the outputs on held-out samples is what
counts. All drafts of one network are measured alike, so the comparison holds even where the run itself does better.
"""

from __future__ import annotations

from typing import final

from bitwright.calib import Auto, Average
from bitwright.engine.judge import BATCH, Judge, best_ranges, held_out
from bitwright.engine.layer import nearest
from bitwright.engine.observe import is_held_out, observe
from bitwright.execute.onnx_runner import OnnxRunner
from bitwright.recipe.network import NetworkRecipe, plan_network
from bitwright.store.onnx_source import OnnxSource
from bitwright.store.sample_set import Samples

OBSERVED = 64  # samples that make the ranges of a trial
RULES = (Auto(), Auto(average=Average.NOISE))


@final
class Trial:
    """Held-out samples that judge drafts of one network, and the samples that make their ranges."""

    def __init__(self, source: OnnxSource, recipe: NetworkRecipe, samples: Samples) -> None:
        self.source, self.recipe = source, recipe
        makers = [place for place in range(samples.count) if not is_held_out(place)]
        few = len(makers) < (samples.stacking.fixed or 1)
        self.samples = (samples if few else samples.at(makers)).dealt(OBSERVED, BATCH)
        self._judge = Judge(OnnxRunner(source), held_out(samples))

    def noise(self, draft: OnnxSource) -> float:
        """Noise over signal of the outputs of a draft, against those of the network as it came."""
        runner = OnnxRunner(draft)
        plan = plan_network(runner.network, self.recipe)
        held = plan.placement.sources(runner.network)
        values = list(dict.fromkeys(value for some in held.values() for value in some))
        observed = observe(runner, values, self.samples.batches(BATCH))
        nodes = {node.name: node for node in runner.network.nodes}
        rounded = {}
        for step in plan.weights:
            weight = draft.read([step.name])[step.name]
            rounded[step.name] = nearest(nodes[step.nodes[0]], step, weight, self.recipe.solver).dequantize()
        runner = runner.with_constants(rounded)
        return min(noise for _, noise in best_ranges(plan, runner, observed, RULES, self._judge).tried)
