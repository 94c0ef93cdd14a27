"""Every public name has a place in the reference of the site, and every page one in its menu."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Imported by `kcaps.regression` when somebody asks for it.
LAZY = {"kcaps.regression.CapsuleRegressionClassifier"}


def directives():
    """Paths of what the reference describes, as it is there."""
    pages = (DOCS / "api").glob("*.md")
    return [path for page in pages for path in re.findall(r"(?m)^::: (\S+)", page.read_text())]


def assigned(node):
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def exported(path, package="kcaps"):
    """Names that a module makes, or imports from its package for users: `import name as name`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith(package):
            yield from (alias.name for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from assigned(node)


def public():
    """Names by which users know what kcaps has, and the function of each exporter."""
    for module in exported(ROOT / "kcaps" / "__init__.py"):
        path = ROOT / "kcaps" / module
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file():  # and no number of a version
            names = exported(path, f"kcaps.{module}")
            yield from (f"kcaps.{module}.{name}" for name in names if name[0] != "_")
    for path in (ROOT / "export").glob("*.py"):
        names = set(exported(path)) & {f"export_{path.stem}", f"verify_{path.stem}"}
        yield from (f"export.{path.stem}.{name}" for name in names)
    yield from LAZY


def test_every_public_name_has_one_place_in_the_reference():
    # A package's functions are described where they stand if a module of theirs has their name.
    described = [re.sub(r"^(\w+\.\w+)\..*?(\w+)$", r"\1.\2", path) for path in directives()]
    assert len(described) == len(set(described))
    names = set(public())
    assert {"kcaps.layers.DigitCaps", "kcaps.routing.get", "export.onnx.export_onnx"} < names
    assert sorted(names - set(described)) == []


def test_every_directive_names_something_that_stands():
    for path in directives():
        *modules, name = path.split(".")
        file = ROOT.joinpath(*modules)
        package, module = file / "__init__.py", file.with_suffix(".py")
        files = [place for place in (package, module, file / f"{name}.py") if place.is_file()]
        assert any(name in exported(place) or place.stem == name for place in files), path


def test_every_page_is_in_the_menu_once():
    text = (DOCS / "mkdocs.yml").read_text()
    listed = re.findall(r"(?m): (\S+\.(?:md|html))$", text)
    assert len(listed) == len(set(listed))
    pages = {str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")}
    pages |= {str(path.with_suffix(".md").relative_to(ROOT)) for path in DOCS.rglob("*.ipynb")}
    assert pages and sorted(pages - set(listed)) == []
