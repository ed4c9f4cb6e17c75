"""Bitwright's preset, tuned end to end after that; all else as in bitwright_preset.py.

python benchmarks/peers/bitwright_tuned.py MODEL_DIR OUT_DIR --rows ROWS.npy --bits 4 --group 128
"""

from __future__ import annotations

from bitwright_preset import main
from peer import start_job

if __name__ == "__main__":
    main(start_job(__doc__ or ""), tuned=True)
