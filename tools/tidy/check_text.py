#!/usr/bin/env python3
"""Holds prose to what is: files that comments and docs name exist, docs have short lines, docs/house.md lists the real includes,
and the pages that claim something name tests that there are.

    check_text.py [ROOT]                   self-test, then the tree; exit 1 with one line per violation
    check_text.py --commits [BASE [ROOT]]  only warns: subjects since BASE (default origin/main, else the last 20) that are
                                           not `area: what changes` in 65 characters
"""

import re
import subprocess
import sys
from pathlib import Path

import check_tree
from check_tree import ROOT

COLUMNS_MAX = 120
SUBJECT_MAX = 65
PROSE = (".md",)
COMMENTED = (".h", ".cpp", ".inc", ".py", ".rs", ".proto", ".cmake", ".txt", ".sh", "")
SKIPPED = re.compile(r"(build|.*node_modules|\.git|\.venv|models|tests/goldens|tests/fuzz/corpus|.*__pycache__)/|LICENSE|.*\.lock|shared/.*")

# A file's name with an ending that is a source or a page of ours; data that users have (config.json, *.gguf) is not looked for.
NAMED = re.compile(r"(?<![\w./<>*{}$:~-])((?:[\w.-]+/)*[\w.-]*\w\.(?:h|cpp|inc|py|md|cmake|proto|rs|yml))(?![\w*<>{}/(-])(?!\.\w)")
# Files of others, by name; and files that are made or that a text makes up.
FOREIGN = re.compile(r"(modeling|configuration|tokenization)_\w+\.py|cmake_pch\.\w+|\w+\.pb\.h|\w+\.grpc\.pb\.h|.*_table\.cpp|[ab]\.(h|cpp)|x_\w+\.cpp")
FOREIGN_LINE = re.compile(r"https?://|openai/gpt-2|transformers|llama\.cpp|ggml|mlx|vllm|github|huggingface", re.I)
HOUSE = "docs/house.md"
FUZZED = "docs/invariants.md"
# Pages of claims. In their tables with such a head each row names a test or a command.
CLAIMS = ("docs/invariants.md", "docs/reliability.md", "docs/security.md")
SHOWN_BY = re.compile(r"\|.*\| shown by \|")
# `Suite.Name`, `Suite.*`, `test_name`, without the file that it is in; what else is in such quotes may be anything.
TEST_NAMED = re.compile(r"`(?:([A-Z]\w+)\.(\*|[A-Z]\w*)|(test_\w+))`")
COMMAND_NAMED = re.compile(r"`(?:\./dev |python3 bench/|[\w/]*test_\w+\.py`|\w+_(?:test|fuzz|sim)(?:_mutated)?`)")
TEST_CPP = re.compile(r"^\s*(?:TYPED_)?TEST(?:_[FP])?\(\s*(\w+)\s*,\s*(\w+)\s*\)", re.M)
TEST_PYTHON = re.compile(r"^ *(?:async )?def (test_\w+)", re.M)
TABLE = re.compile(r"(<!-- includes:.*?-->\n)(.*?)(<!-- end of includes -->)", re.S)


def comments(path, text):
    """The text with all that is not prose blanked: code, where the file has comments."""
    if path.suffix in PROSE:
        return text
    if path.suffix in (".py", ".cmake", ".txt", ".sh", ""):
        return re.sub(r"^(?![^\n\"']*#)[^\n]*$|^[^\n#]*(?=#)", "", text, flags=re.M)
    return "\n".join(match.group(0) if (match := re.search(r"//.*", line)) else "" for line in text.split("\n"))


def check_references(path, text, exists):
    """exists(name, folder): whether a file is named so, from the root, from src/, from the folder or by its end."""
    for number, line in enumerate(comments(path, text).split("\n"), 1):
        if FOREIGN_LINE.search(line):
            continue
        for match in NAMED.finditer(line):
            name = match.group(1)
            if not FOREIGN.fullmatch(name.split("/")[-1]) and not exists(name, path.parent):
                yield number, f"[references] {name}: no such file"


