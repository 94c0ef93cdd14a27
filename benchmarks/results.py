"""Makes tables on pages of docs/ from the measurements in docs/results/*.csv.

A table stands between `<!-- table: FILE; … -->` and `<!-- end -->`. FILE is the name of a CSV file.
Further parts, with `;` between them, are `COLUMN=VALUE|VALUE…`, which chooses measurements (`*` is
any value but none), and `rows=` and `columns=`, the names of columns that tell the rows and the
headings of the table apart (columns=quantity where there is none). A column of the rows that does
not tell measurements apart, such as paper_value, shows what the measurements of the row have there.
`NAME as HEADING` gives a column of the rows another heading.
"""

import pathlib
import re

import program

from export.command import Parser, fail

TABLE = re.compile(r"(<!-- table: ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LARGE = 5  # digits from which a whole number has commas


def filled(text: str, folder: pathlib.Path) -> str:
    """Returns a page with its tables made anew.

    Args:
        text: The page, in Markdown.
        folder: Folder of the CSV files.

    Raises:
        OSError: for a table of a file that is not there.
        ValueError: for a table without rows, or with two values in one cell.
    """
    return TABLE.sub(lambda match: match[1] + table(match[2], folder) + match[3], text)


def table(words: str, folder: pathlib.Path) -> str:
    """Returns a table in Markdown by the words in its mark."""
    from harness import measurements, tables

    name, *parts = (part.strip() for part in words.split(";"))
    options = dict(part.partition("=")[::2] for part in parts)
    headings = options.pop("columns", "quantity").split(", ")
    labels = dict(_named(part) for part in options.pop("rows", "").split(", "))
    if not labels.keys() | options.keys() | set(headings) <= set(measurements.COLUMNS):
        raise ValueError(f"a column that measurements have not in the table {words}")
    path = folder / f"{name}.csv"
    chosen = [row for row in measurements.read(path) if _is_chosen(row, options)]
    if not chosen:
        raise ValueError(f"no measurement for the table {words}")
    groups = {}
    for row in chosen:
        key = tuple(row[column] for column in labels if column in measurements.IDENTITY)
        groups.setdefault(key, []).append(row)
    columns = dict.fromkeys(_heading(row, headings) for row in chosen)
    rows = []
    for group in groups.values():
        cells = [(_heading(row, headings), _value(row)) for row in group]
        if len(dict(cells)) < len(cells):
            raise ValueError(f"two values in one cell of the table {words}: {cells}")
        shown = {heading: _label(group, column) for column, heading in labels.items()}
        rows.append(shown | dict.fromkeys(columns, "") | dict(cells))
    return tables.markdown(rows)


def _named(part):
    """Returns the name of a column and its heading."""
    name, _, heading = part.partition(" as ")
    return name, heading or name


def _is_chosen(row, options):
    return all(
        row[column] in values.split("|") or (values == "*" and row[column])
        for column, values in options.items()
    )


def _label(group, column):
    """Returns what the measurements of a row have in a column."""
    found = dict.fromkeys(_number(row[column]) for row in group if row[column])
    code = "`" if column in ("command", "commit") else ""
    return "; ".join(f"{code}{text}{code}" for text in found)


def _heading(row, names):
    """Returns the heading of a value, with its unit where quantities differ."""
    heading = ", ".join(row[name] for name in names if row[name])
    return f"{heading} / {row['unit']}" if "quantity" in names and row["unit"] else heading


def _value(row):
    """Returns the text of a measurement."""
    if row["hours"]:
        return f"{row['value']}: {row['hours']} h, {row['machine']}"
    value, spread = _number(row["value"]), row["spread"]
    return f"{value} ({spread})" if "–" in spread else " ± ".join(filter(None, (value, spread)))


def _number(text):
    return f"{int(text):,}" if text.isdecimal() and len(text) >= LARGE else text


def main():
    program.set_up(start=False)
    parser = Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="only tell where they differ")
    parser.add_argument(
        "--docs", type=pathlib.Path, default="docs/", help="folder of the pages, above results/"
    )
    args = parser.parse_args()
    from harness import tables

    pages = {}
    try:
        for page in sorted(args.docs.glob("*.md")):
            text = page.read_text("utf-8")
            pages[page] = text, filled(text, args.docs / "results")
        if not any(TABLE.search(text) for text, _ in pages.values()):
            fail(f"--docs {args.docs} has no page with a table of measurements")
        other = [page for page, (text, made) in pages.items() if made != text]
        for page in [] if args.check else other:
            tables.write(page, pages[page][1])
    except (OSError, ValueError) as error:
        fail(error)
    if args.check and other:
        names = ", ".join(page.name for page in other)
        fail(f"tables of {names} differ from the measurements: benchmarks/results.py makes them", 1)


if __name__ == "__main__":
    main()
