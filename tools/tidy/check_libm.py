#!/usr/bin/env python3
"""Fails if a static library of a compute folder calls libm for anything but fma and sqrt.

glibc chooses variants of its functions by CPU, and other systems have other functions, so results would depend on the
machine (docs/numerics.md). fma and sqrt are correctly rounded everywhere.

usage: check_libm.py BUILD_FOLDER | LIBRARY.a...
A build folder means the libraries of the compute folders in it.
"""
import ctypes.util
import subprocess
import sys
from pathlib import Path

COMPUTE_FOLDERS = ("numeric", "kernels", "kv", "models", "loading", "compute", "exec")

ALLOWED = {"fma", "fmaf", "sqrt", "sqrtf"}


def symbols(arguments):
    """The names that `nm` prints, without symbol versions."""
    listing = subprocess.run(["nm", "--format=posix", *arguments], check=True, capture_output=True, text=True).stdout
    lines = (line.split() for line in listing.splitlines() if " " in line)
    return {words[0].split("@")[0] for words in lines}


def libm_functions():
    found = ctypes.util.find_library("m")
    path = subprocess.run(["gcc", f"-print-file-name={found}"], check=True, capture_output=True, text=True).stdout.strip()
    exported = symbols(["--dynamic", "--defined-only", path])
    if "exp" not in exported or "sin" not in exported:
        sys.exit(f"check_libm: {path} exports neither exp nor sin; is it libm?")
    return exported


def libraries_of(argument):
    path = Path(argument)
    if not path.is_dir():
        return [path]
    built = [path / "src" / folder / f"libshoal_{folder}.a" for folder in COMPUTE_FOLDERS]
    built = [library for library in built if library.exists()]
    if not built:
        sys.exit(f"check_libm: no library of {', '.join(COMPUTE_FOLDERS)} in {path}; build first")
    return built


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    libraries = [library for argument in arguments for library in libraries_of(argument)]
    forbidden = libm_functions() - ALLOWED
    failed = False
    for library in libraries:
        used = sorted(symbols(["--undefined-only", str(library)]) & forbidden)
        if used:
            failed = True
            print(f"{library}: calls {', '.join(used)} of libm; use numeric/transcendental.h or a kernel")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
