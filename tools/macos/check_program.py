#!/usr/bin/env python3
"""Fails if a program that was linked for macOS with symbols left open (`./dev check macos`) could not start there.

    check_program.py PROGRAM --from VERSION

Looks at the Mach-O file: it is a signed program for Apple silicon and for macOS from VERSION on; it asks for no library but
those of the system; and what it leaves open is all of third parties. A symbol of ours among that is one that nothing defines:
a file for macOS that is not in CMake, or a function that only the file for Linux has.

C names are looked up in this system's libraries of the same third parties, which export the same ones. C++ names are not the
same here, for the C++ library is another: of those, the namespace is what counts.
"""

import argparse
import ctypes.util
import re
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

# <mach-o/loader.h>, <mach-o/nlist.h>
HEADER = struct.Struct("<7I4x")  # magic, CPU, kind of it, kind of file, number and bytes of commands, flags
SYMBOL = struct.Struct("<IBBHQ")  # offset of the name, type, section, description, value
MAGIC, ARM64, PROGRAM = 0xFEEDFACF, 0x0100000C, 2
SYMTAB, CODE_SIGNATURE, BUILD_VERSION = 0x2, 0x1D, 0x32
LIBRARY_COMMANDS = (0xC, 0x80000018, 0x8000001F)  # Load, load if there, load and pass on.
MACOS = 1
DEBUGGING, TYPE, EXTERNAL = 0xE0, 0x0E, 0x01
# In place of the number of a library: looked for in all that are loaded. zig's linker says so only where it binds symbols, and
# has 0 here ("in this file").
LEFT_OPEN = (0xFE, 0)

SYSTEM_LIBRARIES = ("/usr/lib/libSystem.B.dylib",)
NAMESPACES = {"absl": "abseil", "fmt": "fmt", "google": "protobuf", "grpc": "gRPC", "prometheus": "prometheus-cpp",
              "spdlog": "spdlog", "YAML": "yaml-cpp"}
C_LIBRARIES = {"crypto": "OpenSSL", "gpr": "gRPC", "grpc": "gRPC", "ncursesw": "ncurses", "ssl": "OpenSSL", "tinfo": "ncurses",
               "xxhash": "xxHash", "z": "zlib"}


class Failed(Exception):
    """What is wrong with the program."""


class Program:
    """What a Mach-O file says of itself: libraries, version (macOS from which on), signed, and undefined: names with the
    library that has them, None where that is left open."""

    def __init__(self, data):
        if len(data) < HEADER.size:
            raise Failed("not a Mach-O file")
        magic, cpu, _, kind, commands, _, _ = HEADER.unpack_from(data)
        if (magic, cpu, kind) != (MAGIC, ARM64, PROGRAM):
            raise Failed(f"not a Mach-O program for arm64: magic {magic:#x}, CPU {cpu:#x}, kind {kind}")
        self.libraries, self.version, self.signed, symbols = [], None, False, None
        at = HEADER.size
        for _ in range(commands):
            command, size = struct.unpack_from("<2I", data, at)
            if command in LIBRARY_COMMANDS:
                self.libraries.append(text_at(data, at + struct.unpack_from("<I", data, at + 8)[0]))
            elif command == BUILD_VERSION:
                platform, oldest = struct.unpack_from("<2I", data, at + 8)
                self.version = f"{oldest >> 16}.{oldest >> 8 & 0xFF}" if platform == MACOS else f"of platform {platform}"
            elif command == CODE_SIGNATURE:
                self.signed = True
            elif command == SYMTAB:
                symbols = struct.unpack_from("<4I", data, at + 8)
            at += size
        if symbols is None:
            raise Failed("no table of symbols")
        self.undefined = dict(self._undefined(data, *symbols))

    def _undefined(self, data, table, count, names, _):
        for name, kind, _, description, _ in SYMBOL.iter_unpack(data[table:table + count * SYMBOL.size]):
            if kind & DEBUGGING or kind & TYPE or not kind & EXTERNAL:
                continue
            number = description >> 8
            if number not in LEFT_OPEN and number > len(self.libraries):
                raise Failed(f"{text_at(data, names + name)} is of library {number}, of {len(self.libraries)}")
            yield text_at(data, names + name), None if number in LEFT_OPEN else self.libraries[number - 1]


def text_at(data, begin):
    return data[begin:data.index(b"\0", begin)].decode()


def exported_names():
    """Name in C to the third party that has it."""
    names = {}
    for library, party in C_LIBRARIES.items():
        found = ctypes.util.find_library(library)
        if found is None:
            raise Failed(f"this system has no lib{library} to compare with; ./dev setup installs it")
        path = subprocess.run(["gcc", f"-print-file-name={found}"], check=True, capture_output=True, text=True).stdout.strip()
        listing = subprocess.run(["nm", "--format=posix", "--dynamic", "--defined-only", path], check=True, capture_output=True,
                                 text=True)
        names.update((line.split()[0].split("@")[0], party) for line in listing.stdout.splitlines())
    return names


def namespace_of(symbol):
    """The outermost namespace of a C++ name; None where it has none. `__ZNK4absl6Status...` and `__ZTVN4grpc...` have one."""
    begin = re.match(r"__Z(?:T[VTISWH]|GV|GR|Th\w*?_)?N[VK]*[RO]?(\d+)", symbol)
    return begin and symbol[begin.end():begin.end() + int(begin.group(1))]


def party_of(symbol, names):
    """The third party that has a symbol, None where it is of nobody that we know, or ours."""
    if "5shoal" in symbol:  # Ours, or made of ours: a template that only we can instantiate.
        return None
    return NAMESPACES.get(namespace_of(symbol)) if symbol.startswith("__Z") else names.get(symbol.removeprefix("_"))


def demangled(symbols):
    text = subprocess.run(["c++filt", "--strip-underscore"], input="\n".join(symbols), check=True, capture_output=True, text=True)
    return text.stdout.splitlines()


def check(program, oldest):
    """Prints how many symbols are open of each third party."""
    if program.version != oldest:
        raise Failed(f"for macOS from {program.version} on, expected {oldest}")
    if not program.signed:
        raise Failed("not signed: Apple silicon starts no such program")
    others = [library for library in program.libraries if library not in SYSTEM_LIBRARIES]
    if others:
        raise Failed(f"asks for libraries that are not the system's: {', '.join(others)}")
    names = exported_names()
    parties = {symbol: party_of(symbol, names) for symbol, library in program.undefined.items() if library is None}
    nobodys = sorted(symbol for symbol, party in parties.items() if party is None)
    if nobodys:
        raise Failed("\n  ".join([f"{len(nobodys)} symbols are left open and of no third party:", *demangled(nobodys)]))
    counts = Counter(parties.values())
    print(f"{len(program.undefined) - len(parties)} symbols of the system; {len(parties)} left open: " +
          ", ".join(f"{counts[party]} of {party}" for party in sorted(counts, key=str.lower)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--from", dest="oldest", required=True, metavar="VERSION")
    arguments = parser.parse_args()
    try:
        check(Program(arguments.program.read_bytes()), arguments.oldest)
    except Failed as error:
        sys.exit(f"{arguments.program}: {error}")


if __name__ == "__main__":
    main()
