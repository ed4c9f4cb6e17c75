"""One HTML page about one artifact folder.

`write_report` reads the JSON files that a run and an evaluation left behind and nothing else: no tensor, no model, no
network. Reading is `read.py` (untrusted JSON into the records of `records.py`), every figure that must be computed is
`summary.py` and `changes.py`, and `page.py` places the result in the template, which only draws.
"""

from bitwright.report.page import write_report

__all__ = ["write_report"]
