#!/usr/bin/env python3
"""Holds the sources to the house rules that no compiler checks (CONTRIBUTING.md).

    check_tree.py [ROOT]        self-test, then every source of the tree; exit 1 with one line per violation
    check_tree.py --self-test   only proves that each rule can fail
    check_tree.py --table       prints what each folder may include, for docs/house.md

Each rule is a function (path, text) -> [(line, message)] over one file; RULES lists them by name.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def targets(text, kinds):
    """(kind, name, DEPS) of the shoal_<kind>() calls of a CMakeLists.txt."""
    for kind, name, body in re.findall(r"shoal_(%s)\(\s*(\w+)\b(.*?)\)" % kinds, text, re.S):
        deps = re.search(r"\bDEPS\b(.*?)(?:\b(?:LINK|PRIVATE_LINK|SOURCES?|TIMEOUT)\b|$)", body, re.S)
        yield kind, name, deps.group(1).split() if deps else []


def read_allowed(root):
    """What each folder of src/ may include, and what its tests may besides: the DEPS of its targets in CMake, the only list."""
    allowed, tests = {}, {}
    for path in sorted(root.glob("src/*/CMakeLists.txt")):
        folder, text = path.parent.name, path.read_text(encoding="utf-8")
        allowed[folder] = {dep for _, name, deps in targets(text, "library") if name == folder for dep in deps}
        tests[folder] = {re.sub("_testing$", "", dep) for _, _, deps in targets(text, "test|fuzz|bench") for dep in deps}
    allowed["app"] = set(allowed)  # The program itself: no library.
    return allowed, tests


ALLOWED, ALLOWED_IN_TESTS = read_allowed(ROOT)


def include_table():
    """What each folder of src/ may include, as docs/house.md has it; its tests may include more."""
    listed = re.findall(r"\bfolder\s(.*?)\)", (ROOT / "src/CMakeLists.txt").read_text(encoding="utf-8"), re.S)[0].split()
    rows = [f"| `{folder}` | {', '.join(dep for dep in listed if dep in ALLOWED[folder] - {folder}) or 'nothing of ours'} |"
            for folder in listed if folder in ALLOWED]
    return "\n".join(["| folder | may include |", "| --- | --- |", *rows]) + "\n"


# Outside headers with an owner: pattern of the header, pattern of the files that may include it, the rule in words.
EXCLUSIVE = [
    (r"[a-z]*mmintrin\.h|immintrin\.h|x86intrin\.h|arm_(neon|sve|acle)\.h",
     r"src/kernels/(avx2|avx512|amx\w*|neon\w*)\.cpp|src/kernels/lane_\w+\.inc", "intrinsics only in kernels/<isa>.cpp"),
    (r"grpc(pp)?/.*|google/protobuf/.*|.*\.pb\.h", r"src/wire/grpc/\w+\.(cpp|h)|src/cluster/control\w*\.(cpp|h)",
     "gRPC and protobuf only in wire/grpc/ and cluster/control*"),
    (r"boost/.*", r"src/api/http/(\w+\.cpp|connection\.h)", "Boost only in api/http/, and in no header but the internal one"),
    (r"ucp/.*|ucs/.*|uct/.*", r"src/wire/ucx\w*\.cpp", "UCX only in wire/ucx*.cpp"),
    (r"nlohmann/(?!json_fwd\.hpp).*", r".*\.cpp|.*/testing/.*\.h",
     "nlohmann only in .cpp files and in headers of tests (json_fwd.hpp elsewhere)"),
    (r"yaml-cpp/.*", r"src/plan/\w+\.cpp", "yaml-cpp only in plan/*.cpp"),
    (r"CLI/.*", r"src/app/flags\.cpp", "CLI11 only in app/flags.cpp"),
    (r"spdlog/.*", r"src/base/\w+\.cpp", "spdlog only in base/*.cpp"),
]

# Words with an owner, looked for outside of comments and literals.
WORDS = [
    (r"\b(steady_clock|system_clock|high_resolution_clock|clock_gettime|gettimeofday)\b|(?<![\w.>])time\s*\(\s*(NULL|nullptr|0)\s*\)",
     r"src/base/.*|tests/sim/posix\.cpp", "clocks only through base/clock.h"),
    (r"\brandom_device\b|\bmt19937(_64)?\b|(?<![\w.>])s?rand\s*\(", r"src/base/.*|tests/sim/posix\.cpp", "randomness only through base/random.h"),
    (r"\b(secure_)?getenv\s*\(", r"src/app/.*|.*_test\.cpp|tests/.*", "the environment is read in app/ only"),
]

FILE_LINES_MAX = 600
KERNEL_FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 70
KERNEL_FUNCTION_LINES_MAX = 120

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)
TEST_FILE = re.compile(r"tests/.*|src/.*(_test|_fuzz|_bench)\.cpp|src/\w+/testing/.*|src/.*/(test_\w+|\w+_test_\w+)\.(h|cpp)")
TEST_HEADER = re.compile(r"harness/.*|\w+/testing/.*|\w+/(.*/)?(test_\w+|\w+_test_\w+)\.h")
LONG_REASON = re.compile(r"//\s*long:\s*\S")


def folder_of(path):
    match = re.fullmatch(r"src/(\w+)/.*", path)
    return match.group(1) if match else None


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def code_only(text):
    """The text with comments and literals blanked out, line breaks kept."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\s\\]{0,16})\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|'
        r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def includes(text):
    for match in INCLUDE.finditer(text):
        yield line_of(text, match.start()), match.group(1) == '"', match.group(2)


