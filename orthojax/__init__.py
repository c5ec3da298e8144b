"""Orthogonal, Stiefel and low-rank weights as Optax gradient transformations."""

from orthojax import (
    diagnostics,
    initializers,
    isometric,
    kernel_shaping,
    matrices,
    normalization,
    persistent,
    ranks,
    shaping,
)
from orthojax.bases import Basis
from orthojax.decompositions import polar_express
from orthojax.diagnostics import orthogonality_error
from orthojax.factored import (
    Factored,
    absorb,
    basis_gradients,
    bind,
    materialize,
    size_report,
)
from orthojax.low_rank_training import OIALR
from orthojax.maps import MAPS, cayley, exponential, householder, low_rank, polar, qr
from orthojax.matrices import MatrixAxes, label_by_path
from orthojax.parameterization import Parameterization
from orthojax.placement import shardings
from orthojax.tracing import call_order
from orthojax.transforms.distribute import distribute
from orthojax.transforms.landing import landing, pogo
from orthojax.transforms.oialr import OIALRState, oialr
from orthojax.transforms.orthogonal import orthogonal
from orthojax.transforms.reparameterize import ReparameterizeState, reparameterize
from orthojax.transforms.riemannian import retract, riemannian_gradient
from orthojax.transforms.vector_adam import ScaleByVectorAdamState, scale_by_vector_adam

__version__ = "0.1.0"
