#!/usr/bin/env python3
"""Puts what the tests of the families print into the table of docs/models.md.

    build/release/bin/models_test --gtest_filter='*MatchesTheReference' | tools/goldens/models_table.py
"""

import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
LINE = re.compile(
    r"^(\w+)/(\S+) (f32|default): +max (\S+), mean KL (\S+), top-1 (\S+), greedy (\w+), routing (\S+); "
    r"long: max (\S+), mean KL (\S+), top-1 (\S+), greedy (\w+)$")


def rows(lines):
    found = {}
    for line in lines:
        match = LINE.match(line.strip())
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


def main():
    table = ["| family | case | f32: max abs | f32: mean KL | int8: max abs | int8: mean KL | int8: top-1 | int8: routing |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    table += ["| " + " | ".join(row) + " |" for row in rows(sys.stdin)]
    if len(table) == 2:
        sys.exit("no line of a golden in the input")
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(head + BEGIN + "\n\n" + "\n".join(table) + "\n\n" + END + tail)


if __name__ == "__main__":
    main()