def may_include(path, folder):
    allowed = ALLOWED.get(folder, set())
    return allowed | ALLOWED_IN_TESTS.get(folder, set()) if TEST_FILE.fullmatch(path) else allowed


def check_direction(path, text):
    folder = folder_of(path)
    for line, quoted, header in includes(text):
        if not quoted or folder is None:
            continue
        target = header.split("/")[0]
        if "/" not in header or ".." in header:
            if not header.endswith("shoal_bridge.h"):
                yield line, f'"{header}": write it from src/, as in "base/status.h"'
        elif target in ALLOWED and target != folder and target not in may_include(path, folder):
            allowed = ", ".join(sorted(may_include(path, folder))) or "nothing of ours"
            yield line, f'{folder} may not include "{header}" (only {allowed})'


def check_test_headers(path, text):
    if not TEST_FILE.fullmatch(path):
        for line, quoted, header in includes(text):
            if quoted and TEST_HEADER.fullmatch(header):
                yield line, f'"{header}" is for tests only'


def check_exclusive(path, text):
    for line, _, header in includes(text):
        for what, where, rule in EXCLUSIVE:
            if re.fullmatch(what, header) and not re.fullmatch(where, path):
                yield line, f"{header}: {rule}"


def check_words(path, text):
    code = code_only(text)
    for what, where, rule in WORDS:
        if re.fullmatch(where, path):
            continue
        for match in re.finditer(what, code):
            yield line_of(code, match.start()), f"{match.group(0).strip()}: {rule}"


def check_pragma_once(path, text):
    if path.endswith(".h") and not re.search(r"^#pragma once$", text, re.M):
        yield 1, "a header without #pragma once"