def check_columns(path, text):
    """Lines of pages; tables, blocks of code and lines without a space (links) may be longer."""
    code = False
    for number, line in enumerate(text.split("\n"), 1):
        code ^= line.lstrip().startswith("```")
        if len(line) > COLUMNS_MAX and not code and not line.lstrip().startswith("|") and " " in line.strip(" -*>"):
            yield number, f"[columns] {len(line)} columns, {COLUMNS_MAX} are the most"


def check_house(text):
    found = TABLE.search(text)
    if not found:
        yield 1, "[includes] no table between <!-- includes: ... --> and <!-- end of includes -->"
    elif found.group(2).strip() != check_tree.include_table().strip():
        yield check_tree.line_of(text, found.start(2)), "[includes] not what CMake says: put in what `tools/tidy/check_tree.py --table` prints"


def check_fuzz(text, targets):
    """Each fuzz target is named where it is said what stands between the outside and the CHECKs."""
    for target in targets:
        if not re.search(rf"\b{target}\b", text):
            yield 1, f"[fuzz] the target {target} is not named"


def tests_of(texts):
    """The names of tests in sources, as pages have them: `Suite.Name`, `Suite.*`, `test_name`. texts: (path, text) of each."""
    names = set()
    for path, text in texts:
        if path.suffix == ".py":
            names.update(TEST_PYTHON.findall(text))
        else:
            names.update(name for suite, test in TEST_CPP.findall(text) for name in (f"{suite}.{test}", f"{suite}.*"))
    return names


def check_claims(text, tests):
    """A page's tests exist, and what its tables claim has one beside it, or a command."""
    claims = False
    for number, line in enumerate(text.split("\n"), 1):
        for suite, test, function in TEST_NAMED.findall(line):
            name = function or f"{suite}.{test}"
            if name not in tests:
                yield number, f"[claims] {name}: no such test"
        claims = line.startswith("|") and (claims or bool(SHOWN_BY.fullmatch(line.strip())))
        if claims and not SHOWN_BY.fullmatch(line.strip()) and not re.fullmatch(r"[| :-]+", line.strip()):
            shown = line.rstrip().rstrip("|").split(" | ")[-1]
            if not TEST_NAMED.search(shown) and not COMMAND_NAMED.search(shown):
                yield number, "[claims] neither a test nor a command shows it"


def subject_faults(subject):
    if len(subject) > SUBJECT_MAX:
        yield f"{len(subject)} characters, {SUBJECT_MAX} are the most"
    if not re.match(r"[\w./,+ -]+: \S", subject):
        yield "expected `area: what changes`"


def warn_commits(base, root):
    """Prints what is wrong with subjects; nothing where there is no history."""
    git = ["git", "-C", str(root)]
    known = subprocess.run([*git, "rev-parse", "--verify", "--quiet", base or "origin/main"], capture_output=True, text=True)
    span = [f"{known.stdout.strip()}..HEAD"] if known.returncode == 0 else ["-20"]
    log = subprocess.run([*git, "log", "--no-merges", "--format=%h %s", *span], capture_output=True, text=True)
    for commit in log.stdout.splitlines():
        sha, subject = commit.split(" ", 1)
        for fault in subject_faults(subject):
            print(f"warning: {sha} '{subject}': {fault}")


