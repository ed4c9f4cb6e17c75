"""Model understanding: blocks, linears and how they depend on one another, read off the operators that run."""

from bitwright.graph.blocks import Call, Returned, TraceError, capture_call, find_blocks, read_return
from bitwright.graph.graph import Block, Graph, Linear, Outside, WeightView
from bitwright.graph.trace import trace
from bitwright.graph.watch import Enough, Watch, ignore, run_watched

__all__ = [
    "Block",
    "Call",
    "Enough",
    "Graph",
    "Linear",
    "Outside",
    "Returned",
    "TraceError",
    "Watch",
    "WeightView",
    "capture_call",
    "find_blocks",
    "ignore",
    "read_return",
    "run_watched",
    "trace",
]
