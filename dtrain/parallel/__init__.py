"""Data parallelism whose bits do not depend on the number of ranks.

May import `dtrain.comm` and what is below. Read `tree.py` (the fixed order of summation), then `naive.py`
(all of DistributedDataParallel in a page, slow), then `exchange.py` (how ranks meet), `reducer.py` and
`distributed.py`; for SyncBatchNorm `lockstep.py` and `coupled.py`.
"""

from dtrain.parallel.diloco import DiLoCo
from dtrain.parallel.distributed import DistributedDataParallel
from dtrain.parallel.ledger import Divergence, Ledger
from dtrain.parallel.naive import NaiveDistributedDataParallel
from dtrain.parallel.zero import ZeroRedundancyOptimizer

__all__ = [
    "DiLoCo",
    "DistributedDataParallel",
    "Divergence",
    "Ledger",
    "NaiveDistributedDataParallel",
    "ZeroRedundancyOptimizer",
]
