#!/usr/bin/env python3
"""Writes a CycloneDX 1.5 SBOM of the shoal binary: what is linked into it, and what it loads at its start.

  sbom.py BINARY [--out FILE]

No guesses: `ldd` and dpkg say which package each shared library is of, `cargo tree` which crates
are linked into the bridge, the lock file of web/ what its page brings, and a short list below which packages are headers or archives that leave no trace in the
binary. Debian's own `copyright` files and cargo's metadata name the licences. Needs dpkg and cargo.
"""
import argparse
import hashlib
import json
import re
import subprocess
import sys
import uuid
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
# Compiled in from headers, or from an archive of the distribution.
IN_THE_BINARY = ("libboost1.74-dev", "libboost1.83-dev", "nlohmann-json3-dev", "libcli11-dev", "libabsl-dev",
                 "prometheus-cpp-dev", "libspdlog-dev", "libfmt-dev")
# Words of Debian's machine-readable copyright files that SPDX writes otherwise.
SPDX = {"Expat": "MIT", "BSD-3-clause": "BSD-3-Clause", "BSD-2-clause": "BSD-2-Clause", "Apache-2": "Apache-2.0",
        "BSL-1.0": "BSL-1.0", "GPL-3": "GPL-3.0-only", "GPL-3+": "GPL-3.0-or-later", "GPL-2": "GPL-2.0-only",
        "GPL-2+": "GPL-2.0-or-later", "LGPL-2.1": "LGPL-2.1-only", "LGPL-2.1+": "LGPL-2.1-or-later",
        "LGPL-2+": "LGPL-2.0-or-later", "LGPL-3+": "LGPL-3.0-or-later", "zlib": "Zlib"}


def output(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=SOURCE).stdout


def shared_libraries(binary):
    """The files that the loader takes."""
    return sorted(set(re.findall(r"=> (/\S+)", output("ldd", str(binary)))))


def packages_of(paths):
    """The Debian packages of files, by path; dpkg may know a file under /usr or without."""
    names = {path: {str(Path(path).resolve()), path, str(Path(path).resolve()).removeprefix("/usr"), "/usr" + path}
             for path in paths}
    # One call for all: each reads the whole list of files.
    done = subprocess.run(["dpkg-query", "-S", *sorted(set().union(*names.values()))], capture_output=True, text=True,
                          check=False)
    owners = {}
    for line in done.stdout.splitlines():
        owner, path = line.rsplit(": ", 1)
        owners[path] = owner.split(",")[0].split(":")[0]
    return {path: next((owners[name] for name in sorted(names[path]) if name in owners), None) for path in paths}


def licences_of_package(package):
    """As far as Debian's copyright file names them in its machine-readable form; else it is named itself."""
    path = Path(f"/usr/share/doc/{package}/copyright")
    if not path.exists():
        return []
    text = path.read_text(errors="replace")
    found = sorted(set(re.findall(r"^License: *(\S[^\n]*)$", text, re.M)))
    if not found:
        return [{"license": {"name": f"see {path}"}}]
    ids = [SPDX.get(word, word) for word in found]
    return [{"license": {"id": one} if re.fullmatch(r"[A-Za-z0-9.-]+", one) and one in SPDX.values() else {"name": one}}
            for one in ids]


def debian_component(package):
    line = output("dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\t${source:Package}\n", package)
    name, version, architecture, source = line.splitlines()[0].split("\t")
    distribution = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.M))
    purl = f"pkg:deb/{distribution['ID']}/{name}@{version.replace('+', '%2B')}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "licenses": licences_of_package(name), "properties": [{"name": "debian:source", "value": source}]}


def crates():
    """The crates that are linked into the bridge; those that only build or test it are not."""
    metadata = json.loads(output("cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path",
                                 "bridge/Cargo.toml"))
    linked = set()
    tree = output("cargo", "tree", "--locked", "--manifest-path", "bridge/Cargo.toml", "--edges", "normal", "--prefix", "none",
                  "--format", "{p}")
    for line in tree.splitlines():
        name, version = line.split()[:2]
        linked.add((name, version.removeprefix("v")))
    for package in metadata["packages"]:
        if (package["name"], package["version"]) not in linked or package["source"] is None:
            continue
        purl = f"pkg:cargo/{package['name']}@{package['version']}"
        licence = package["license"] or (f"see {package['license_file']}" if package["license_file"] else None)
        # Older crates write a slash for "or".
        licences = [{"expression": licence.replace("/", " OR ")}] if package["license"] else (
            [{"license": {"name": licence}}] if licence else [])
        yield {"type": "library", "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl,
               "licenses": licences}


def npm_packages():
    """What a page that is built into the binary brings, where there is one."""
    lock = SOURCE / "web/package-lock.json"
    packages = json.loads(lock.read_text())["packages"] if lock.exists() else {}
    for path, package in packages.items():
        if not path or package.get("dev"):
            continue
        name = path.split("node_modules/")[-1]
        purl = f"pkg:npm/{name.replace('@', '%40')}@{package['version']}"
        licence = package.get("license")
        yield {"type": "library", "bom-ref": purl, "name": name, "version": package["version"], "purl": purl,
               "licenses": [{"expression": licence}] if licence else []}


def installed(packages):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages], capture_output=True,
                          text=True, check=False)
    return [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")]


def sbom(binary, linked=()):
    """linked: Debian packages of archives that the binary was linked with, where it was linked with more than IN_THE_BINARY."""
    packages = set(installed(IN_THE_BINARY)) | set(linked)
    for library, package in packages_of(shared_libraries(binary)).items():
        if package is None:
            sys.exit(f"sbom: {library} is of no Debian package: build against the distribution's libraries")
        packages.add(package)
    components = [debian_component(package) for package in sorted(packages)]
    components += sorted([*crates(), *npm_packages()], key=lambda one: (one["name"], one["version"]))
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    version = re.search(r"project\(shoal VERSION (\S+)", (SOURCE / "CMakeLists.txt").read_text())[1]
    root = {"type": "application", "bom-ref": "shoal", "name": "shoal", "version": version,
            "licenses": [{"license": {"id": "Apache-2.0"}}], "hashes": [{"alg": "SHA-256", "content": digest}]}
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            # The same binary has the same name.
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
            "metadata": {"component": root, "tools": {"components": [{"type": "application", "name": "tools/sbom/sbom.py"}]}},
            "components": components,
            "dependencies": [{"ref": "shoal", "dependsOn": [one["bom-ref"] for one in components]}]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--out", type=Path, help="default: standard output")
    options = parser.parse_args()
    text = json.dumps(sbom(options.binary.resolve()), indent=1) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
