"""No source file does what is unsafe, and every dependency is declared and pinned."""

import ast
import pathlib
import re
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("kcaps", "export", "recipes", "benchmarks")
FILES = [path for name in SOURCES for path in sorted((ROOT / name).rglob("*.py"))]
# Their files run code when they are read, or they run code from text.
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "imp"}
NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"system", "popen", "Lambda", "extractall", "mktemp", "enable_unsafe_deserialization"}
KEYWORDS = {"shell": True, "safe_mode": False, "allow_pickle": True}
# Keras runs on one of these, which its user installs; the others need TensorFlow.
BACKENDS = {"jax", "torch"}
BUNDLED = {"setuptools"}  # in every virtual environment, with the version of its Python


def offences(tree):
    """Lines of a module's syntax tree that do what none may, with what they do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [x.name for x in node.names] if isinstance(node, ast.Import) else [node.module]
            found = {(name or "").split(".")[0] for name in names} & MODULES
            if isinstance(node, ast.ImportFrom):
                found |= {x.name for x in node.names} & (MODULES | ATTRIBUTES)
            yield from ((node.lineno, f"import {name}") for name in found)
        elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES | {"read_pickle"}:
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function in NAMES:
                yield node.lineno, function
            given = {x.arg: x.value for x in node.keywords}
            for name, forbidden in KEYWORDS.items():
                value = given.get(name)
                if value is not None and getattr(value, "value", forbidden) == forbidden:
                    yield node.lineno, f"{name}={ast.unparse(value)}"
            if function in ("np.load", "numpy.load") and "allow_pickle" not in given:
                yield node.lineno, "np.load without allow_pickle=False"


def test_no_source_file_runs_code_from_data():
    found = {
        f"{path.relative_to(ROOT)}:{line}": what
        for path in FILES
        for line, what in offences(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert len(FILES) > 100 and not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "from os import system",
        "from keras.layers import Lambda",
        "keras.layers.Lambda(f)",
        "os.system('ls')",
        "eval(text)",
        "run(text, shell=True)",
        "load_model(path, safe_mode=False)",
        "load_model(path, safe_mode=choice)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "keras.config.enable_unsafe_deserialization()",
        "archive.extractall(folder)",
    ],
)
def test_the_check_sees_what_it_should(text):
    assert list(offences(ast.parse(text)))


def declared(*extras):
    """Names of the packages that kcaps needs with some of its extras, of which some name others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines, waiting, seen = list(project["dependencies"]), list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == project["name"]:
                waiting += requirement.extras
            elif requirement.marker is None or requirement.marker.evaluate():
                lines.append(line)
    return {canonicalize_name(Requirement(line).name) for line in lines}


def pins():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


@pytest.mark.tensorflow
def test_what_is_imported_is_declared():
    files = [*FILES, *(ROOT / "tests").glob("*.py")]
    local = {*SOURCES, *(name for path in files for name in (path.stem, path.parent.name))}
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    foreign = imported - local - set(sys.stdlib_module_names) - BACKENDS
    owners = metadata.packages_distributions()
    undeclared = {
        name
        for name in foreign
        # A package that is not installed is taken to have the name of its module.
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])}
        & declared("test", "mutation")
    }
    assert not undeclared


@pytest.mark.tensorflow
def test_all_that_kcaps_needs_is_pinned_at_the_installed_version():
    pinned, waiting, seen = pins(), sorted(declared("test")), set()
    while waiting:
        name = waiting.pop()
        if name in seen | BUNDLED:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        assert pinned.get(name) == distribution.version, f"{name} {distribution.version}"
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    assert len(seen) > len(declared("test"))
