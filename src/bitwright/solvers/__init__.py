"""Ways to choose codes. A name exported here is what a recipe may ask for; there is no other registry."""

from bitwright.solvers.feedback import Feedback, Groups, Importance
from bitwright.solvers.nearest import Nearest
from bitwright.solvers.prepared import Order, Prepared, prepare
from bitwright.solvers.refine import refine
from bitwright.solvers.solver import Problem, Solution, Solver, in_rows, output_loss, rounding_loss
from bitwright.solvers.target import Corrections, Strength, drift_solution, input_correction

__all__ = [
    "Corrections",
    "Feedback",
    "Groups",
    "Importance",
    "Nearest",
    "Order",
    "Prepared",
    "Problem",
    "Solution",
    "Solver",
    "Strength",
    "drift_solution",
    "in_rows",
    "input_correction",
    "output_loss",
    "prepare",
    "refine",
    "rounding_loss",
]
