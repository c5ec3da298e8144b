"""Maps from free parameters to orthonormal matrices, one method a file, and their names."""

import difflib

from orthojax.maps.cayley import cayley
from orthojax.maps.exponential import exponential
from orthojax.maps.householder import householder
from orthojax.maps.low_rank import low_rank
from orthojax.maps.polar import polar
from orthojax.maps.qr import qr
from orthojax.parameterization import Parameterization

MAPS = {
    "cayley": cayley,
    "exponential": exponential,
    "householder": householder,
    "polar": polar,
    "qr": qr,
}


def by_name(name: str | Parameterization) -> Parameterization:
    """The `Parameterization` called `name`; one that is given is returned as it is."""
    if isinstance(name, Parameterization):
        return name
    if name not in MAPS:
        near = difflib.get_close_matches(str(name), MAPS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"A map is a Parameterization or one of {', '.join(MAPS)}; {hint}Got {name!r}."
        )
    return MAPS[name]()
