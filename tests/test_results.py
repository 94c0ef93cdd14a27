"""Measurements as data: their rows, the tables on the pages that are made of them, and links."""

import pathlib
import re
import runpy

import pytest

from harness import measurements
from programs import ROOT, recipe_here
from reproduction import summary, tables
from reproduction.settings import Settings

DOCS = ROOT / "docs"
FILES = sorted((DOCS / "results").glob("*.csv"))
PAGES = {name: DOCS / name for name in ("results.md", "speed.md")}
ROW = dict.fromkeys(measurements.COLUMNS, "") | {
    **{"item": "table2", "data": "mnist", "method": "l2", "setting": "cpu", "seeds": "3"},
    **{"quantity": "test error", "value": "1.14", "spread": "0.08", "unit": "%"},
    **{"command": "python recipes/reproduce.py table2", "commit": "d7ff930; 36662ac"},
    **{"machine": "2 CPU cores", "date": "2026-11-23"},
}
PAGE = "# Results\n\n<!-- table: one; rows=data, method as routing -->\n<!-- end -->\n"


@pytest.fixture(scope="module")
def program():
    """What benchmarks/results.py defines."""
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield runpy.run_path(str(ROOT / "benchmarks" / "results.py"))
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text):
    """Returns the targets of a page's links and pictures, but for those to other sites."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_measurements_have_all_that_they_need(path):
    rows = measurements.read(path)
    assert rows and not [(found, row) for row in rows if (found := measurements.faults(row))]
    what = [tuple(row[name] for name in measurements.IDENTITY) for row in rows]
    assert len(set(what)) == len(what), "two measurements of the same"


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_the_tables_of_the_measurements(program, name):
    text = PAGES[name].read_text("utf-8")
    assert text.count("<!-- table: ") == len(program["TABLE"].findall(text)) >= 15
    made = program["filled"](text, DOCS / "results")
    assert made == text, "python benchmarks/results.py makes the tables anew"


def test_every_file_is_named_on_a_page():
    text = "".join(path.read_text("utf-8") for path in PAGES.values())
    assert [path.stem for path in FILES if f"(results/{path.name})" not in text] == []


def test_what_papers_print_is_beside_our_measurements():
    """Every published number of a table of reproduce.py is in the files, at the budget gpu."""
    found = {}
    for row in (row for path in FILES for row in measurements.read(path)):
        key = row["data"], row["method"], row["setting"].split(",")[0]
        if row["quantity"] == "test error" and row["paper_value"]:
            found.setdefault(key, set()).add(row["paper_value"].split(" ± ")[0])
    for name in ("table2", "multi_mnist", "efficient_capsnet", "moved"):
        for (task, method), published in tables.TABLES[name].published.items():
            assert published.split(" (")[0] in found[task, method, "gpu"], (name, task, method)


def test_the_best_are_of_other_files():
    best, *others = sorted(FILES, key=lambda path: path.stem != "best")
    known = [row for path in others for row in measurements.read(path)]
    own = ("method", "setting", "quantity", "value", "spread", "command", "commit")
    for row in measurements.read(best):
        assert any(all(row[name] == other[name] for name in own) for other in known), row


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"value": ""}, "value is missing"),
        ({"value": "good"}, "value is no number of %: good"),
        ({"machine": ""}, "machine is missing"),
        ({"command": ""}, "command is missing"),
        ({"commit": ""}, "commit is missing"),
        ({"commit": "main"}, "commit has another form: main"),
        ({"date": ""}, "date is missing"),
        ({"date": "23.11.2026"}, "date has another form: 23.11.2026"),
        ({"spread": "0.08, 0.09"}, "spread has another form: 0.08, 0.09"),
        ({"paper_value": "0.35"}, "paper_place is missing"),
        ({"value": "not run", "note": "estimated"}, "hours is missing"),
        ({"value": "not run", "hours": "2"}, "note is missing"),
        ({"value": "not run", "hours": "two", "note": "x"}, "hours has another form: two"),
    ],
)
def test_faults_of_measurements(tmp_path, change, fault):
    path = tmp_path / "one.csv"
    measurements.append(path, [ROW])
    assert measurements.faults(ROW) == [] and measurements.faults(ROW | change) == [fault]
    before = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(fault)):
        measurements.append(path, [ROW | change])
    assert path.read_bytes() == before


def test_measurements_that_need_less():
    for change in (
        {"value": "not run", "hours": "0.5", "note": "50 passes", "commit": "", "date": ""},
        {"command": "", "commit": "", "note": "script not kept"},
        {"value": "97.17 to 97.42", "spread": "96.1 – 98"},
        {"value": "not reached", "unit": "s"},
        {"value": "reproduced", "unit": "", "commit": "d7ff930+"},
    ):
        assert measurements.faults(ROW | change) == []


def test_rows_of_studies_are_measurements(tmp_path):
    """Times have neither seeds nor a published value, cells have one seed, tables several."""
    source = {name: ROW[name] for name in ("command", "commit", "machine", "date")}
    for table, row, expected in [
        (
            "figure4",
            {"method": "l2", "batch_size": 64, "seconds_per_100_steps": 1.875, "ratio": 0.74321},
            [
                ("mnist", "cpu", "ratio", "0.7432", "", ""),
                ("mnist", "cpu", "seconds per 100 steps", "1.875", "s", ""),
            ],
        ),
        (
            "time_to_99",
            {"task": "mnist", "method": "l1", "seed": 1, "seconds": "", "steps": 2500},
            [("mnist", "cpu, seed 1", "steps", "2500", "", "")],
        ),
        (
            "table2",
            {"task": "mnist", "method": "l1", "test_error": 1.0, "published": "0.32", "seeds": 3},
            [("mnist", "cpu", "test error", "1", "%", "0.32")],
        ),
    ]:
        asked = Settings(recipe="reproduce", table=table, output=tmp_path)
        path = tmp_path / f"{table}.csv"
        measurements.append(path, summary.measured(asked, [row | source]))
        names = ("data", "setting", "quantity", "value", "unit", "paper_value")
        for found, values in zip(measurements.read(path), expected, strict=True):
            assert tuple(found[name] for name in names) == values
            assert found["item"] == table and found["seeds"] == str(row.get("seeds", 1))


def test_a_new_measurement_takes_the_place_of_an_old_one(tmp_path):
    path = tmp_path / "one.csv"
    measurements.append(path, [ROW, ROW | {"method": "l1"}])
    measurements.append(path, [ROW | {"value": 0.9}])
    assert [(row["method"], row["value"]) for row in measurements.read(path)] == [
        ("l1", "1.14"),
        ("l2", "0.9"),
    ]
    path.write_text(path.read_text().replace("paper_value", "paper"))
    with pytest.raises(ValueError, match="must have the columns item,data"):
        measurements.read(path)


def test_tables(program, tmp_path):
    def made(words):
        return program["table"](f"one; {words}", tmp_path)

    rows = [ROW | {"paper_value": "0.35", "paper_place": "Table II", "note": "three passes"}]
    rows += [ROW | {"method": "l1", "value": "12345", "spread": "1 – 2", "unit": "ms"}]
    rows += [ROW | {"setting": "gpu", "value": "not run", "hours": "2", "note": "estimated"}]
    measurements.append(tmp_path / "one.csv", rows)
    text = made("setting=cpu; rows=method as routing, paper_value as paper, commit").splitlines()
    assert text == [
        "| routing | paper | commit | test error / % | test error / ms |",
        "|---|---|---|---|---|",
        "| l2 | 0.35 | `d7ff930; 36662ac` | 1.14 ± 0.08 |  |",
        "| l1 |  | `d7ff930; 36662ac` |  | 12,345 (1 – 2) |",
    ]
    text = made("method=l2|em; rows=data, note; columns=setting").splitlines()
    assert text[::2] == [
        "| data | note | cpu | gpu |",
        "| mnist | three passes; estimated | 1.14 ± 0.08 | not run: 2 h, 2 CPU cores |",
    ]
    assert len(made("paper_value=*; rows=method").splitlines()) == 3
    with pytest.raises(ValueError, match="two values in one cell of the table one; rows=data"):
        made("rows=data; columns=data")
    for words in ("data=mnist", "rows=colour", "rows=data; columns=colour", "colour; rows=data"):
        with pytest.raises(ValueError, match=f"have not in the table one; {words}"):
            made(words)
    with pytest.raises(ValueError, match="no measurement for the table one; data=svhn"):
        made("data=svhn; rows=method")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    (tmp_path / "results").mkdir()
    measurements.append(tmp_path / "results" / "one.csv", [ROW])
    page = tmp_path / "page.md"
    page.write_text(PAGE)

    def run(*words):
        return recipe_here("../benchmarks/results", "--docs", tmp_path, *words)

    result = run("--check")
    assert result.returncode == 1 and result.stderr.startswith("error: tables of page.md differ")
    assert page.read_text() == PAGE
    assert run().returncode == run("--check").returncode == 0
    assert "| mnist | l2 | 1.14 ± 0.08 |\n<!-- end -->" in page.read_text()
    (tmp_path / "results" / "one.csv").unlink()
    for words in ((), ("--docs", tmp_path / "none")):
        result = run(*words)
        assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_links_to_and_from_the_pages():
    known = {name: anchors(page) for name, page in PAGES.items()}
    dead = []
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("recipes/*.md")]:
        for link in links(page.read_text("utf-8")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if page in PAGES.values() and not target.exists():
                dead.append((page.name, link))
            if target in PAGES.values() and anchor and anchor not in known[target.name]:
                dead.append((page.name, link))
    assert dead == []


def test_pages_that_the_code_names():
    """A comment that sends a reader to a page of results finds it."""
    folders = ("kcaps", "export", "recipes", "benchmarks")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {
        name
        for path in sources
        for name in re.findall(r"docs/(?:results|speed)[\w/]*\.(?:md|csv)", path.read_text("utf-8"))
    }
    assert named and [name for name in named if not pathlib.Path(ROOT, name).exists()] == []
