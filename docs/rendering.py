"""Docstrings and pages as the site of the documentation shows them.

docs/mkdocs.yml names this file twice: as an extension of Griffe, which reads the docstrings, and as
a hook of MkDocs.
"""

import functools
import pathlib
import re
import textwrap

import griffe
from mkdocs.config.defaults import MkDocsConfig

_DIRECTIVE = re.compile(r"^::: (\S+)", re.MULTILINE)
_CODE = re.compile(r"^ *```.*?^ *```|(?<!\[)`([\w.]+)(\([^`]*\))?`(?!\])", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(
    r"^(Args|Call arguments|Input shape|Output shape|Returns|Yields|Raises|Attributes|Example"
    r"|Reference):",
    re.MULTILINE,
)
# Sections of plain text. Griffe would take that of "Returns" for a list of types.
_TEXT = ("Input shape", "Output shape", "Returns", "Yields", "Reference")


@functools.cache
def _identifiers() -> dict[str, str]:
    """Returns the identifiers of what the reference describes, by short and by whole names."""
    pages = (pathlib.Path(__file__).parent / "api").glob("*.md")
    paths = [path for page in pages for path in _DIRECTIVE.findall(page.read_text("utf-8"))]
    identifiers = {}
    for path in paths:
        # What a package imports from its modules is known by the name that users import.
        name = path.rsplit(".", 1)[-1]
        identifiers[".".join([*path.split(".")[:2], name])] = path
        # Other short names, as `log`, may mean something else.
        if "_" in name or name[0].isupper():
            identifiers[name] = path
    return identifiers


def linked(text: str) -> str:
    """Returns Markdown whose names of classes and functions, in backticks, link to the reference.

    Args:
        text: Markdown; blocks of code stay as they are.
    """

    def link(match: re.Match) -> str:
        # A method leads to its class.
        names = (match[1] or "", (match[1] or "").rpartition(".")[0])
        identifier = next((_identifiers()[name] for name in names if name in _identifiers()), None)
        return f"[{match[0]}][{identifier}]" if identifier else match[0]

    return _CODE.sub(link, text)


def sections(docstring: str) -> str:
    """Returns a docstring with all of its sections in a form that Griffe or Markdown knows.

    Args:
        docstring: Docstring of Google's style, with the sections that Keras' docstrings have.
    """
    first, *parts = _HEADING.split(docstring)
    written = [first]
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        if heading == "Example":
            title, _, body = body.partition("\n")
            body = textwrap.indent(body.strip("\n"), "    ")
            written.append(f"Examples:{title}\n{body}\n\n")
        elif heading == "Call arguments":
            written.append(f"Other Args: {heading}:{body}")
        elif heading in _TEXT:
            body = textwrap.dedent(body.lstrip("\n"))
            written.append(f'<span class="doc-section-title">{heading}:</span>\n\n{body}')
        else:
            written.append(f"{heading}:{body}")
    return re.sub(r"\bdocs/(\w+)\.md\b", r"[docs/\1.md](../\1.md)", "".join(written))


class Docstrings(griffe.Extension):
    """Prepares each docstring that Griffe has read."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = linked(sections(obj.docstring.value))


def on_config(config: MkDocsConfig) -> None:
    """Takes pages that nobody has made yet out of the menu: MkDocs calls this function first.

    A page whose path is misspelt there is still told: MkDocs misses the right one in the menu.
    """

    def standing(parts: list[dict]) -> list[dict]:
        found = []
        for part in parts:
            ((title, content),) = part.items()
            if isinstance(content, list):
                found.append({title: standing(content)})
            elif pathlib.Path(config.docs_dir, content).is_file():
                found.append(part)
        return found

    config.nav = standing(config.nav)


def on_page_markdown(markdown: str, **_) -> str:
    """Links the names on a page: MkDocs calls this function for each."""
    return linked(markdown)
