"""The site: its code runs, its links lead somewhere, and nothing public is missing from it."""

import importlib.util
import inspect
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import pytest

import orthojax
import orthojax.nn
from orthojax import examples

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
HOWTO = sorted((DOCS / "howto").glob("*.md"))
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in DOCS.rglob("*.md") if "_build" not in p.parts),
]
# Sizes of the first code cells of the tutorials, for a few steps.
SMALL = {
    "one_line": {"DEPTH": 2, "STEPS": 3},
    "which_map": {"STEPS": 2},
    "oialr_vit": {"STEPS": 4, "DELAY": 2, "EVERY": 2},
    "thousand_layers": {"DEPTH": 6, "WIDTH": 8, "STEPS": 2},
    "your_own_map": {"STEPS": 2},
}

# What users reach by the names of `orthojax` alone.
INTERNAL = {
    *("bases", "batches", "examples", "factored", "low_rank_training", "moments"),
    *("parameterization", "persistent", "placement", "sharding", "tracing"),
}


def cells(path, kind):
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def text_of(path):
    """The Markdown of a page or a notebook."""
    if path.suffix == ".ipynb":
        return "\n\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    return path.read_text()


@pytest.mark.slow  # The build of the site runs them too.
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_every_tutorial_runs(path):
    matplotlib.use("Agg")
    names, small = {}, SMALL[path.stem]
    try:
        for cell in cells(path, "code"):
            source = re.sub(r"(?m)^( *)%.*", r"\1pass", "".join(cell["source"]))
            exec(compile(source, path.name, "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                assert small.keys() <= names.keys()
                names |= small
    finally:
        plt.close("all")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_no_tutorial_carries_outputs(path):
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells(path, "code"))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            p, id=p.stem, marks=() if p.stem in ("index", "linen", "nnx") else pytest.mark.slow
        )
        for p in (*HOWTO, DOCS / "index.md")
    ],
)
def test_the_python_of_a_page_runs(path, tmp_path):
    if path.stem == "equinox" and importlib.util.find_spec("equinox") is None:
        pytest.skip("Equinox comes with the extra `docs`.")
    names = {"directory": tmp_path}
    if path.stem in ("index", "migrating"):  # The reader's own.
        names["params"] = {"layer": {"kernel": jnp.eye(4)}, "hidden_0": {"kernel": jnp.eye(4)}}
        names["loss"] = lambda params, batch: jnp.sum(params["hidden_0"]["kernel"] ** 3)
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert blocks or path.stem == "tpu_pods"
    if path.stem == "index":
        trained, _ = names["step"](names["params"], names["state"], None)
        assert orthojax.orthogonality_error(trained["hidden_0"]["kernel"]) < 1e-6


@pytest.mark.slow
def test_the_tour_visits_every_stop(capsys, monkeypatch):
    monkeypatch.setattr(orthojax, "MAPS", {"qr": orthojax.qr})
    examples.main(["--steps=3"])
    printed = capsys.readouterr().out
    assert all(f"\n{number}. " in printed for number in range(1, len(examples.STOPS) + 1))


def anchors(path):
    """Those of the headings of a page, as GitHub and MyST make them."""
    heads = re.findall(r"(?m)^#+ (.*)", re.sub(r"(?s)```.*?```", "", text_of(path)))
    plain = lambda head: re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-")
    return set(map(plain, heads))


@pytest.mark.parametrize("path", PAGES + TUTORIALS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"(?s)```.*?```|`[^`]*`", "", text_of(path))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name} links to {link}"
        assert not anchor or anchor in anchors(file), f"{path.name} links to {link}"


def documented():
    """{name in the reference}, and {module that it has as a whole}."""
    text = "\n".join(p.read_text() for p in (DOCS / "api").glob("*.md"))
    entries = set(re.findall(r"\.\. auto(?:function|class|data):: (\S+)", text))
    return entries, set(re.findall(r"\.\. automodule:: (\S+)", text)), text


def test_everything_public_is_in_the_reference():
    entries, modules, text = documented()
    for package in (orthojax, orthojax.nn):
        for name, value in vars(package).items():
            full = f"{package.__name__}.{name}"
            if name.startswith("_") or name in ("transforms", "maps", "nn"):
                continue
            if not inspect.ismodule(value):
                ours = getattr(value, "__module__", "").startswith("orthojax")
                whole = ours and value.__module__ in modules
                assert full in entries or whole or f"`{full}`" in text, full
            elif package is orthojax:
                # Modules of functions that belong to users have pages; others are internal.
                uses = any(e.startswith(f"{full}.") for e in entries)
                assert full in modules or uses or name in INTERNAL, full


def test_every_page_of_the_reference_names_things_that_exist():
    entries, modules, _ = documented()
    for name in modules:
        importlib.import_module(name)
    for name in entries:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_figure_is_in_the_gallery():
    gallery = (DOCS / "gallery.md").read_text()
    for figure in (DOCS / "figures").glob("*.png"):
        assert f"figures/{figure.name}" in gallery, figure.name
    configs = re.findall(r"`CONFIG/(\w+)\.py", gallery)
    assert all((ROOT / "experiments" / "configs" / f"{name}.py").exists() for name in configs)


def test_jax_is_as_it_was():
    """Tutorials switch float64 on for a moment only."""
    assert jnp.zeros(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64
