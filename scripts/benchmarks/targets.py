"""What the library is held to: a number for each row of the table, from the rows of a run."""

from typing import Any, NamedTuple

from benchmarks.lookups import OURS, Lookup, Row, against, leaves, rms, units, worst

_LARGE = ((1024, 1024), (512, 512))  # The first that was measured counts.
_TALL = ((1024, 64),)


class Target(NamedTuple):
    """`at_most` for what `measured` finds in the rows; None where the run has no such rows."""

    id: str
    what: str
    at_most: float
    unit: str
    measured: Lookup


_STEPS = {"group": "steps"}
_RIEMANNIAN = ("retract", "rebase_every=1")

TARGETS = (
    Target(
        "exponential",
        "exponential, value + gradient, norm 2.8",
        16,
        "mm",
        units(*_LARGE, group="maps", method="exponential", variant="expm"),
    ),
    Target(
        "exponential-error",
        "float32 error over 1e-6 (1 + norm / 4), norms to 64, torus blocks too",
        1,
        "",
        worst("over_bound", group="accuracy"),
    ),
    Target(
        "exponential-batch",
        "exponential, 64 x 64 x 64, value + gradient",
        18,
        "mm",
        units((64, 64, 64), group="maps", method="exponential", variant="expm"),
    ),
    Target(
        "exponential-rebase",
        "exponential with rebase_every=1, whole step",
        8,
        "mm",
        units(*_LARGE, **_STEPS, method="exponential", variant="rebase_every=1"),
    ),
    Target(
        "householder",
        "Householder, value + gradient, n = 1024",
        10.5,
        "mm",
        units((1024, 1024), group="maps", method="householder"),
    ),
    Target(
        "householder-tall",
        "Householder St(1024, 64), value + gradient, over torch",
        1 / 110,
        "",
        against(
            {"group": "maps", "method": "householder"},
            {"group": "maps", "method": "householder", "implementation": "torch"},
            *_TALL,
        ),
    ),
    Target(
        "cayley",
        "Cayley, value + gradient, n = 1024",
        4.8,
        "mm",
        units((1024, 1024), group="maps", method="cayley"),
    ),
    Target(
        "cayley-tall",
        "Cayley step on St(1024, 64), over geoopt",
        1 / 50,
        "",
        against(
            {**_STEPS, "method": "cayley"},
            {**_STEPS, "method": "cayley", "implementation": "geoopt"},
            *_TALL,
        ),
    ),
    Target(
        "qr",
        "QR retraction, whole Riemannian step",
        5,
        "u",
        units((512, 512), (1024, 1024), **_STEPS, method="qr", variant=_RIEMANNIAN),
    ),
    Target(
        "polar",
        "polar retraction, whole Riemannian step",
        5,
        "u",
        units((512, 512), (1024, 1024), **_STEPS, method="polar", variant=_RIEMANNIAN),
    ),
    Target(
        "pogo-cubic",
        "POGO, cubic, step",
        4.2,
        "u",
        units(*_LARGE, **_STEPS, method="pogo", variant="cubic"),
    ),
    Target(
        "pogo-quintic",
        "POGO, quintic, step",
        5,
        "u",
        units(*_LARGE, **_STEPS, method="pogo", variant="quintic"),
    ),
    Target(
        "pogo-law",
        "quintic one-step error over 5/8 (lr |S|)^6",
        1.1,
        "",
        worst("over_law", group="law", variant="quintic"),
    ),
    Target(
        "landing",
        "landing step",
        5,
        "u",
        units(*_LARGE, **_STEPS, method="landing"),
    ),
    Target(
        "pogo-pca",
        "POGO step at the size of its online PCA, over pogo-torch",
        0.75,
        "",
        against(
            {"group": "pca", "method": "pogo"},
            {"group": "pca", "method": "pogo", "implementation": "pogo"},
            (2000, 1500),
        ),
    ),
    Target(
        "batch",
        "1024 x 16 x 16, whole step, over pogo-torch",
        0.5,
        "",
        against(
            {**_STEPS, "variant": ("retract", "cubic", "quintic", "")},
            {**_STEPS, "method": "pogo", "implementation": "pogo"},
            (1024, 16, 16),
        ),
    ),
    Target(
        "polar-factor-5",
        "polar factor of a Gaussian 512 x 512, 15 products: rms error over optax's least",
        1,
        "",
        rms((512, 512), variant="5 steps", over="optax"),
    ),
    Target(
        "polar-factor-8",
        "its rms error after 8 steps",
        1.5e-2,
        "",
        rms((512, 512), variant="8 steps"),
    ),
    Target(
        "polar-factor-gram",
        "2048 x 512, Gram form over the plain one, 8 steps",
        0.6,
        "",
        against(
            {"group": "polar", "variant": "8 steps, Gram"},
            {"group": "polar", "variant": "8 steps", "implementation": OURS},
            (2048, 512),
        ),
    ),
    Target(
        "network",
        "training step, 8 layers of 1024, batch 8192, over unconstrained",
        1.25,
        "",
        units((8, 1024, 1024), group="network", unit="unconstrained"),
    ),
    Target(
        "leaves-compile",
        "time to compile for 100 leaves over that for 1",
        1.5,
        "",
        leaves("compile_seconds"),
    ),
)


def table(rows: list[Row]) -> list[dict[str, Any]]:
    """For each of `TARGETS` what was measured, and whether it is reached; None: not measured."""
    found = []
    for target in TARGETS:
        measured = target.measured(rows)
        found.append(
            {
                "id": target.id,
                "what": target.what,
                "at_most": target.at_most,
                "unit": target.unit,
                "measured": measured.value if measured else None,
                "of": measured.of if measured else None,
                "reached": measured.value <= target.at_most if measured else None,
            }
        )
    return found
