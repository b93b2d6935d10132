#!/usr/bin/env python3
"""Tries the packages of `./dev package` as a stranger would: on fresh systems, in a container, rendered for Kubernetes.

  check_package.py [STEP ...]      steps: lint roots units container chart; all by default

Needs root: systems are made by mmdebstrap below build/package/roots (archives of them are kept, delete them for newer ones),
entered by chroot in namespaces of their own, whose network is loopback alone once packages are installed.
"""
import base64
import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
BUILD = SOURCE / "build/package"
DIST = BUILD / "dist"
ROOTS = BUILD / "roots"
TOOLS = SOURCE / "build/tools"
CHECKERS = SOURCE / "build/package-checkers/bin"
NETWORK = f"shoal-package-{os.getpid()}"
QUESTION, ANSWER = "What is the capital of Portugal?", "Lisbon"
# From the begin of `apt-get install` to the first token.
SECONDS_MOST = 60
SYSTEMS = {"bookworm": "Debian 12", "trixie": "Debian 13", "noble": "Ubuntu 24.04"}
KUBERNETES = ("1.25", "1.31", "1.34")
HELM_AS_OF = ("--kube-version", f"{KUBERNETES[-1]}.0")  # A helm that Go built knows none of today.
# Kinds that are of operators, not of Kubernetes.
CUSTOM = {"ScaledObject", "ServiceMonitor"}


class Failed(Exception):
    """What a step found wrong."""


def say(text):
    print(f"  {text}", flush=True)


def run(*words, timeout_s=600, check=True, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout_s, check=False,
                          **options)
    if check and done.returncode != 0:
        raise Failed(f"{shlex.join(map(str, words))}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done


def only(pattern):
    found = sorted(DIST.glob(pattern))
    if len(found) != 1:
        raise Failed(f"expected one {pattern} in {DIST}, found {len(found)}: ./dev package")
    return found[0]


# ------------------------------------------------------------------------------------------------------------- lint


def lint_units():
    if shutil.which("systemd-analyze") is None:
        say("SKIPPED units: no systemd-analyze")
        return
    units = [SOURCE / "deploy/systemd" / name for name in ("shoal.service", "shoal-worker.service")]
    for unit in units:
        said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit, check=False)
        # The program is not installed here.
        wrong = [line for line in said.stderr.splitlines() if unit.name in line and "/usr/bin/shoal is not executable" not in line]
        if wrong:
            raise Failed("\n".join(wrong))
        rated = run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
        say(f"{unit.name}: {rated.stdout.strip().splitlines()[-1].removeprefix('→ ')}")


def lint_shell_files(folder):
    completions = {"bash": "bash-completion/completions/shoal", "zsh": "zsh/vendor-completions/_shoal",
                   "fish": "fish/vendor_completions.d/shoal.fish"}
    for shell, name in completions.items():
        run(shell, "-n", folder / "usr/share" / name)
    script = (f"fpath=({folder}/usr/share/zsh/vendor-completions $fpath); autoload -Uz compinit; compinit -D -u; "
              "(( $+_comps[shoal] )) && autoload +X _shoal && echo loaded")
    if "loaded" not in run("zsh", "-fc", script).stdout:
        raise Failed("zsh cannot load its completion")
    offered = run("fish", "-c", f"source {folder}/usr/share/{completions['fish']}; complete -C 'shoal serve --on-loss '").stdout
    if "resume" not in offered:
        raise Failed(f"fish offers for --on-loss: {offered!r}")
    say("completions: read by bash, zsh and fish")


def lint_manual(folder):
    page = gzip.decompress((folder / "usr/share/man/man1/shoal.1.gz").read_bytes())
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, timeout=60, check=False)
    if done.returncode != 0 or done.stderr:
        raise Failed(f"groff: {done.stderr.decode()[:2000]}")
    named = run("lexgrog", folder / "usr/share/man/man1/shoal.1.gz").stdout
    if "shoal - " not in named:
        raise Failed(f"the manual has no name line: {named}")
    say("manual: groff without a warning, found by whatis")


