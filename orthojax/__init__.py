"""Orthogonal, Stiefel and low-rank weights as Optax gradient transformations."""

from orthojax import (
    adapters,
    attention,
    block_convolutions,
    convolutions,
    diagnostics,
    flows,
    fourier_convolutions,
    initializers,
    isometric,
    kernel_shaping,
    lipschitz,
    matrices,
    normalization,
    persistent,
    ranks,
    recurrent,
    rotations,
    shaping,
    skew_convolutions,
)
from orthojax.bases import Basis
from orthojax.decompositions import polar_express
from orthojax.diagnostics import orthogonality_error, orthogonality_errors
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
from orthojax.maps.unitary import unitary
from orthojax.matrices import MatrixAxes, label_by_path
from orthojax.parameterization import Parameterization
from orthojax.placement import shardings
from orthojax.tracing import call_order
from orthojax.transforms.distribute import distribute
from orthojax.transforms.landing import landing, pogo
from orthojax.transforms.manifold_muon import manifold_muon, orthogonalize_tangent
from orthojax.transforms.oialr import OIALRState, oialr
from orthojax.transforms.orthogonal import orthogonal
from orthojax.transforms.orthogonalize import muon, orthogonalize, scion
from orthojax.transforms.penalties import (
    add_double_soft_orthogonality,
    add_mutual_coherence,
    add_soft_orthogonality,
    add_spectral_norm,
    add_srip,
    spectral_cap,
)
from orthojax.transforms.reparameterize import ReparameterizeState, reparameterize
from orthojax.transforms.riemannian import retract, riemannian_gradient
from orthojax.transforms.spectral_sphere import spectral_sphere
from orthojax.transforms.vector_adam import ScaleByVectorAdamState, scale_by_vector_adam

__version__ = "0.1.0"
