#!/usr/bin/env python3
"""Makes a .deb and a relocatable tarball of the binary that the preset `package` links.

  package.py --build build/package --out build/package/dist

Manual, completions and licences are made here, from the binary and from what is linked into it, so that they are those of this
very binary. The same commit and libraries give the same bytes. Needs dpkg-dev and cargo.
"""
import argparse
import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tools/sbom"))
import sbom  # noqa: E402

# What the binary may load: on every system of its age, and kept safe by the distribution.
LOADED = {"libc.so.6", "libm.so.6", "libssl.so.3", "libcrypto.so.3", "libz.so.1", "ld-linux-x86-64.so.2"}
# The oldest system that packages are for: Debian 12.
GLIBC_MOST = (2, 36)
MODEL = "models/shoal-demo-4bit"
DOCS = ("README.md", "CHANGELOG.md", "SECURITY.md", "docs/operations.md", "docs/install.md", "docs/moving-to-shoal.md")
DESCRIPTION = """serves large language models on several machines
 One coordinator and any number of workers run one model together, behind an
 OpenAI-compatible address. Layers and experts are spread over the machines,
 and the answer is the same, to the last bit, however they are spread.
 .
 The package has the program, services for systemd, and a small demo model."""


def output(*words, **options):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True, **options).stdout


def version_of(source):
    """0.1.0 where HEAD is the tag v0.1.0; else 0.1.0~gitDATE.COMMIT, which is older than that for dpkg."""
    version = re.search(r"project\(shoal VERSION (\S+)", (source / "CMakeLists.txt").read_text())[1]
    tags = output("git", "-C", source, "tag", "--points-at", "HEAD").split()
    if f"v{version}" in tags:
        return version
    return f"{version}~git" + output("git", "-C", source, "log", "-1", "--format=%cd.%h", "--date=format:%Y%m%d").strip()


def check_binary(binary):
    """The binary loads what it may, and runs on the oldest system."""
    dynamic = output("objdump", "-p", binary)
    loaded = set(re.findall(r"NEEDED\s+(\S+)", dynamic))
    if loaded - LOADED:
        sys.exit(f"package: {binary} loads {', '.join(sorted(loaded - LOADED))}: there is no archive of it, "
                 "see cmake/ShoalPackage.cmake and tools/package/archives.sh")
    glibc = max(tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", dynamic))
    if glibc > GLIBC_MOST:
        wanted, most = (".".join(map(str, one)) for one in (glibc, GLIBC_MOST))
        print(f"package: warning: built here, it needs glibc {wanted}: it will not start on Debian 12 (glibc {most}), where "
              "packages for all are made", file=sys.stderr)
    return ".".join(map(str, glibc))


def linked_archives(build):
    """The archives on the command line that linked the binary, and those that the compiler adds."""
    link = output("ninja", "-C", build, "-t", "commands", "bin/shoal").splitlines()[-1]
    paths = {Path(word) for word in link.split() if word.startswith("/") and word.endswith(".a")}
    paths |= {Path(output("g++", f"-print-file-name={name}").strip()) for name in ("libstdc++.a", "libgcc.a", "libgcc_eh.a")}
    ours = {path for path in paths if path.is_relative_to(SOURCE)}
    return sorted(paths - ours)


def texts_of_crate(name, version):
    manifest = next((package["manifest_path"] for package in crate_metadata() if (package["name"], package["version"]) ==
                     (name, version)), None)
    folder = Path(manifest).parent if manifest else None
    return licence_files(folder)


_crates = []


def crate_metadata():
    if not _crates:
        _crates.extend(json.loads(output("cargo", "metadata", "--format-version", "1", "--locked", "--manifest-path",
                                         SOURCE / "bridge/Cargo.toml"))["packages"])
    return _crates


def licence_files(folder):
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir()
                  if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|unlicense|copyright)", path.name))


def texts_of(component):
    """The files in which the licence of a part is written."""
    kind = component["purl"].split(":")[1].split("/")[0]
    if kind == "deb":
        path = Path("/usr/share/doc") / component["name"] / "copyright"
        return [path] if path.exists() else []
    if kind == "cargo":
        return texts_of_crate(component["name"], component["version"])
    return licence_files(SOURCE / "web/node_modules" / component["name"])


