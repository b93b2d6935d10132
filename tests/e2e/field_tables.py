"""The tables of fields in docs/api.md, for the tests that send each sample."""
import json
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs/api.md"


def tables():
    """{(path, field): (kind, sample)}"""
    rows, path = {}, None
    for line in DOCS.read_text().splitlines():
        if line.startswith("## "):
            named = re.match(r"## Fields of `(.*)`", line)
            path = named and named[1]
        cells = re.match(r"\| `(\w+)` \| (\w+) \| `(\{.*\})` \|", line)
        if path and cells:
            assert (path, cells[1]) not in rows, f"{path} {cells[1]} is there twice"
            rows[path, cells[1]] = cells[2], json.loads(cells[3])
        elif path and line.startswith("| `"):
            raise AssertionError(f"not a row of a table of fields: {line}")
    return rows
