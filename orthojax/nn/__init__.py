"""Flax layers, only for what needs structure. Needs flax; nothing else in orthojax does.

`orthojax.nn.low_rank` and `orthojax.nn.refresh` are for NNX, `orthojax.nn.linen_low_rank` for
Linen.
"""

from orthojax.nn.linen import linen_low_rank
from orthojax.nn.low_rank import FrozenBasis, LowRank, low_rank, refresh

__all__ = ["FrozenBasis", "LowRank", "linen_low_rank", "low_rank", "refresh"]