def licences(bom, in_the_binary):
    """One text with the licences of all that is in the binary; equal texts stand once."""
    by_text, common = {}, set()
    for component in bom["components"]:
        if component["purl"].startswith("pkg:deb/") and component["name"] not in in_the_binary:
            continue
        named = " AND ".join(one.get("expression") or one["license"].get("id") or one["license"]["name"]
                             for one in component["licenses"])
        title = f"{component['name']} {component['version']} ({named})"
        texts = [path.read_text(errors="replace").strip() for path in texts_of(component)]
        for text in texts:
            common |= set(re.findall(r"/usr/share/common-licenses/([\w.-]*\w)", text))
        by_text.setdefault("\n\n".join(texts) or "(no text comes with it; the licence is named above)", []).append(title)
    head = "shoal is under the Apache License 2.0: see the file LICENSE. What is linked into the program, and under what terms:\n"
    parts = [head + "".join(f"  {title}\n" for titles in by_text.values() for title in titles)]
    parts += ["\n".join(titles) + "\n\n" + text + "\n" for text, titles in by_text.items()]
    # Debian's files point to these, which other systems do not have.
    for name in sorted(common):
        path = Path("/usr/share/common-licenses") / name
        if path.exists():
            parts.append(f"/usr/share/common-licenses/{name}\n\n{path.read_text(errors='replace').strip()}\n")
    return ("\n" + "=" * 78 + "\n\n").join(parts)


class Tree:
    """Files of a package below a folder, as they lie below /usr, or, for `etc`, below /."""

    def __init__(self, folder):
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)

    def add(self, path, content, mode=0o644):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def copy(self, source, path, mode=0o644):
        self.add(path, Path(source).read_bytes(), mode)


def squeezed(text):
    return gzip.compress(text.encode(), mtime=0)


def stage(tree, build, bom, in_the_binary):
    """What both packages have, below /usr."""
    binary = build / "bin/shoal"
    tree.copy(binary, "bin/shoal", 0o755)
    subprocess.run(["strip", "--strip-all", tree.folder / "bin/shoal"], check=True)
    tree.add("share/man/man1/shoal.1.gz", squeezed(output(binary, "manual")))
    tree.add("share/bash-completion/completions/shoal", output(binary, "completion", "bash"))
    tree.add("share/zsh/vendor-completions/_shoal", output(binary, "completion", "zsh"))
    tree.add("share/fish/vendor_completions.d/shoal.fish", output(binary, "completion", "fish"))
    for path in sorted((SOURCE / MODEL).iterdir()):
        tree.copy(path, f"share/shoal/{MODEL}/{path.name}")
    doc = "share/doc/shoal"
    tree.copy(SOURCE / "LICENSE", f"{doc}/LICENSE")
    tree.add(f"{doc}/licences.gz", squeezed(licences(bom, in_the_binary)))
    tree.add(f"{doc}/sbom.json.gz", squeezed(json.dumps(bom, indent=1) + "\n"))
    for name in DOCS:
        tree.add(f"{doc}/{Path(name).name}.gz", squeezed((SOURCE / name).read_text()))
    for unit in ("shoal.service", "shoal-worker.service"):
        tree.copy(SOURCE / "deploy/systemd" / unit, f"lib/systemd/system/{unit}")
    tree.copy(SOURCE / "deploy/systemd/shoal.sysusers", "lib/sysusers.d/shoal.conf")


def dependencies(binary, scratch):
    """What dpkg-shlibdeps says that the binary needs."""
    (scratch / "debian").mkdir(parents=True, exist_ok=True)
    (scratch / "debian/control").write_text("Source: shoal\n\nPackage: shoal\nArchitecture: any\n")
    text = output("dpkg-shlibdeps", "-O", "-e", binary, cwd=scratch)
    return re.search(r"shlibs:Depends=(.*)", text)[1]


