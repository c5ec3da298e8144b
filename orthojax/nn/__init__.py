"""Flax layers, only for what needs structure. Needs flax; nothing else in orthojax does.

`orthojax.nn.low_rank` and `orthojax.nn.refresh` are for NNX, `orthojax.nn.linen_low_rank` for
Linen.
"""

from orthojax.nn.attention import BoundedAttention
from orthojax.nn.convolution import BlockOrthogonalConv, CayleyConv, ReshapedConv, SkewConv
from orthojax.nn.flows import Flow, HouseholderFlow, InvertibleLinear, Planar, Sylvester
from orthojax.nn.isometric import Fold, IsometricDense
from orthojax.nn.linen import linen_low_rank
from orthojax.nn.low_rank import FrozenBasis, LowRank, low_rank, refresh
from orthojax.nn.normalization import BatchNorm, population_statistics
from orthojax.nn.recurrent import OrthogonalCell, Recurrent, UnitaryCell
from orthojax.nn.residual import Fixup, TwoLayer, persistent_stack
from orthojax.nn.stack import Repeat, Stack

__all__ = [
    "BatchNorm",
    "BlockOrthogonalConv",
    "BoundedAttention",
    "CayleyConv",
    "Fixup",
    "Flow",
    "Fold",
    "FrozenBasis",
    "HouseholderFlow",
    "InvertibleLinear",
    "IsometricDense",
    "LowRank",
    "OrthogonalCell",
    "Planar",
    "Recurrent",
    "Repeat",
    "ReshapedConv",
    "SkewConv",
    "Stack",
    "Sylvester",
    "TwoLayer",
    "UnitaryCell",
    "linen_low_rank",
    "low_rank",
    "persistent_stack",
    "population_statistics",
    "refresh",
]