def lint():
    folder = ROOTS / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    deb = only("*.deb")
    run("dpkg-deb", "--raw-extract", deb, folder)
    lint_units()
    lint_shell_files(folder)
    lint_manual(folder)
    # The program's own folders below /var and /etc are made by its scripts; names of systems that are not Debian's are its docs'.
    # Libraries are in the binary on purpose: it runs on several distributions (docs/install.md).
    accepted = ("no-changelog,initial-upload-closes-no-bugs,changelog-file-missing-in-native-package,custom-library-search-path,"
                "embedded-library")
    found = run("lintian", "--fail-on=error", f"--suppress-tags={accepted}", "--allow-root", "--tag-display-limit=0", deb,
                check=False)
    errors = [line for line in found.stdout.splitlines() if line.startswith("E:")]
    for line in found.stdout.splitlines():
        say(line)
    if errors:
        raise Failed(f"lintian: {len(errors)} errors")
    run(CHECKERS / "hadolint", SOURCE / "deploy/container/Containerfile")
    say("Containerfile: hadolint finds nothing")


# ------------------------------------------------------------------------------------------------------------ roots


def ubuntu_keyring():
    """Ubuntu's keys: this system's, or those of Debian 13's package."""
    here = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
    if here.exists():
        return here
    keys = ROOTS / "ubuntu-archive-keyring.gpg"
    if not keys.exists():
        with Root("trixie", "keys") as root:
            root.run("apt-get", "update", "-qq")
            root.run("apt-get", "install", "-y", "-qq", "ubuntu-archive-keyring")
            shutil.copy((root.folder / "usr/share/keyrings/ubuntu-archive-keyring.gpg").resolve(), keys)
    return keys


def archive_of(system):
    """A tar file with the system, as small as container images are."""
    archive = ROOTS / f"{system}.tar"
    if not archive.exists():
        ROOTS.mkdir(parents=True, exist_ok=True)
        # Without a mirror mmdebstrap takes the distribution's own.
        keys = [f"--keyring={ubuntu_keyring()}"] if system == "noble" else []
        begin = time.monotonic()
        run("mmdebstrap", "--variant=minbase", "--include=apt", "--mode=root", "--format=tar", *keys, system, f"{archive}.part",
            timeout_s=570)
        Path(f"{archive}.part").rename(archive)
        say(f"{SYSTEMS[system]} was made in {time.monotonic() - begin:.0f} s: {archive.stat().st_size / 2**20:.0f} MiB")
    return archive


class Root:
    """A fresh system, which goes when the `with` ends."""

    def __init__(self, system, name="try"):
        self.folder = ROOTS / f"{system}-{name}"
        self.archive = archive_of(system)

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run("tar", "--extract", "--numeric-owner", "--file", self.archive, "--directory", self.folder)
        shutil.copy("/etc/resolv.conf", self.folder / "etc/resolv.conf")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def words(self, *words, network=False, volumes=()):
        """What runs `words` in it, with processes and mounts of its own, which end together. network: loopback alone.
        volumes: (folder in it, where that is to be seen, too)."""
        enter = ('mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" && mount -t tmpfs tmpfs "$0/tmp" && '
                 'mount -t tmpfs tmpfs "$0/dev/shm" && ')
        for held, seen in volumes:
            enter += f'mkdir -p "$0{seen}" && mount --bind "$0{held}" "$0{seen}" && '
        enter += 'exec chroot "$0" "$@"'
        inside = ["ip", "netns", "exec", NETWORK] if network else []
        return [*inside, "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, str(self.folder),
                *map(str, words)]

    def run(self, *words, network=False, volumes=(), **options):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        return run(*self.words(*words, network=network, volumes=volumes), env=environment, **options)

    def start(self, *words, volumes=()):
        log = (ROOTS / f"{self.folder.name}-{words[-1] if len(words) == 1 else len(words)}.log").open("w+")
        return subprocess.Popen(self.words(*words, network=True, volumes=volumes), stdout=log, stderr=subprocess.STDOUT,
                                start_new_session=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}), log


def service(unit, more=()):
    """The command of a unit of the package, with the flags of its file, as the user that it names."""
    text = (SOURCE / "deploy/systemd" / f"{unit}.service").read_text()
    command = re.search(r"^ExecStart=(.*)", text, re.M)[1]
    environment = re.search(r"^EnvironmentFile=(.*)", text, re.M)[1]
    flags = re.search(r"^(SHOAL_\w+_FLAGS)=(.*)", (SOURCE / "deploy/systemd" / Path(environment).name).read_text(), re.M)
    command = command.replace(f"${flags[1]}", flags[2]).split()
    user = re.search(r"^User=(.*)", text, re.M)[1]
    variables = re.findall(r"^Environment=(.*)", text, re.M)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env", *variables, *command, *more]


