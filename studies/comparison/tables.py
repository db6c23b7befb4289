"""The tables of README.md, each between two comments that name it."""

from pathlib import Path

README = Path(__file__).with_name("README.md")


def put_table(name: str, table: str, path: Path = README) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""
    text = path.read_text()
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if start not in text or end not in text:
        raise SystemExit(f"{path.name} has no place for the table {name!r}")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    path.write_text(f"{before}{start}\n{table}\n{end}{after}")