def self_test():
    exists = lambda name, folder: name in ("base/status.h", "docs/tour.md", "x.cpp")
    references = [
        ("a.h", "// as base/status.h says\n", "// as base/stats.h says\n"),
        ("a.h", '#include "nowhere.h"\n', "int a;  // see nowhere.h\n"),
        ("a.md", "See [the tour](docs/tour.md), and x.cpp.\n", "See `docs/turn.md`.\n"),
        ("a.md", "of transformers: nowhere.py\n", "nowhere.py\n"),
        ("a.md", "`families/<model_type>.cpp`, `control_*.cpp`, gguf.hx\n", "(nowhere.py)\n"),
        ("CMakeLists.txt", "add(gone.cpp)\n", "add(gone.cpp)  # and gone.h\n"),
    ]
    failures = []
    for name, good, bad in references:
        for text, expected in ((good, 0), (bad, 1)):
            if len(list(check_references(Path(name), text, exists))) != expected:
                failures.append(f"self-test: references: expected {expected} in {text!r}")
    long = "x " * 61
    for text, expected in (("x " * 60, 0), (long, 1), ("| " + long, 0), ("```\n" + long + "\n```\n", 0), ("- " + "x" * 140, 0)):
        if len(list(check_columns(Path("a.md"), text))) != expected:
            failures.append(f"self-test: columns: expected {expected} in {text[:40]!r}")
    page = "<!-- includes: made -->\n%s\n<!-- end of includes -->"
    for text, expected in ((page % check_tree.include_table(), 0), (page % "| a | b |", 1), ("nothing", 1)):
        if len(list(check_house(text))) != expected:
            failures.append(f"self-test: includes: expected {expected} in {text[:40]!r}")
    for text, expected in (("`a_fuzz`, `b_fuzz`.", 0), ("`a_fuzz`, `bb_fuzz`", 1)):
        if len(list(check_fuzz(text, ["a_fuzz", "b_fuzz"]))) != expected:
            failures.append(f"self-test: fuzz: expected {expected} in {text!r}")
    tests = tests_of([(Path("a_test.cpp"), "TEST_F(Suite, Does) {\nTYPED_TEST(Typed,\n Does) {\n"), (Path("a.py"), "def test_it(x):\n")])
    table = "| claim | shown by |\n| --- | --- |\n| a | %s |\n"
    for text, expected in (("`Suite.Does`, `Suite.*`, `Typed.Does`, `test_it`", 0), ("`Suite.Does.not`, `test_it.py`, suite.Does", 0),
                           ("`Suite.DoesNot`", 1), ("`test_that`, `Other.*`", 2), (table % "`Suite.Does`", 0), (table % "`./dev sbom`", 0),
                           (table % "`x_fuzz`", 0), (table % "hope", 1), (table % "hope" + "\n| a | b |\n| --- | --- |\n| c | d |\n", 1)):
        if len(list(check_claims(text, tests))) != expected:
            failures.append(f"self-test: claims: expected {expected} in {text!r}")
    for subject, expected in (("exec: keep sequences", 0), ("Keeps sequences", 1), ("exec: " + "x" * 60, 1), ("a/b, c: d", 0)):
        if len(list(subject_faults(subject))) != expected:
            failures.append(f"self-test: commits: expected {expected} in {subject!r}")
    return failures


def main(arguments):
    if arguments[:1] == ["--commits"]:
        warn_commits(*(arguments[1:] + [None, ROOT][len(arguments) - 1:])[:2])
        return 0
    root = Path(arguments[0]) if arguments else ROOT
    files = [path for path in sorted(root.rglob("*"))
             if path.is_file() and not SKIPPED.match(path.relative_to(root).as_posix())]
    names = {path.relative_to(root).as_posix() for path in files}

    def exists(name, folder):
        return (any((base / name).exists() for base in (root, root / "src", folder)) or
                any(known == name or known.endswith("/" + name) for known in names))

    problems = self_test()
    for path in files:
        if path.suffix not in PROSE + COMMENTED or path.parent.name == "tidy":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found = list(check_references(path, text, exists))
        found += check_columns(path, text) if path.suffix in PROSE else []
        problems += [f"{path.relative_to(root).as_posix()}:{line}: {message}" for line, message in found]
    if (root / HOUSE).exists():
        problems += [f"{HOUSE}:{line}: {message}" for line, message in check_house((root / HOUSE).read_text(encoding="utf-8"))]
    else:
        problems.append(f"{HOUSE}: no such page")
    if (root / FUZZED).exists():
        targets = [name for path in sorted((root / "src").rglob("CMakeLists.txt"))
                   for _, name, _ in check_tree.targets(path.read_text(encoding="utf-8"), "fuzz")]
        problems += [f"{FUZZED}:{line}: {message}"
                     for line, message in check_fuzz((root / FUZZED).read_text(encoding="utf-8"), targets)]
    tests = tests_of((path, path.read_text(encoding="utf-8", errors="replace")) for path in files
                     if path.suffix in (".cpp", ".inc", ".h") or path.match("tests/e2e/*.py"))
    for page in CLAIMS:
        if (root / page).exists():
            found = check_claims((root / page).read_text(encoding="utf-8"), tests)
            problems += [f"{page}:{line}: {message}" for line, message in found]
        else:
            problems.append(f"{page}: no such page")
    print(*problems, sep="\n")
    print(f"{len(problems)} problems" if problems else "texts keep the house rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
