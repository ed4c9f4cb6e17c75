"""Ways to choose codes. A name exported here is what a recipe may ask for; there is no other registry."""

from bitwright.solvers.adaquant import AdaQuant
from bitwright.solvers.adaround import AdaRound
from bitwright.solvers.brecq import Brecq
from bitwright.solvers.feedback import Feedback, Groups, Importance
from bitwright.solvers.learning import Schedule
from bitwright.solvers.nearest import Nearest
from bitwright.solvers.prepared import Order, Prepared, prepare
from bitwright.solvers.qdrop import QDrop
from bitwright.solvers.reconstruction import (
    Activation,
    BlockSolver,
    Choice,
    Piece,
    Progress,
    Reconstructed,
    Reconstruction,
    RoundedWeight,
    Samples,
    Weighting,
)
from bitwright.solvers.refine import refine
from bitwright.solvers.solver import Problem, Solution, Solver, in_rows, output_loss, rounding_loss
from bitwright.solvers.straight import straight_through
from bitwright.solvers.target import Corrections, Strength, drift_solution, input_correction

__all__ = [
    "Activation",
    "AdaQuant",
    "AdaRound",
    "BlockSolver",
    "Brecq",
    "Choice",
    "Corrections",
    "Feedback",
    "Groups",
    "Importance",
    "Nearest",
    "Order",
    "Piece",
    "Prepared",
    "Problem",
    "Progress",
    "QDrop",
    "Reconstructed",
    "Reconstruction",
    "RoundedWeight",
    "Samples",
    "Schedule",
    "Solution",
    "Solver",
    "Strength",
    "Weighting",
    "drift_solution",
    "in_rows",
    "input_correction",
    "output_loss",
    "prepare",
    "refine",
    "rounding_loss",
    "straight_through",
]
