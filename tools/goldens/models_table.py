#!/usr/bin/env python3
"""Writes the output of the tests of families and placements into the tables of docs/models.md.

    (cd build/release/bin; ./models_test --gtest_filter='*MatchesTheReference'; SHOAL_ALL_FAMILIES=1 ./placement_test) |
      tools/goldens/models_table.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
GOLDEN = re.compile(
    r"^(\w+)/(\S+) (f32|default): +max (\S+), mean KL (\S+), top-1 (\S+), greedy (\w+), routing (\S+); "
    r"long: max (\S+), mean KL (\S+), top-1 (\S+), greedy (\w+)$")
PLACED = re.compile(r"^placed (\w+) (\w+): the same bits on (\d+) placements in (\d+) ways$")


def goldens(lines):
    """The rows of the table of goldens."""
    found = {}
    for line in lines:
        match = GOLDEN.match(line)
        if not match:
            continue
        family, case, mode = match.group(1, 2, 3)
        found.setdefault((family, case), {})[mode] = [float(match.group(i)) if i not in (7, 12) else match.group(i)
                                                      for i in range(4, 13)]
    for (family, case), modes in sorted(found.items()):
        exact, usual = modes["f32"], modes["default"]
        if exact[3] != "equal" or exact[8] != "equal" or exact[4] != 1.0:
            sys.exit(f"{family}/{case}: not equal to the reference")
        yield (family, case, f"{max(exact[0], exact[5]):.1e}", f"{max(exact[1], exact[6]):.0e}",
               f"{max(usual[0], usual[5]):.1e}", f"{max(usual[1], usual[6]):.1e}", f"{usual[2]:.3f}",
               f"{usual[4]:.3f}")


def code_lines(family):
    """The number of lines in the family's file that are neither empty nor comments."""
    text = (ROOT / "src/models/families" / f"{family}.cpp").read_text()
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))


def placements(lines):
    """The rows of the table of placements: lines of code, models, placements and runs per family."""
    found = {}
    for line in lines:
        match = PLACED.match(line)
        if match:
            found.setdefault(match.group(1), {})[match.group(2)] = (int(match.group(3)), int(match.group(4)))
    for family, models in sorted(found.items()):
        yield (family, code_lines(family), len(models), min(count for count, _ in models.values()),
               sum(ways for _, ways in models.values()))


def put(page, name, head, rows):
    """`page` with a new table between its marks; unchanged if there are no rows."""
    rows = list(rows)
    if not rows:
        return page
    table = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.split(begin)
    return before + begin + "\n\n" + "\n".join(table) + "\n\n" + end + rest.split(end)[1]


def main():
    lines = [line.strip() for line in sys.stdin]
    old = PAGE.read_text()
    page = put(old, "table", ["family", "case", "f32: max abs", "f32: mean KL", "int8: max abs", "int8: mean KL",
                              "int8: top-1", "int8: routing"], goldens(lines))
    page = put(page, "placements", ["family", "lines of code", "models", "placements of each", "runs"],
               placements(lines))
    if not any(GOLDEN.match(line) or PLACED.match(line) for line in lines):
        sys.exit("no line of a golden or of a placement in the input")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
