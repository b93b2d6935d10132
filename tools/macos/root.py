#!/usr/bin/env python3
"""Makes a folder with which this Linux machine compiles and links the whole binary for macOS (`./dev check macos`).

    root.py OUT --zig ZIG --cache CACHE

ZIG is the program of the PyPI package `ziglang`: a clang with headers and libraries of C and C++ for macOS. CACHE is the folder
where it keeps what it made, its C++ library among that. In OUT come
    bin/          clang++, ar and ranlib, which are that program
    include/      links to this system's headers of third parties: what they declare is the same on macOS
    cmake/        a package per third party, for find_package(): its headers, and nothing to link; protoc and gRPC's plugin are
                  this system's
    pkgconfig/    the same for pkg-config
What is linked with them has the third parties' symbols left open: the system of a Mac would have them.
"""

import argparse
import shutil
import stat
import subprocess
from pathlib import Path

# Headers and folders of headers, as they are named in #include.
HEADERS = ["absl", "boost", "CLI", "fmt", "google", "grpc", "grpc++", "grpcpp", "nlohmann", "openssl", "prometheus", "spdlog",
           "yaml-cpp", "curses.h", "ncurses.h", "ncurses_dll.h", "unctrl.h", "xxh3.h", "xxhash.h", "zconf.h", "zlib.h"]

# Packages of CMake: version, libraries.
PACKAGES = {
    "absl": ("", ["absl::cord", "absl::function_ref", "absl::status", "absl::statusor", "absl::strings", "absl::synchronization"]),
    "Boost": ("1.74.0", ["Boost::headers"]),
    "CLI11": ("", ["CLI11::CLI11"]),
    "fmt": ("", ["fmt::fmt"]),
    "gRPC": ("", ["gRPC::grpc++"]),
    "nlohmann_json": ("", ["nlohmann_json::nlohmann_json"]),
    "OpenSSL": ("", ["OpenSSL::SSL", "OpenSSL::Crypto"]),
    "prometheus-cpp": ("", ["prometheus-cpp::core"]),
    "Protobuf": ("", ["protobuf::libprotobuf"]),
    "spdlog": ("", ["spdlog::spdlog"]),
    "yaml-cpp": ("", ["yaml-cpp"]),
    "ZLIB": ("", ["ZLIB::ZLIB"]),
}
# Boost 1.74 takes std::result_of from a C++ library that it does not know, and this one has dropped it.
DEFINITIONS = {"Boost::headers": "BOOST_ASIO_HAS_STD_INVOKE_RESULT=1"}
PROGRAMS = {"gRPC": ("gRPC::grpc_cpp_plugin", "grpc_cpp_plugin"), "Protobuf": ("protobuf::protoc", "protoc")}
PKGCONFIG = ["libxxhash", "ncursesw"]


def link_headers(include):
    """OpenSSL has some of its headers in a folder of the architecture."""
    include.mkdir(parents=True)
    triple = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    for name in HEADERS:
        found = [root / name for root in (Path("/usr/include"), Path("/usr/include") / triple) if (root / name).exists()]
        if not found:
            raise SystemExit(f"root.py: there is no /usr/include/{name}; ./dev setup installs what has it")
        if len(found) == 1:
            (include / name).symlink_to(found[0])
            continue
        (include / name).mkdir()
        for file in (file for folder in found for file in folder.iterdir()):
            (include / name / file.name).symlink_to(file)


def write_packages(out):
    cmake = out / "cmake"
    cmake.mkdir()
    for name, (version, libraries) in PACKAGES.items():
        lines = [f"# Made by tools/macos/root.py: the headers of {name}, and nothing to link."]
        for library in libraries:
            lines += [f"if(NOT TARGET {library})",
                      f"  add_library({library} INTERFACE IMPORTED)",
                      f'  target_include_directories({library} SYSTEM INTERFACE "{out}/include")',
                      *([f"  target_compile_definitions({library} INTERFACE {DEFINITIONS[library]})"] if library in DEFINITIONS else []),
                      "endif()"]
        if name in PROGRAMS:
            target, program = PROGRAMS[name]
            path = shutil.which(program)
            if path is None:
                raise SystemExit(f"root.py: there is no {program}; ./dev setup installs it")
            lines += [f"if(NOT TARGET {target})",
                      f"  add_executable({target} IMPORTED)",
                      f'  set_target_properties({target} PROPERTIES IMPORTED_LOCATION "{path}")',
                      "endif()"]
        (cmake / f"{name}Config.cmake").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if version:
            (cmake / f"{name}ConfigVersion.cmake").write_text(
                f"set(PACKAGE_VERSION {version})\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n", encoding="utf-8")
    pkgconfig = out / "pkgconfig"
    pkgconfig.mkdir()
    for name in PKGCONFIG:
        (pkgconfig / f"{name}.pc").write_text(f"Name: {name}\nDescription: its headers\nVersion: 0\nCflags: -I{out}/include\n",
                                              encoding="utf-8")


# zig reads -march as the name of a CPU and of features, and has names of its own for them. Not apple_m1, which it takes where none
# is named: files for lesser CPUs must not have its instructions.
CPUS = """for word do
  shift
  case $word in
    -march=armv8-a*) word=-mcpu=generic${word#*-a} ;;
    -march=armv8.2-a*) word=-mcpu=generic+v8_2a${word#*-a} ;;
  esac
  set -- "$@" "$word"
done
"""


def write_programs(folder, zig, cache):
    folder.mkdir()
    for name, words in {"clang++": "c++", "ar": "ar", "ranlib": "ranlib"}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR="{cache}" ZIG_LOCAL_CACHE_DIR="{cache}"\n'
                           f'{CPUS}exec "{zig}" {words} "$@"\n', encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--zig", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    if out.exists():
        shutil.rmtree(out)
    link_headers(out / "include")
    write_packages(out)
    write_programs(out / "bin", arguments.zig.absolute(), arguments.cache.absolute())


if __name__ == "__main__":
    main()
