"""Sphinx builds the site by this: sphinx-build -W --keep-going -b html docs docs/_build/html"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
# For this process and for the kernels that execute the tutorials.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tutorials compile much and run little.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import orthojax

project = "orthojax"
author = "The orthojax authors"
copyright = f"{author}, Apache-2.0"
version = release = orthojax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_build"]
nitpicky = True
# Links to other packages would need their inventories, from the network, at every build.
nitpick_ignore_regex = [
    (r"py:.*", r"(jax|Array|optax|chex|flax|nnx|numpy|np|collections|typing|pathlib)\b.*"),
    (r"py:.*", r"(optional|callable|Callable|Sequence|Any|NoneType|ArrayLike|DTypeLike|ArrayTree)"),
    (r"py:.*", r"tuple\[int"),  # Of a type that is split at its comma.
    (r"py:.*", r"(orthojax\.)?([a-z_.]+\.)?(Rules|Bases|Rule|Initial|Initializer|Activation)"),
]

# A tutorial runs when its code has changed; its outputs are kept between builds.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "executed")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

smartquotes = False  # U V' is no quotation.
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "sphinx_book_theme"
html_title = "orthojax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = True
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": True,
    "path_to_docs": "docs",
    "navbar_persistent": [],
}
# The address of the repository, such as https://github.com/OWNER/NAME, for buttons to it and to
# Colab. Only its CI knows it.
if repository := os.environ.get("ORTHOJAX_REPOSITORY"):
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": os.environ.get("ORTHOJAX_BRANCH", "main"),
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
