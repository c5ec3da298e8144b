"""The library's docstrings are plain text, in which |A|_2, U V' and x * y mean what they say.

Makes them reStructuredText before napoleon reads their sections: `code` in backticks, which links
to a public name where it is one; indented formulas as they stand; everything else escaped.
"""

import inspect
import re

import orthojax
import orthojax.nn

_CODE = re.compile(r"(``?)(.+?)\1", re.DOTALL)
_STARRED = re.compile(r"(?m)^( +\*{1,2}\w+:)")  # "**options: ...", which napoleon knows.
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def _public():
    """{name in a docstring: name in the reference} of what has an entry of its own."""
    known = {}
    for package, prefix in ((orthojax, "orthojax"), (orthojax.nn, "orthojax.nn")):
        for name, value in vars(package).items():
            if not name.startswith("_") and callable(value):
                known.setdefault(name, f"{prefix}.{name}")
                known[f"{prefix}.{name}"] = f"{prefix}.{name}"
    return known


_KNOWN = _public()
# Options and attributes of the same name are meant more often.
for _name in ("map", "low_rank", "orthogonal"):
    _KNOWN.pop(_name, None)


def _code(match, own):
    text = match[2]
    name = text.removesuffix("()")
    if name in _KNOWN and _KNOWN[name] != own:
        return f":py:obj:`{text} <{_KNOWN[name]}>`"
    # A literal may not begin or end with a space.
    return f"``{text.strip()}``"


def _escaped(text):
    parts = _STARRED.split(text)
    for i in range(0, len(parts), 2):
        part = re.sub(r"([\\*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"_(?![A-Za-z0-9])", r"\\_", part)
    return "".join(parts)


def _inline(text, own):
    parts, end = [], 0
    for match in _CODE.finditer(text):
        # What stands next to it without a space is parted from it by an empty escape.
        left = "\\ " if text[: match.start()][-1:].strip() else ""
        right = "\\ " if text[match.end() :][:1].strip() else ""
        parts += [_escaped(text[end : match.start()]), left, _code(match, own), right]
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _paragraphs(lines):
    """Runs of lines without an empty one between them, and the empty lines."""
    block = []
    for line in lines:
        if line.strip():
            block.append(line)
            continue
        if block:
            yield block
            block = []
        yield [line]
    if block:
        yield block


_ITEM = re.compile(r"  (\"?[\w, ]+\"?): (.*)")


def _itemized(block):
    """A section `Returns` of several named things, which napoleon takes for one, as a list."""
    if block[0] != "Returns:" or sum(map(bool, map(_ITEM.match, block))) < 2:
        return block
    items = [_ITEM.sub(r"- `\1`: \2", line) for line in block[1:]]
    return ["Returns", "", *(line.removeprefix("  ") for line in items)]


def as_rst(lines: list[str], own: str = "") -> list[str]:
    """The lines of a docstring as reStructuredText; `own` is the name it belongs to."""
    result, section = [], None
    for block in _paragraphs(lines):
        first = block[0]
        indent = len(first) - len(first.lstrip())
        if not first.strip():
            result.append("")
        elif first.lstrip().startswith(">>>"):
            result += block
        elif (indent and section is None) or first.startswith("|"):
            result += ["::", "", *("    " + line for line in block), ""]
        else:
            # A span of code may go over the end of a line: the paragraph is taken as one.
            for line in _inline("\n".join(_itemized(block)), own).split("\n"):
                if line.strip() and not line.startswith(" "):
                    found = _SECTION.match(line)
                    section = found[1] if found else None
                # An item continues four spaces in; what is set further in is a list there.
                result.append(f"    {line.lstrip()}" if section and line[:5] == "     " else line)
    return result


def _process(app, what, name, obj, options, lines):
    del app, what, obj, options
    lines[:] = as_rst(lines, name)


def _skip(app, what, name, obj, skip, options):
    """Fields of named tuples are described in their class."""
    del app, what, name, options
    return True if inspect.isdatadescriptor(obj) and not isinstance(obj, property) else skip


def setup(app):
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