def ask(url="http://127.0.0.1:8000", authorities=None):
    """Runs in the network of the system: prints when a coordinator served, the first token came, and who has which layers."""
    trust = ssl.create_default_context(cafile=authorities) if authorities else None
    begin = time.monotonic()
    told = {}
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2, context=trust):
                break
        except OSError:
            if time.monotonic() - begin > SECONDS_MOST:
                raise
            time.sleep(0.05)
    told["ready_s"] = time.monotonic() - begin
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0, "max_tokens": 40}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    text = ""
    with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            piece = choices[0]["delta"].get("content") if choices else None
            if piece:
                told.setdefault("first_token_s", time.monotonic() - begin)
                text += piece
    told["text"] = text
    with urllib.request.urlopen(f"{url}/cluster/status", timeout=5, context=trust) as answer:
        told["nodes"] = {node["name"]: node["layers"] for node in json.load(answer)["nodes"]}
    print(json.dumps(told))


@contextlib.contextmanager
def asked_cluster(begin, *where):
    """Starts processes by begin(), which returns those and their logs; yields what ask(*where) told, and stops them."""
    processes = []
    try:
        processes = begin()
        done = run("ip", "netns", "exec", NETWORK, sys.executable, __file__, "--ask", *where, timeout_s=120, check=False)
        if done.returncode != 0:
            logs = "".join(Path(log.name).read_text()[-2000:] for _, log in processes)
            raise Failed(f"no answer: {done.stderr[-1000:]}\n{logs}")
        told = json.loads(done.stdout)
        if ANSWER not in told["text"] or len(told["nodes"]) != 2 or None in told["nodes"].values():
            raise Failed(f"expected '{ANSWER}' from two nodes with layers, got {told}")
        yield told
    finally:
        # SIGTERM goes to the program, which is the first process of its namespace's own.
        for process, log in reversed(processes):
            run("pkill", "-TERM", "-P", str(process.pid), check=False)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise Failed(f"{log.name}: it did not end within 20 s of SIGTERM") from None
            log.close()


def ask_cluster(root, coordinator, worker):
    """Starts both, asks, and stops them. Returns what ask() told."""
    with asked_cluster(lambda: [root.start(*worker), root.start(*coordinator)]) as told:
        return told


def try_deb(root):
    deb = only("*.deb")
    shutil.copy(deb, root.folder / "root" / deb.name)
    root.run("apt-get", "update", "-qq")
    before = set(root.run("dpkg-query", "-W", "-f", "${Package}\n").stdout.split())
    begin = time.monotonic()
    root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", f"/root/{deb.name}")
    installed_s = time.monotonic() - begin
    new = sorted(set(root.run("dpkg-query", "-W", "-f", "${Package}\n").stdout.split()) - before - {"shoal"})
    told = ask_cluster(root, service("shoal", ("--workers", "127.0.0.1:50051")), service("shoal-worker"))
    first_s = installed_s + told["first_token_s"]
    compilers = root.run("sh", "-c", "command -v cc gcc g++ clang rustc ld || true").stdout.split()
    if compilers:
        raise Failed(f"there is a compiler: {compilers}")
    if first_s > SECONDS_MOST:
        raise Failed(f"the first token came {first_s:.1f} s after the installation began, expected {SECONDS_MOST} at most")
    say(f"installed in {installed_s:.1f} s with {', '.join(new) or 'no other package'}; served {told['ready_s']:.1f} s later, "
        f"first token {first_s:.1f} s after the installation began; {told['nodes']}")
    for command in (("--version",), ("manual",), ("completion", "bash")):
        root.run("shoal", *command)
    # Avahi's library is not among the dependencies: who asks for it is told what to install.
    asked = run(*root.words("timeout", "10", "shoal", "worker", "--insecure", "--model-root", "/usr/share/shoal/models", "--join",
                            network=True), check=False)
    if "libavahi-client3" not in asked.stdout + asked.stderr:
        raise Failed(f"a worker that looks for its coordinator by DNS-SD says: {asked.stdout}{asked.stderr}")
    root.run("apt-get", "purge", "-y", "-qq", "shoal")
    left = [str(path.relative_to(root.folder)) for name in ("usr/bin/shoal", "usr/share/shoal", "etc/shoal", "var/cache/shoal",
                                                            "usr/lib/systemd/system/shoal.service")
            if (path := root.folder / name).exists()]
    if left:
        raise Failed(f"after the purge there is still {left}")


