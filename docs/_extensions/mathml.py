"""Formulas as MathML, which browsers draw by themselves: no script, and no network."""

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

_log = logging.getLogger(__name__)


def _mathml(node, **options):
    try:
        return tex2mathml(node.astext().strip(), **options)
    except MathError as error:
        _log.warning("formula %r: %s", node.astext(), error, location=node)
        return "<code>formula</code>"


def _visit_inline(translator, node):
    translator.body.append(_mathml(node))
    raise SkipNode


def _visit_block(translator, node):
    formula = _mathml(node, as_block=True)
    translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
