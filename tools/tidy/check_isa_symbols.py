#!/usr/bin/env python3
"""Fails if an object that is compiled for one instruction set exports anything but its kernel tables.

An inline function emitted there would use that instruction set, and the linker may choose this copy for the whole program,
which would then crash on other CPUs, far from any kernel.

usage: check_isa_symbols.py libshoal_kernels.a [library ...]
"""
import subprocess
import sys

OBJECTS = {"reference": "ReferenceKernels", "avx2": "Avx2Kernels AvxVnniKernels", "avx512": "Avx512Kernels", "amx_vectors": "AmxVectorKernels",
           "amx": "AmxKernels",
           "neon": "NeonKernels", "neon_dotprod": "NeonDotprodKernels", "neon_i8mm": "NeonI8mmKernels",
           "amx_emulated": "MatmulOnEmulatedTiles"}


def main(libraries):
    listing = subprocess.run(["nm", "--format=posix", "--extern-only", "--defined-only", "--demangle", *libraries],
                             check=True, capture_output=True, text=True).stdout
    exported = {}
    for line in listing.splitlines():
        if line.endswith("]:"):  # libshoal_kernels.a[avx2.cpp.o]:
            current = line[line.rindex("[") + 1:].split(".")[0]
            exported[current] = []
        elif line and not line.startswith("DW.ref."):  # A pointer to data of the exception handler, not code.
            exported[current].append(line)
    if "reference" not in exported:
        sys.exit(f"check_isa_symbols: no reference.cpp.o in {' '.join(libraries)}")
    failed = False
    for name, tables in OBJECTS.items():
        wanted = tuple(f"shoal::{table}(" for table in tables.split())
        others = [line for line in exported.get(name, []) if not line.startswith(wanted)]
        if name in exported and (others or len(exported[name]) != len(wanted)):
            failed = True
            print(f"{name}.cpp exports more or less than {', '.join(wanted)}...:", *others, sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