def try_tarball(root):
    with tarfile.open(only("*.tar.gz")) as archive:
        archive.extractall(root.folder / "opt", filter="data")
    place = next((root.folder / "opt").glob("shoal-*"))
    here = "/" + str(place.relative_to(root.folder))
    model = f"{here}/share/shoal/models/shoal-demo-4bit"
    told = ask_cluster(root, [f"{here}/bin/shoal", "serve", "--model", model, "--workers", "127.0.0.1:50051"],
                       [f"{here}/bin/shoal", "worker", "--model-root", f"{here}/share/shoal/models"])
    say(f"tarball in {here}: first token {told['first_token_s']:.1f} s after the start")


def roots():
    run("ip", "netns", "add", NETWORK)
    try:
        run("ip", "-n", NETWORK, "link", "set", "lo", "up")
        for system, name in SYSTEMS.items():
            try:
                archive_of(system)
            except Failed as error:
                if system != "noble":
                    raise
                say(f"SKIPPED {name}: it could not be made: {str(error)[-400:]}")
                continue
            print(f" {name}", flush=True)
            with Root(system) as root:
                try_deb(root)
                try_tarball(root)
    finally:
        run("ip", "netns", "delete", NETWORK, check=False)


# ------------------------------------------------------------------------------------------------------------ units