def check_conditionals(path, text):
    if folder_of(path) in ("base", "kernels", None):
        return
    for match in re.finditer(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*$", text, re.M):
        yield line_of(text, match.start()), f"{match.group(0).strip()}: conditional compilation only in base/ and kernels/"


def check_file_length(path, text):
    most = KERNEL_FILE_LINES_MAX if folder_of(path) == "kernels" else FILE_LINES_MAX
    lines = text.count("\n")
    if lines > most and not LONG_REASON.search(text):
        yield 1, f"{lines} lines, {most} are the most: split it, or say why in a line `// long: reason`"


def function_head(lines, last):
    """The first line of the function whose `{` ends lines[last], or None where that opens something else."""
    first = last
    while first > 0 and lines[first - 1].strip() and not re.search(r"[;{}:>]\s*$|^\s*#", lines[first - 1]):
        first -= 1
    head = " ".join(line.strip() for line in lines[first:last + 1])
    if head.count("(") != head.count(")") or "(" not in head:
        return None
    if re.match(r"(\}|if|else|for|while|do|switch|catch|return|namespace|struct|class|union|enum|extern)\b|\}", head):
        return None
    flat = re.sub(r"operator\s*\W+?(?=\()", "operator", head)
    for _ in range(head.count("(")):  # Innermost parentheses first.
        flat = re.sub(r"\([^()]*\)", "", flat)
    return None if "=" in flat else first


def check_function_length(path, text):
    """Functions as clang-format leaves them: from a head that ends with `{` to `}` at the same depth."""
    most = KERNEL_FUNCTION_LINES_MAX if folder_of(path) == "kernels" else FUNCTION_LINES_MAX
    lines = code_only(text).split("\n")
    raw = text.split("\n")
    for last, line in enumerate(lines):
        first = function_head(lines, last) if line.rstrip().endswith("{") else None
        if first is None:
            continue
        closing = lines[first][:len(lines[first]) - len(lines[first].lstrip())] + "}"
        end = last + 1
        while end < len(lines) and not lines[end].startswith(closing):
            end += 1
        length = end - first + 1
        if length > most and not any(LONG_REASON.search(line) for line in raw[first:end]):
            yield first + 1, f"a function of {length} lines, {most} are the most: split it, or say why in a line `// long: reason`"


def check_leftovers(path, text):
    for match in re.finditer(r"\b(TODO|FIXME|XXX|HACK)\b", text):
        yield line_of(text, match.start()), f"{match.group(0)}: finish it, or write it down where it will be read"


def check_using_namespace(path, text):
    if path.endswith(".h"):
        for match in re.finditer(r"^\s*using namespace\b", code_only(text), re.M):
            yield line_of(text, match.start()), "using namespace in a header"


def check_order(path, text):
    """Folders in src/CMakeLists.txt stand in the allowed direction: each below those it may include."""
    if path != "src/CMakeLists.txt":
        return
    listed = re.search(r"foreach\(\s*folder\s(.*?)\)", text, re.S)
    order = listed.group(1).split() if listed else []
    for at, folder in enumerate(order):
        for dep in sorted(ALLOWED.get(folder, set()) - {folder}):
            if dep not in order[:at]:
                yield 1, f"{folder} includes {dep}, which does not stand above it"


TYPE_HEAD = re.compile(r"(?:template\s*<.*>\s*)?(?:struct|class|union|enum(?:\s+(?:class|struct))?)\s+(?:alignas\([^)]*\)\s*)?"
                       r"(\w+)\s*(?:final\s*)?(?::[^:].*)?$", re.S)


def shared_types(text):
    """(name with its namespaces, line) of each type that is defined outside of functions, of other types and of unnamed
    namespaces: two files of a program must not define two of one name, whether they include each other or not."""
    code = re.sub(r"^[ \t]*#[^\n]*", lambda m: " " * len(m.group(0)), code_only(text), flags=re.M)
    around, start = [], 0  # Names of the namespaces around; None: something else, or a namespace without a name.
    for match in re.finditer(r"[;{}]", code):
        head = code[start:match.start()].strip()
        start = match.end()
        if match.group(0) == "}":
            around = around[:-1]
        elif match.group(0) == "{":
            namespace = re.search(r"\bnamespace(?:\s+([\w:]+))?$", head)
            defined = TYPE_HEAD.match(head)
            if defined and None not in around:
                yield "::".join([*around, defined.group(1)]), line_of(text, match.start())
            around.append(namespace.group(1) if namespace else None)


def check_types(texts):
    """[(path, line, message)] of types of the sources below src/ ({path: text}) that share a name."""
    first = {}
    for path, text in texts.items():
        for name, line in shared_types(text) if path.startswith("src/") else ():
            path_before, line_before = first.setdefault(name, (path, line))
            if path_before != path:
                yield path, line, f"{name} is the name of another type, too ({path_before}:{line_before})"


CPP_RULES = {
    "direction": check_direction,
    "test-headers": check_test_headers,
    "exclusive": check_exclusive,
    "words": check_words,
    "pragma-once": check_pragma_once,
    "conditionals": check_conditionals,
    "file-length": check_file_length,
    "function-length": check_function_length,
    "leftovers": check_leftovers,
    "using-namespace": check_using_namespace,
}
CMAKE_RULES = {"order": check_order}


def violations(path, text):
    """[(rule, line, message)] of one file; its path is relative to the root."""
    rules = CMAKE_RULES if path.endswith("CMakeLists.txt") else CPP_RULES
    return [(name, line, message) for name, rule in rules.items() for line, message in rule(path, text)]


def self_test():
    """Each rule passes a good file and refuses a bad one that differs in the one thing it is about."""
    body = lambda n: "int F() {\n" + "  G();\n" * n + "}\n"
    cases = [  # rule, path, good text, bad text
        ("direction", "src/plan/a.cpp", '#include "base/x.h"\n', '#include "wire/x.h"\n'),
        ("direction", "src/base/a.cpp", '#include "base/x.h"\n', '#include "numeric/x.h"\n'),
        ("direction", "src/models/a.cpp", '#include "formats/x.h"\n', '#include "kernels/x.h"\n'),
        ("direction", "src/sched/a_test.cpp", '#include "exec/x.h"\n', '#include "api/x.h"\n'),
        ("direction", "src/api/a.cpp", '#include "sched/x.h"\n', '#include "app/x.h"\n'),
        ("direction", "src/kv/a.cpp", '#include "kv/x.h"\n', '#include "x.h"\n'),
        ("direction", "src/kv/a.cpp", '#include "kv/x.h"\n', '#include "../kv/x.h"\n'),
        ("test-headers", "src/kv/a.cpp", '#include "kv/x.h"\n', '#include "kv/testing/x.h"\n'),
        ("test-headers", "src/kv/a.cpp", '#include "kv/x.h"\n', '#include "kv/test_files.h"\n'),
        ("exclusive", "src/kernels/reference.cpp", "#include <vector>\n", "#include <immintrin.h>\n"),
        ("exclusive", "src/kernels/dispatch.cpp", "#include <cpuid.h>\n", "#include <arm_neon.h>\n"),
        ("exclusive", "src/wire/frame.cpp", "#include <vector>\n", "#include <grpcpp/grpcpp.h>\n"),
        ("exclusive", "src/exec/a.cpp", "#include <vector>\n", '#include "shoal/v1/control.pb.h"\n'),
        ("exclusive", "src/api/openai.cpp", "#include <vector>\n", "#include <boost/beast.hpp>\n"),
        ("exclusive", "src/wire/grpc/endpoint.cpp", "#include <grpcpp/grpcpp.h>\n", "#include <ucp/api/ucp.h>\n"),
        ("exclusive", "src/plan/a.h", "#pragma once\n", "#pragma once\n#include <nlohmann/json.hpp>\n"),
        ("exclusive", "src/exec/a.cpp", "#include <nlohmann/json.hpp>\n", "#include <yaml-cpp/yaml.h>\n"),
        ("exclusive", "src/app/main.cpp", '#include "app/flags.h"\n', "#include <CLI/CLI.hpp>\n"),
        ("exclusive", "src/exec/a.cpp", '#include "base/log.h"\n', "#include <spdlog/spdlog.h>\n"),
        ("words", "src/exec/a.cpp", "auto t = Clock::now();  // not steady_clock\n", "auto t = std::chrono::steady_clock::now();\n"),
        ("words", "src/exec/a.cpp", "auto t = step.time(0);\n", "auto t = time(nullptr);\n"),
        ("words", "src/exec/a.cpp", 'Say("rand() is not used");\n', "int x = rand();\n"),
        ("words", "src/exec/a.cpp", "int operand(int x);\n", "std::random_device d;\n"),
        ("words", "src/exec/a.cpp", 'auto s = R"(getenv("X"))";\n', 'auto s = std::getenv("X");\n'),
        ("words", "src/exec/a.cpp", "int64_t n = 1'000'000;  // rand()\n", "int64_t n = 1'000'000 + rand();\n"),
        ("pragma-once", "src/exec/a.h", "#pragma once\n", "#ifdef_a_h\n"),
        ("conditionals", "src/exec/a.cpp", "#include <vector>\n", "#ifdef NDEBUG\n"),
        ("conditionals", "src/app/a.cpp", "#define X 1\n", "# if defined(__linux__)\n"),
        ("file-length", "src/exec/a.cpp", "\n" * 600, "\n" * 601),
        ("file-length", "src/kernels/a.cpp", "\n" * 1000, "\n" * 1001),
        ("file-length", "src/exec/a.cpp", "// long: one table\n" + "\n" * 700, "// long:\n" + "\n" * 700),
        ("function-length", "src/exec/a.cpp", body(68), body(69)),
        ("function-length", "src/exec/a.cpp", "class A {\n" + "  int x;\n" * 99 + "};\n", "  int f() const {\n" + "    G();\n" * 69 + "  }\n"),
        ("function-length", "src/kernels/a.cpp", body(118), body(119)),
        ("function-length", "src/exec/a.cpp", "int F() {\n  // long: one table\n" + "  G();\n" * 90 + "}\n",
         "int F(int a,\n      int b) {\n" + "  if (a) {\n    G();\n  }\n" * 30 + "}\n"),
        ("function-length", "src/exec/a.cpp", "auto F(int x)\n    -> decltype(G(x)) {\n  return G(x);\n}\n" + "// x\n" * 90,
         "auto F(int x)\n    -> decltype(G(x)) {\n" + "  G(x);\n" * 68 + "}\n"),
        ("function-length", "src/exec/a.cpp", "Table kTable = {\n" + "  G(),\n" * 90 + "};\n",
         "A::A(int a)\n    : a_(a) {\n" + "  G(a);\n" * 68 + "}\n"),
        ("leftovers", "src/exec/a.cpp", "// later\n", "// TO" + "DO later\n"),
        ("using-namespace", "src/exec/a.h", "#pragma once\n", "#pragma once\nusing namespace std;\n"),
        ("order", "src/CMakeLists.txt", "foreach(\n  folder\n  base\n  plan)\n", "foreach(\n  folder\n  plan\n  base)\n"),
    ]
    failures = []
    for rule, path, good, bad in cases:
        for text, expected in ((good, []), (bad, [rule])):
            found = sorted({name for name, _, _ in violations(path, text)})
            if found != expected:
                failures.append(f"self-test: {path}: expected {expected}, found {found} in {text[:60]!r}")
    types = "namespace shoal {\nstruct A {\n  struct B {};\n};\n}\n"
    for text, clashes in (("namespace shoal {\nnamespace {\nenum class A : int { kX };\n}\nstruct B final : C {};\nclass A;\n}\n", 0),
                          ("namespace shoal {\nnamespace wire {\nstruct A {};\n}\nvoid F() {\n  struct A {};\n}\n}\n", 0),
                          ("namespace shoal {\nenum class A : int { kX };\n}\n", 1)):
        if len(list(check_types({"src/a/a.h": types, "src/b/b.cpp": text}))) != clashes:
            failures.append(f"self-test: types: expected {clashes} clashes in {text!r}")
    untested = (set(CPP_RULES) | set(CMAKE_RULES)) - {rule for rule, _, _, _ in cases}
    failures += [f"self-test: no case for the rule {rule}" for rule in sorted(untested)]
    return failures


def sources(root):
    for folder in ("src", "tests", "bench"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".inc") or path.name == "CMakeLists.txt":
                yield path


def main(arguments):
    if "--table" in arguments:
        print(include_table(), end="")
        return 0
    problems = self_test()
    if "--self-test" not in arguments:
        root = Path(arguments[0]) if arguments else ROOT
        files = list(sources(root))
        if not files:
            problems.append(f"{root}: no sources found")
        texts = {}
        for file in files:
            path = file.relative_to(root).as_posix()
            texts[path] = file.read_text(encoding="utf-8")
            problems += [f"{path}:{line}: [{rule}] {message}" for rule, line, message in violations(path, texts[path])]
        problems += [f"{path}:{line}: [types] {message}" for path, line, message in check_types(texts)]
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "the tree keeps the house rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
