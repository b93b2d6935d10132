"""Starts a coordinator and its workers as processes on this machine, for the demo and the end-to-end tests.

Uses only the standard library, so that the demo runs on a fresh machine.
"""
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ClusterError(RuntimeError):
    """A process failed; the message has the end of its log."""


def free_ports(count, host="127.0.0.1"):
    """Unused ports. All are held until the last is known, so that they differ.

    SHOAL_FREE_PORTS, such as 12000-13999, is where to look: of programs that take ports at the same time, each has its range, below
    those that the system gives away.
    """
    first, _, last = os.environ.get("SHOAL_FREE_PORTS", "0-0").partition("-")
    candidates = list(range(int(first), int(last) + 1)) if first != "0" else [0] * count
    random.shuffle(candidates)
    sockets = []
    try:
        for port in candidates:
            s = socket.socket()
            sockets.append(s)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError:
                sockets.pop().close()
            if len(sockets) == count:
                return [s.getsockname()[1] for s in sockets]
        raise OSError(f"expected {count} free ports of {host}, found {len(sockets)}")
    finally:
        for s in sockets:
            s.close()


def wait_until(condition, timeout_s, pause_s=0.05):
    """Returns True as soon as condition() is true, False after timeout_s."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


def get_text(url, timeout_s=5.0, context=None):
    """GET url -> (status, body), for any HTTP status. context: an SSLContext for https; None: the system's authorities."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get_json(url, timeout_s=5.0):
    status, body = get_text(url, timeout_s)
    if status != 200:
        raise ClusterError(f"GET {url}: expected 200, got {status}: {body[:500]}")
    return json.loads(body)


class Process:
    """One shoal process and its log."""

    def __init__(self, name, argv, log_path, prefix=()):
        self.name = name
        self.argv = [str(a) for a in (*prefix, *argv)]
        self.log_path = Path(log_path)
        self.popen = None

    def start(self):
        """Starts the process in its own session, so that Ctrl-C reaches only us and we end the processes in order."""
        with self.log_path.open("ab") as log:
            log.write(f"$ {' '.join(self.argv)}\n".encode())
            log.flush()
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                # If we are killed, the process is killed, too; macOS has no such wish.
                preexec_fn=(lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)) if sys.platform == "linux" else None)
        return self

    @property
    def pid(self):
        return self.popen.pid

    @property
    def alive(self):
        return self.popen is not None and self.popen.poll() is None

    def _signal(self, number):
        if self.alive:
            os.killpg(self.popen.pid, number)

    def pause(self):
        self._signal(signal.SIGSTOP)

    def resume(self):
        self._signal(signal.SIGCONT)

    def kill(self):
        self._signal(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait(10)

    def stop(self, timeout_s=10.0):
        """Sends SIGTERM, and SIGKILL after timeout_s. Returns the exit code, or minus the number of the fatal signal."""
        if self.popen is None:
            return None
        self._signal(signal.SIGTERM)
        self.resume()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines=15):
        return "\n".join(f"  {self.name} | {line}" for line in self.log().splitlines()[-lines:])

    def rss_bytes(self, peak=False):
        return self.memory_bytes("VmHWM" if peak else "VmRSS")

    def memory_bytes(self, key):
        """What the system says of the process under this key."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise ClusterError(f"{self.name}: /proc/{self.pid}/status has no {key}:")


class LocalCluster:
    """A coordinator and `workers` workers, possibly none. A context manager.

    model: None where serve_args say which; workers then need a model_root.
    serve_args, worker_args: further flags for `shoal serve` and `shoal worker`; worker_args may be a function of the
        worker's index.
    prefixes: programs that run a worker, by its index: {1: ["ip", "netns", "exec", "x"]}.
    hosts: addresses of workers, by index; the default is loopback.
    """

    def __init__(self, shoal, model, log_dir, workers=0, serve_args=(), worker_args=(), model_root=None, port=None,
                 prefixes=None, hosts=None):
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        model = Path(model).resolve() if model is not None else None
        ports = free_ports(workers + 1)
        self.port = port or ports[0]
        self.url = f"http://127.0.0.1:{self.port}"
        hosts = hosts or {}
        self.addresses = [f"{hosts.get(i, '127.0.0.1')}:{p}" for i, p in enumerate(ports[1:])]

        self.workers = []
        for i, address in enumerate(self.addresses):
            more = worker_args(i) if callable(worker_args) else worker_args
            argv = [shoal, "worker", "--listen", address, "--name", f"worker-{i + 1}",
                    "--model-root", model_root or model.parent, *more]
            self.workers.append(Process(f"worker-{i + 1}", argv, self.log_dir / f"worker-{i + 1}.log",
                                        (prefixes or {}).get(i, ())))
        argv = [shoal, "serve", "--port", self.port]
        if model is not None:
            argv += ["--model", model]
        if self.addresses:
            argv += ["--workers", ",".join(self.addresses)]
        self.coordinator = Process("coordinator", [*argv, *serve_args], self.log_dir / "coordinator.log")

    @property
    def processes(self):
        return [self.coordinator, *self.workers]

    def start(self, timeout_s=60.0):
        for worker in self.workers:
            worker.start()
        self.coordinator.start()
        self.wait_ready(timeout_s)
        return self

    def healthy(self):
        try:
            return get_text(self.url + "/health", 2.0)[0] == 200
        except OSError:
            return False

    def wait_ready(self, timeout_s=60.0):
        """Returns when the coordinator is ready; raises ClusterError if a process ends or after timeout_s."""
        end = time.monotonic() + timeout_s
        while not self.healthy():
            for process in self.processes:
                if not process.alive:
                    raise ClusterError(f"{process.name} ended with code {process.popen.returncode}; the end of "
                                       f"{process.log_path}:\n{process.log_tail()}")
            if time.monotonic() > end:
                raise ClusterError(f"not ready after {timeout_s:.0f} s; the ends of the logs in {self.log_dir}:\n" +
                                   "\n".join(p.log_tail(8) for p in self.processes))
            time.sleep(0.05)

    def status(self):
        return get_json(self.url + "/cluster/status")

    def node(self, name):
        """The entry of a node in /cluster/status."""
        return next(node for node in self.status()["nodes"] if node["name"] == name)

    def cache_stats(self):
        return get_json(self.url + "/cache/stats")

    def metrics(self):
        """Prometheus samples as {name{labels}: value}."""
        _, text = get_text(self.url + "/metrics")
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self):
        """Stops the coordinator first, so that it reports no lost worker. Returns the exit codes by name."""
        return {process.name: process.stop() for process in self.processes}

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc):
        self.stop()
