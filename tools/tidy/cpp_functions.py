"""The functions that C++ sources declare and define, as far as text tells: clang-format's layout, comments and literals blanked."""

import re
from dataclasses import dataclass

from check_tree import code_only, line_of

NOT_TYPES = {"return", "else", "case", "throw", "new", "delete", "goto", "using", "typedef", "co_return", "co_await", "if",
             "while", "for", "switch", "do", "namespace", "public", "private", "protected"}

# What may stand between the parameters and the end of a head.
AFTER = re.compile(r"(\s|const\b|noexcept\b|override\b|final\b|&|volatile\b|=\s*(0|default|delete)\b)*(->[^;{]*|:[^:].*)?", re.S)


@dataclass(frozen=True)
class Function:
    name: str
    parameters: tuple  # As written, without defaults.
    line: int
    position: int  # Of the name in the text.
    body: bool


def split_list(text):
    """The items of a list, split at commas outside of brackets."""
    items, depth, item = [], 0, ""
    for c in text.replace("->", "  "):
        depth += c in "([{<"
        depth -= c in ")]}>"
        if c == "," and depth == 0:
            items.append(item)
            item = ""
        else:
            item += c
    return [" ".join(item.split()) for item in items + [item] if item.strip()]


def closing(text, opening):
    """The position of the parenthesis that closes the one at `opening`, or -1."""
    depth = 0
    for at in range(opening, len(text)):
        depth += text[at] == "("
        depth -= text[at] == ")"
        if depth == 0:
            return at
    return -1


def is_parameter(text):
    """Whether this declares something: a type, or a type and a name, and no expression."""
    return not re.search(r"[+\-/!?|\"']|\.\w|->|==", text) and re.match(r"(const\s|\w[\w:<>,\s*&\[\]()]*$)", text)


def functions(text):
    """Every function that is declared or defined, in order. Lambdas, macros, constructors and destructors are left out."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), code_only(text), flags=re.M)
    for match in re.finditer(r"[;{}]", code):
        start = max(code.rfind(c, 0, match.start()) for c in ";{}") + 1
        head = code[start:match.start()]
        if match.group(0) == "}":
            continue
        found = re.match(
            r"\s*(?:(?:public|private|protected)\s*:\s*)?(?:template\s*<.*?>\s*(?=[\w\[:]))?(?:\[\[\w+\]\]\s*)?"
            r"(?P<type>[\w:]+(?:[\w:\s*&,]|<(?:[^<>()]|<[^<>]*>|\([^()]*\))*>)*?[\s*&>])(?P<name>(?:\w+::)*\w+)\(", head, re.S)
        if not found or found.group("type").split()[0] in NOT_TYPES or "operator" in head[:found.end()]:
            continue
        end = closing(head, found.end() - 1)
        if end < 0 or not AFTER.fullmatch(head[end + 1:]):
            continue
        parameters = [re.sub(r"\s*=.*", "", item) for item in split_list(head[found.end():end])]
        if all(is_parameter(item) for item in parameters):
            position = start + found.start("name")
            yield Function(found.group("name").split("::")[-1], tuple(parameters), line_of(text, position), position,
                           match.group(0) == "{")