class Booted:
    """A systemd that runs a Root as its first process does. Of the network it has loopback alone."""

    def __init__(self, root):
        self.log = (ROOTS / f"{root.folder.name}-systemd.log").open("w+")
        self.outer = subprocess.Popen(
            ["ip", "netns", "exec", NETWORK, "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
             str(SOURCE / "tools/package/boot.sh"), str(root.folder), NETWORK],
            stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        self.first = None

    def __enter__(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.outer.poll() is None:
            self.first = (run("pgrep", "-P", self.outer.pid, check=False).stdout.split() or [None])[0]
            if self.is_systemd() and self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                return self
            time.sleep(0.2)
        status = self.outer.poll()
        self.__exit__()
        said = Path(self.log.name).read_text()[-500:].strip() or f"exit status {status}"
        # boot.sh ends with 9 where this system has no cgroups for it; all else is a fault.
        raise Unbootable(said) if status == 9 else Failed(f"systemd does not start: {said}")

    def is_systemd(self):
        """Whether the first process in there is a systemd by now: until then this system's own would answer."""
        try:
            return self.first is not None and Path(f"/proc/{self.first}/comm").read_text() == "systemd\n"
        except OSError:
            return False

    def __exit__(self, *_):
        # Whatever runs in it ends with its first process.
        for pid in (self.first, str(self.outer.pid)):
            if pid:
                run("kill", "-KILL", pid, check=False)
        self.outer.wait(20)
        self.log.close()
        clean = 'mount -t cgroup2 cgroup2 /mnt && find "/mnt/$0" -depth -type d -exec rmdir {} +'
        run("unshare", "--mount", "sh", "-c", clean, NETWORK, check=False)

    def run(self, *words, **options):
        return run("nsenter", "--target", self.first, "--all", *words, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, **options)

    def shows(self, unit, name):
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def expect(self, unit, **properties):
        for name, wanted in properties.items():
            if (got := self.shows(unit, name)) != wanted:
                said = self.run("systemctl", "status", "--no-pager", "--lines=20", unit, check=False).stdout
                raise Failed(f"{unit}: expected {name}={wanted}, got {got}\n{said}")

    def wait_for(self, unit, name, wanted, seconds=20):
        deadline = time.monotonic() + seconds
        while self.shows(unit, name) != wanted and time.monotonic() < deadline:
            time.sleep(0.2)
        self.expect(unit, **{name: wanted})


class Unbootable(Exception):
    """No systemd starts in namespaces here; with why."""


def stream_while(stop):
    """Runs in the network of the system: a long answer; `stop`, a command, runs at its first token. Prints the last line and s."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0, "max_tokens": 400,
            "ignore_eos": True}
    request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    stopper, last, begin, tokens = None, "", 0, 0
    with urllib.request.urlopen(request, timeout=30) as answer:
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            last = line[6:].decode().strip()
            tokens += 1
            if stopper is None:
                begin, stopper = time.monotonic(), subprocess.Popen(stop)
    answered_s = time.monotonic() - begin
    print(json.dumps({"last": last, "answered_s": answered_s, "pieces": tokens, "stop": stopper.wait(40)}))


def try_units(system, root):
    """Starts the package's units, asks, kills and stops them, as an administrator does."""
    root.run("apt-get", "update", "-qq")
    deb = only("*.deb")
    shutil.copy(deb, root.folder / "root" / deb.name)
    root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "systemd", f"/root/{deb.name}")
    flags = root.folder / "etc/shoal/serve.env"
    flags.write_text(re.sub(r"^(SHOAL_SERVE_FLAGS=.*)", r"\1 --workers 127.0.0.1:50051", flags.read_text(), flags=re.M))
    with Booted(root) as booted:
        begin = time.monotonic()
        booted.run("systemctl", "start", "shoal-worker", "shoal")
        told = json.loads(run("ip", "netns", "exec", NETWORK, sys.executable, __file__, "--ask", timeout_s=120).stdout)
        if ANSWER not in told["text"] or len(told["nodes"]) != 2 or None in told["nodes"].values():
            raise Failed(f"expected '{ANSWER}' from two nodes with layers, got {told}")
        first_s = time.monotonic() - begin
        for unit in ("shoal-worker", "shoal"):
            booted.expect(unit, ActiveState="active", NRestarts="0", User="shoal")
        # Without files to read again a reload harms nobody.
        booted.run("systemctl", "reload", "shoal")
        booted.expect("shoal", ActiveState="active", NRestarts="0")
        # A process that dies comes back, and takes its part again.
        booted.run("systemctl", "kill", "--signal=KILL", "shoal-worker")
        booted.wait_for("shoal-worker", "NRestarts", "1")
        booted.wait_for("shoal-worker", "ActiveState", "active")
        told = json.loads(run("ip", "netns", "exec", NETWORK, sys.executable, __file__, "--ask", timeout_s=120).stdout)
        if ANSWER not in told["text"]:
            raise Failed(f"after its worker came back it answers: {told}")
        # A stop lets the running answer end.
        stop = ["nsenter", "--target", booted.first, "--all", "systemctl", "stop", "shoal"]
        said = json.loads(run("ip", "netns", "exec", NETWORK, sys.executable, __file__, "--stream-while", *stop,
                              timeout_s=120).stdout)
        if said["last"] != "[DONE]" or said["stop"] != 0:
            raise Failed(f"a stop within an answer: {said}")
        booted.run("systemctl", "stop", "shoal-worker")
        for unit in ("shoal-worker", "shoal"):
            booted.expect(unit, ActiveState="inactive", Result="success", ExecMainStatus="0")
        say(f"{SYSTEMS[system]}: systemd starts both units, first answer {first_s:.1f} s later; a worker that is killed comes "
            f"back; a stop lets {said['pieces']} pieces of an answer end, {said['answered_s']:.1f} s")


def units():
    run("ip", "netns", "add", NETWORK)
    try:
        run("ip", "-n", NETWORK, "link", "set", "lo", "up")
        for system in SYSTEMS:
            try:
                archive_of(system)
                with Root(system, "units") as root:
                    try_units(system, root)
            except Unbootable as error:
                say(f"SKIPPED {SYSTEMS[system]}: systemd does not start in namespaces here: {error}")
    finally:
        run("ip", "netns", "delete", NETWORK, check=False)


# -------------------------------------------------------------------------------------------------------- container


def container():
    """Builds the Containerfile by buildah, from the fresh Debian 12, without an engine, and tries what it says."""
    if shutil.which("buildah") is None:
        say("SKIPPED: no buildah")
        return
    store = ROOTS / "containers"
    base = ("buildah", "--storage-driver", "vfs", "--root", store / "root", "--runroot", store / "run")
    shutil.rmtree(store, ignore_errors=True)
    run("ip", "netns", "add", NETWORK)
    try:
        run("ip", "-n", NETWORK, "link", "set", "lo", "up")
        scratch = run(*base, "from", "scratch").stdout.strip()
        run(*base, "add", "--quiet", scratch, archive_of("bookworm"), "/")
        run(*base, "commit", "--quiet", scratch, "localhost/debian:bookworm-slim")
        begin = time.monotonic()
        run(*base, "build", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/debian:bookworm-slim",
            "--file", SOURCE / "deploy/container/Containerfile", "--tag", "localhost/shoal", DIST)
        image = json.loads(run(*base, "inspect", "--type", "image", "localhost/shoal").stdout)["Docker"]["config"]
        say(f"built in {time.monotonic() - begin:.0f} s; user {image['User']}, {' '.join(image['Entrypoint'] + image['Cmd'])}")
        if image["User"] != "10001:10001" or image["Healthcheck"]["Test"][0] != "CMD":
            raise Failed(f"unexpected: {image}")
        working = run(*base, "from", "localhost/shoal").stdout.strip()
        inside = ("ip", "netns", "exec", NETWORK, *base, "run", "--isolation", "chroot", working, "--")
        with (store / "serve.log").open("w+") as log:
            server = subprocess.Popen([*map(str, inside), *image["Entrypoint"], *image["Cmd"]], stdout=log,
                                      stderr=subprocess.STDOUT, start_new_session=True)
            try:
                deadline = time.monotonic() + 60
                while run(*inside, *image["Healthcheck"]["Test"][1:], check=False).returncode != 0:
                    if time.monotonic() > deadline or server.poll() is not None:
                        raise Failed(f"never healthy: {(store / 'serve.log').read_text()[-2000:]}")
                who = run(*inside, "sh", "-c", "id -u; touch /usr/bin/x 2>/dev/null && echo writes; true").stdout.split()
                if who != ["10001"]:
                    raise Failed(f"it runs as, and may: {who}")
                told = json.loads(run("ip", "netns", "exec", NETWORK, sys.executable, __file__, "--ask").stdout)
                if ANSWER not in told["text"]:
                    raise Failed(f"it answers: {told['text']}")
                say("its command serves, its health check says so, as the user 10001")
            finally:
                os.killpg(server.pid, signal.SIGTERM)
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(server.pid, signal.SIGKILL)
    finally:
        run("ip", "netns", "delete", NETWORK, check=False)
        run(*base, "rm", "--all", check=False)
        shutil.rmtree(store, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ chart


def rendered(helm, *values):
    import yaml
    text = run(helm, "template", "llm", SOURCE / "deploy/helm/shoal", "--namespace", "ai", *HELM_AS_OF, *values).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def pod_of(document):
    """The pod's spec of a document that has one, or {}."""
    pod = document.get("spec", {}).get("template", document).get("spec", {})
    return pod if isinstance(pod, dict) and "containers" in pod else {}


def shoal_calls(one):
    """The words behind `shoal` of all that a container runs: its arguments, probes and hooks, and lines of shell in them."""
    hooks = list(one.get("lifecycle", {}).values())
    commands = [probe["exec"]["command"] for probe in [one.get("readinessProbe", {}), one.get("livenessProbe", {}), *hooks]
                if "exec" in probe]
    if "command" in one:
        commands.append(one["command"])
    elif "args" in one:
        commands.append(["shoal", *one["args"]])
    for words in commands:
        if words[0] == "shoal":
            yield words[1:]
        elif words[0] == "sh":
            for line in re.split(r"[\n;]|\|\|", words[-1]):
                parts = [part for part in shlex.split(line) if part != "exec"]
                if parts[:1] == ["shoal"]:
                    yield parts[1:]


def check_flags(documents, help_of):
    """Each flag that a pod gives shoal is one that shoal has."""
    count = 0
    for document in documents:
        pod = pod_of(document)
        for words in (words for one in pod.get("initContainers", []) + pod.get("containers", []) for words in shoal_calls(one)):
            command = " ".join(words[:2] if words[0] == "cert" else words[:1])
            for flag in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
                count += 1
                if not re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(command)):
                    raise Failed(f"{document['kind']} {document['metadata']['name']}: shoal {command} has no {flag}")
    return count


def check_mounts(documents):
    """Each volume that a container mounts is one of its pod's, none is there for nothing, and keys that sign are out of reach."""
    for document in documents:
        pod = pod_of(document)
        claims = [claim["metadata"]["name"] for claim in document.get("spec", {}).get("volumeClaimTemplates", [])]
        there = {volume["name"] for volume in pod.get("volumes", [])} | set(claims)
        used = {mount["name"] for one in pod.get("initContainers", []) + pod.get("containers", [])
                for mount in one.get("volumeMounts", [])}
        if there != used:
            raise Failed(f"{document['kind']} {document['metadata']['name']}: volumes {there}, mounted {used}")
        served = {mount["name"] for one in pod.get("containers", []) for mount in one.get("volumeMounts", [])}
        if served & {"authority", "scratch"}:
            raise Failed(f"{document['kind']} {document['metadata']['name']}: what serves sees the authority's key")
        authority = {volume["secret"]["secretName"] for volume in pod.get("volumes", []) if volume["name"] == "authority"}
        for volume in pod.get("volumes", []):
            secret = volume.get("secret", {})
            if volume["name"] in served and secret.get("secretName") in authority and \
                    [item["key"] for item in secret.get("items", [])] != ["tls.crt"]:
                raise Failed(f"{document['metadata']['name']}: {volume['name']} shows what serves the authority's key")


def chart():
    helm = TOOLS / "helm"
    if not helm.exists():
        say("SKIPPED: no helm (it is built where there is Go)")
        return
    import kubernetes_validate
    folder = SOURCE / "deploy/helm/shoal"
    run(helm, "lint", "--strict", *HELM_AS_OF, folder)
    helps = {}

    def help_of(command):
        return helps.setdefault(command, run(BUILD / "bin/shoal", *command.split(), "--help").stdout)
    cases = {
        "as it comes": (),
        "KEDA": ("--set", "autoscaling.kind=keda,serviceMonitor.enabled=true"),
        "HPA": ("--set", "autoscaling.kind=hpa,cache.size=50Gi,apiKeys.existingSecret=keys,apiKeys.adminSecret=admin"),
        "own": ("--set", "etcd.enabled=false,etcd.endpoint=etcd:2379,key.existingSecret=k,model.onWorkers=true,"
                         "model.volume.persistentVolumeClaim.claimName=models,service.type=LoadBalancer",
                "--set", "worker.extraFlags={--threads=4}"),
        "TLS": ("--set", "tls.enabled=true,https.enabled=true,service.port=443,https.names={llm.example.org},"
                         "serviceMonitor.enabled=true"),
        "TLS, own": ("--set", "tls.enabled=true,tls.existingSecret=ca,tls.days=90,https.enabled=true,https.existingSecret=api"),
        "HTTPS alone": ("--set", "https.enabled=true,https.existingSecret=api,serviceMonitor.enabled=true")}
    for name, values in cases.items():
        documents = rendered(helm, *values)
        kinds = [document["kind"] for document in documents]
        flags = check_flags(documents, help_of)
        check_mounts(documents)
        for version in KUBERNETES:
            for document in documents:
                if document["kind"] in CUSTOM:
                    continue
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    raise Failed(f"{name}, Kubernetes {version}: {document['kind']}: {error.message}") from None
        say(f"{name}: {len(documents)} documents and {flags} flags are right for Kubernetes {', '.join(KUBERNETES)}: "
            + " ".join(sorted(set(kinds))))
        if {"KEDA": "ScaledObject", "HPA": "HorizontalPodAutoscaler"}.get(name, kinds[0]) not in kinds:
            raise Failed(f"{name}: {kinds}")
    if "https.existingSecret" not in run(helm, "template", folder, *HELM_AS_OF, "--set", "https.enabled=true", check=False).stderr:
        raise Failed("https without a certificate is taken")
    for wrong in ("worker.replicas=-1", "autoscaling.kind=magic", "mistyped=1", "https.names={a b}"):
        said = run(helm, "template", folder, *HELM_AS_OF, "--set", wrong, check=False).stderr
        if "values don't meet the specifications" not in said:
            raise Failed(f"values.schema.json takes {wrong}")
    say("wrong values are refused")
    chart_pods(helm)


class Pod:
    """One of a StatefulSet, without Kubernetes: its scripts and arguments in a Root, with folders in place of volumes."""

    USER = ("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups")

    def __init__(self, root, document, secrets):
        self.root, self.name = root, document["metadata"]["name"] + "-0"
        self.spec = document["spec"]["template"]["spec"]
        self.folders = {}
        for volume in self.spec["volumes"]:
            held = f"/pods/{self.name}/{volume['name']}"
            folder = root.folder / held[1:]
            folder.mkdir(parents=True)
            if "secret" in volume:
                data = secrets[volume["secret"]["secretName"]]
                for item in volume["secret"].get("items", [{"key": key, "path": key} for key in data]):
                    (folder / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
            else:
                os.chown(folder, 10001, 10001)
            self.folders[volume["name"]] = held
        first = self.spec["initContainers"][0]
        self.run(first, first["command"])

    def volumes(self, container):
        return [(self.folders[mount["name"]], mount["mountPath"]) for mount in container["volumeMounts"]]

    def run(self, container, words):
        return self.root.run(*self.USER, "env", f"POD_NAME={self.name}", *words, network=True, volumes=self.volumes(container))

    def start(self, replaced):
        """replaced: flags that only a cluster of Kubernetes can have, and what is there in their place."""
        container = self.spec["containers"][0]
        args = [word.replace("$(POD_NAME)", self.name) for word in container["args"]]
        args = [word for word in args if word.split("=")[0] not in replaced] + [more for more in replaced.values() if more]
        return self.root.start(*self.USER, "env", "XDG_CACHE_HOME=/var/cache/shoal", "shoal", *args,
                               volumes=self.volumes(container))


def chart_pods(helm):
    """The pods of the chart with certificates serve, are probed, and leave as Kubernetes has them leave."""
    documents = rendered(helm, "--set", "tls.enabled=true,https.enabled=true,service.port=8000")
    sets = {document["metadata"]["name"]: document for document in documents if document["kind"] == "StatefulSet"}
    secrets = {document["metadata"]["name"]: document["data"] for document in documents if document["kind"] == "Secret"}
    run("ip", "netns", "add", NETWORK)
    try:
        run("ip", "-n", NETWORK, "link", "set", "lo", "up")
        with Root("bookworm", "pods") as root:
            deb = only("*.deb")
            shutil.copy(deb, root.folder / "root" / deb.name)
            root.run("apt-get", "update", "-qq")
            root.run("apt-get", "install", "-y", "-qq", "--no-install-recommends", f"/root/{deb.name}")
            with (root.folder / "etc/hosts").open("a") as hosts:
                hosts.write("127.0.0.1 localhost llm-shoal\n")
            coordinator = Pod(root, sets["llm-shoal-coordinator"], secrets)
            worker = Pod(root, sets["llm-shoal-worker"], secrets)
            trust = root.folder / f"{worker.folders['api-ca'][1:]}/ca.crt"
            main = worker.spec["containers"][0]

            def begin():
                return [worker.start({"--join": ""}), coordinator.start({"--registry": "", "--join-listen": "",
                                                                         "--workers": "--workers=127.0.0.1:50051"})]
            with asked_cluster(begin, "https://localhost:8000", trust) as told:
                if worker.name not in told["nodes"]:
                    raise Failed(f"no {worker.name} in {told}")
                worker.run(main, main["readinessProbe"]["exec"]["command"])
                left = worker.run(main, main["lifecycle"]["preStop"]["exec"]["command"])
                if f"node '{worker.name}' is drained" not in left.stdout:
                    raise Failed(f"the hook before a worker stops says: {left.stdout}{left.stderr}")
                say(f"pods with certificates serve over HTTPS: {told['nodes']}; the worker is ready, and leaves by its hook")
    finally:
        run("ip", "netns", "delete", NETWORK, check=False)


def main():
    if sys.argv[1:2] == ["--ask"]:
        return ask(*sys.argv[2:])
    if sys.argv[1:2] == ["--stream-while"]:
        return stream_while(sys.argv[2:])
    if os.geteuid() != 0:
        sys.exit("check package: it makes systems and enters them: run it as root")
    steps = {"lint": lint, "roots": roots, "units": units, "container": container, "chart": chart}
    failures = []
    for name in sys.argv[1:] or steps:
        print(name, flush=True)
        try:
            steps[name]()
        except Failed as error:
            failures.append(name)
            print(f"  FAILED: {error}", flush=True)
    if failures:
        sys.exit(f"check package: failed: {', '.join(failures)}")
    return None


if __name__ == "__main__":
    main()
