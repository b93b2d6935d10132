"""What the drivers of this folder share: the machine in words, spreads, and writing a table into docs/benchmarks-tables.md."""
import os
import platform
import statistics
import subprocess
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks-tables.md"
PAGE_COLUMNS = 120

# The instruction sets that our kernels and those of others choose by, as /proc/cpuinfo spells them.
ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")


def _cpuinfo(field, text=None):
    for line in (Path("/proc/cpuinfo").read_text() if text is None else text).splitlines():
        if line.split(":", 1)[0].strip() == field:
            return line.split(":", 1)[1].strip()
    return ""


def cpu_name():
    return _cpuinfo("model name") or platform.processor()


def cpu_isa():
    """Those of ISA_FLAGS that this CPU reports (`flags` on x86, `Features` on ARM)."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in ISA_FLAGS if flag in flags]


def machine():
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def commit():
    """Of the checkout, with + where files differ from it: such a number cannot be repeated from the commit alone."""
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def spread(values, digits=1):
    """'median (minimum-maximum)'."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def markers(driver):
    """The two lines between which `driver` owns the page."""
    return f"<!-- begin: bench/{driver} -->", f"<!-- end: bench/{driver} -->"


def _line_of_page(line):
    """The line as the page has it: prose is wrapped, rows of tables are not."""
    return line if line.startswith("|") else textwrap.fill(line, PAGE_COLUMNS, break_long_words=False, break_on_hyphens=False)


def write_section(driver, text, page=PAGE):
    """Replaces what stands between the driver's markers. Raises ValueError where the page lacks them."""
    begin, end = markers(driver)
    old = page.read_text()
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{page}: expected one '{begin}' and one '{end}' after it, "
                         f"found {old.count(begin)} and {old.count(end)}")
    text = "\n".join(map(_line_of_page, text.split("\n")))
    head, rest = old.split(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
