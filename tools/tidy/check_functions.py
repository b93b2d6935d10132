#!/usr/bin/env python3
"""Holds the functions of src/ to the house rules: few parameters, no two bools in a row, none that nothing uses.

    check_functions.py [ROOT]   self-test, then the tree; exit 1 with one line per violation

A line `// parameters: reason`, or `// kept: reason`, above a function or in its head excuses it.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

from check_tree import ROOT, TEST_FILE, code_only, sources
from cpp_functions import functions

PARAMETERS_MAX = 6
KERNEL_PARAMETERS_MAX = 8  # Tiles: what is in registers is passed one by one.
# Called by the language or a library, by name.
CALLED_BY_NAME = {"begin", "end", "main", "parse", "format", "LLVMFuzzerTestOneInput", "SetUp", "TearDown"}


def excused(lines, line, word):
    near = "\n".join(lines[max(0, line - 3):line + 2])
    return re.search(r"//[ \t]*%s:[ \t]*\S" % word, near)


def check_parameters(path, text):
    lines = text.split("\n")
    most = KERNEL_PARAMETERS_MAX if path.startswith("src/kernels/") else PARAMETERS_MAX
    for function in functions(text):
        count = len(function.parameters)
        if count > most and not excused(lines, function.line, "parameters"):
            yield function.line, f"{function.name} has {count} parameters, {most} are the most: make a struct of them"


def check_bools(path, text):
    lines = text.split("\n")
    for function in functions(text):
        bools = [re.match(r"(const )?bool\b(?![^&*]*[&*])", item) is not None for item in function.parameters]
        if any(a and b for a, b in zip(bools, bools[1:])) and not excused(lines, function.line, "parameters"):
            yield function.line, f"{function.name} has two bools in a row: make an enum or a struct of them"


def check_states(path, text):
    """What has a fixed set of values is an enum; words for people and JSON are made where they leave."""
    code = code_only(text)
    for match in re.finditer(r"^ +(?:const )?(?:std::string|std::string_view|const char\s?\*) ?(\w*(?:state|status|kind|mode|phase)_?)\b *(?:=[^;(]*)?;",
                             code, re.M):
        line = code.count("\n", 0, match.start()) + 1
        if not excused(text.split("\n"), line, "text"):
            yield line, f"{match.group(1)} is a string: make it an enum, or say in a line `// text: reason` who words it"


RULES = {"parameters": check_parameters, "bools": check_bools, "states": check_states}


def dead(texts):
    """[(path, line, message)] of functions that a header of src/ declares and nothing else names. texts: {path: text}."""
    used, heads = defaultdict(int), defaultdict(list)
    for path, text in texts.items():
        for name in re.findall(r"\b[A-Za-z_]\w*\b", code_only(text)):
            used[name] += 1
        for function in functions(text):
            heads[function.name].append((path, function.line, text))
    for name, places in sorted(heads.items()):
        declared = [place for place in places if re.fullmatch(r"src/.*\.h", place[0]) and not TEST_FILE.fullmatch(place[0])]
        if used[name] > len(places) or not declared or name in CALLED_BY_NAME:
            continue
        path, line, text = declared[0]
        if not excused(text.split("\n"), line, "kept"):
            yield path, line, f"[dead] nothing uses {name}: delete it, or say in a line `// kept: reason` who will"


def self_test():
    cases = [  # rule, good, bad
        ("parameters", "int F(int a, int b, int c, int d, int e, int f);\n", "int F(int a, int b, int c, int d, int e, int f, int g);\n"),
        ("parameters", "int F(std::map<int, int> a, int b, int c = G(1, 2), int d, int e, int f) {\n}\n",
         "  virtual absl::StatusOr<std::vector<int>> f(int a, int b,\n    int c, const std::map<A, B>& d, int e, int* f, int g) const = 0;\n"),
        ("parameters", "void F() {\n  G(a, b, c, d, e, f, g);\n  return H(a, b, c, d, e, f, g);\n}\n",
         "template <typename T>\nvoid F(T a, T b, T c, T d, T e, T f, std::span<const T> g) {\n}\n"),
        ("parameters", "// parameters: those of the C library\nint F(int a, int b, int c, int d, int e, int f, int g);\n",
         "// parameters:\nint F(int a, int b, int c, int d, int e, int f, int g);\n"),
        ("bools", "void F(bool a, int b, bool c);\n", "void F(int x, bool a, bool b);\n"),
        ("bools", "void F(bool* a, bool* b);\n", "void A::f(bool a, const bool b) const {\n}\n"),
        ("states", "struct A {\n  State state = State::kIdle;\n  std::string name;\n};\n", "struct A {\n  std::string state;\n};\n"),
        ("states", "struct A {\n  // text: what the peer wrote\n  std::string status;\n};\n", "class A {\n  std::string state_ = \"idle\";\n};\n"),
    ]
    failures = []
    for rule, good, bad in cases:
        for text, expected in ((good, []), (bad, [rule])):
            found = [name for name, check in RULES.items() for _ in check("src/exec/a.h", text)]
            if found != expected:
                failures.append(f"self-test: expected {expected}, found {found} in {text[:70]!r}")
    header = "int F(int a);\nint Unused(int a);\n"
    source = "int F(int a) { return 1; }\nint Unused(int a) { return 2; }\nint x = F(1);\n"
    found = [(path, line) for path, line, _ in dead({"src/exec/a.h": header, "src/exec/a.cpp": source})]
    if found != [("src/exec/a.h", 2)]:
        failures.append(f"self-test: dead: found {found}")
    if list(dead({"src/exec/a.h": header, "src/exec/a.cpp": source + "int y = Unused(2);\n"})):
        failures.append("self-test: dead: a function that is used")
    return failures


def main(arguments):
    root = Path(arguments[0]) if arguments else ROOT
    files = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
             for path in sources(root) if path.name != "CMakeLists.txt"}
    problems = self_test() + ([] if files else [f"{root}: no sources found"])
    for path, text in files.items():
        if path.startswith("src/") and not TEST_FILE.fullmatch(path):
            problems += [f"{path}:{line}: [{rule}] {message}" for rule, check in RULES.items() for line, message in check(path, text)]
    problems += [f"{path}:{line}: {message}" for path, line, message in dead(files)]
    print(*problems, sep="\n")
    print(f"{len(problems)} problems" if problems else "functions keep the house rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