def make_deb(tree, version, out, epoch):
    """The tree under /usr, with /etc and what dpkg wants to know."""
    root = Tree(out / "deb-root")
    shutil.copytree(tree.folder, root.folder / "usr")
    root.add("usr/share/doc/shoal/copyright",
             "Upstream-Name: shoal\nCopyright: 2026 the shoal authors\nLicense: Apache-2.0, in /usr/share/common-licenses/Apache-2.0 and in LICENSE.\n"
             "What is linked into the program has licences of its own: licences.gz, sbom.json.gz.\n")
    for name in ("serve.env", "worker.env"):
        root.copy(SOURCE / "deploy/systemd" / name, f"etc/shoal/{name}")
    size = sum(path.stat().st_size for path in root.folder.rglob("*") if path.is_file()) // 1024
    architecture = output("dpkg", "--print-architecture").strip()
    control = {
        "Package": "shoal", "Version": version, "Architecture": architecture, "Section": "net", "Priority": "optional",
        "Maintainer": output("git", "-C", SOURCE, "log", "-1", "--format=%an <%ae>").strip(), "Installed-Size": size,
        # passwd: its useradd makes the user where there is no systemd.
        "Depends": dependencies(root.folder / "usr/bin/shoal", out / "shlibs") + ", passwd", "Suggests": "avahi-daemon, libavahi-client3",
        "Description": DESCRIPTION}
    root.add("DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in control.items()))
    root.add("DEBIAN/conffiles", "/etc/shoal/serve.env\n/etc/shoal/worker.env\n")
    for script in ("postinst", "prerm", "postrm"):
        root.copy(SOURCE / "deploy/debian" / script, f"DEBIAN/{script}", 0o755)
    files = sorted(path for path in root.folder.rglob("*") if path.is_file() and "DEBIAN" not in path.parts)
    sums = output("md5sum", *[path.relative_to(root.folder) for path in files], cwd=root.folder)
    root.add("DEBIAN/md5sums", sums)
    for folder in [root.folder, *root.folder.rglob("*")]:
        if folder.is_dir():
            folder.chmod(0o755)
    deb = out / f"shoal_{version}_{architecture}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", root.folder, deb], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "SOURCE_DATE_EPOCH": epoch})
    return deb


def make_tarball(tree, version, out, epoch):
    """One folder, which may lie anywhere: shoal-VERSION-linux-x86_64/bin/shoal."""
    for name in ("serve.env", "worker.env"):
        tree.copy(SOURCE / "deploy/systemd" / name, f"etc/shoal/{name}")
    name = f"shoal-{version.replace('~', '-')}-linux-{os.uname().machine}"
    path = out / f"{name}.tar.gz"

    def plain(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = int(epoch)
        entry.mode = 0o755 if entry.isdir() or entry.mode & stat.S_IXUSR else 0o644
        return entry
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for one in [tree.folder, *sorted(tree.folder.rglob("*"))]:
            archive.add(one, f"{name}/{one.relative_to(tree.folder)}".removesuffix("/."), recursive=False, filter=plain)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=SOURCE / "build/package")
    parser.add_argument("--out", type=Path, help="default: dist below --build")
    options = parser.parse_args()
    build = options.build.resolve()
    out = (options.out or build / "dist").resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    glibc = check_binary(build / "bin/shoal")
    archives = linked_archives(build)
    packages = {package for package in sbom.packages_of([str(path) for path in archives]).values() if package}
    in_the_binary = packages | set(sbom.installed(sbom.IN_THE_BINARY))
    bom = sbom.sbom(build / "bin/shoal", packages)
    version = version_of(SOURCE)
    epoch = output("git", "-C", SOURCE, "log", "-1", "--format=%ct").strip()
    tree = Tree(out / "tree")
    stage(tree, build, bom, in_the_binary)
    made = [make_deb(tree, version, out, epoch), make_tarball(tree, version, out, epoch)]
    for folder in ("tree", "deb-root", "shlibs"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for path in made:
        print(f"{path.relative_to(SOURCE) if path.is_relative_to(SOURCE) else path}: {path.stat().st_size / 2**20:.1f} MiB")
    print(f"needs glibc {glibc}, OpenSSL 3 and zlib")


if __name__ == "__main__":
    main()
