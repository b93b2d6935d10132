"""Networks that drop packets silently: a namespace behind a veth pair, with wrong link addresses; and, in one direction and without
root, a proxy that passes nothing on."""
import contextlib
import os
import socket
import subprocess
import threading

from tester import TESTER


def _ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class BlackHole:
    """A network namespace that can be cut off silently: no reset, no "unreachable", no loss of carrier.

    Both ends get a permanent neighbour entry with an unused link address, so that frames are sent and never arrive.
    (Sockets would notice an interface that goes down; netem is not in every kernel.)
    """

    NOWHERE = "02:00:00:00:00:99"

    def __init__(self, number):
        self.space = f"shoal-{os.getpid()}-{number}"
        self.here_if = f"shoal{os.getpid() % 100000}h{number}"
        self.there_if = f"shoal{os.getpid() % 100000}t{number}"
        subnet = f"10.{231 + TESTER}.{200 + number}"
        self.here, self.there = f"{subnet}.1", f"{subnet}.2"
        self.prefix = ["ip", "netns", "exec", self.space]

    def open(self):
        try:
            _ip("netns", "add", self.space)
            _ip("link", "add", self.here_if, "type", "veth", "peer", "name", self.there_if, "netns", self.space)
            _ip("addr", "add", f"{self.here}/30", "dev", self.here_if)
            _ip("link", "set", self.here_if, "up")
            _ip("-n", self.space, "addr", "add", f"{self.there}/30", "dev", self.there_if)
            _ip("-n", self.space, "link", "set", self.there_if, "up")
            _ip("-n", self.space, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            import pytest  # Not at the top: bench/ needs no more than the standard library.
            pytest.skip(f"no network namespaces here (needs root and iproute2): {getattr(error, 'stderr', '') or error}")
        return self

    def around_last(self, workers):
        """Options of a LocalCluster whose last worker is in it. All nodes must reach each other, so that the others listen on
        this end of the link, not on loopback."""
        last = workers - 1
        return {"hosts": {i: self.there if i == last else self.here for i in range(workers)}, "prefixes": {last: self.prefix}}

    def _neighbours(self, here_mac, there_mac):
        _ip("neigh", "replace", self.there, "lladdr", there_mac, "dev", self.here_if, "nud", "permanent")
        _ip("-n", self.space, "neigh", "replace", self.here, "lladdr", here_mac, "dev", self.there_if, "nud", "permanent")

    def _mac(self, *words):
        return _ip(*words).split("link/ether ")[1].split()[0]

    def swallow(self):
        self._neighbours(self.NOWHERE, self.NOWHERE)

    def release(self):
        self._neighbours(self._mac("link", "show", self.here_if),
                         self._mac("-n", self.space, "link", "show", self.there_if))

    def close(self):
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.here_if], capture_output=True, check=False)


class HalfHole:
    """A proxy in front of a port: whoever connects to `address` reaches `target`, or nobody between swallow() and release().

    Connections stay open meanwhile, and what was sent comes late, as after a network's failure. What the process behind `target`
    sends over connections of its own does not come by here.
    """

    def __init__(self, host, target):
        self.target = (target.rpartition(":")[0], int(target.rpartition(":")[2]))
        self.listener = socket.create_server((host, 0), backlog=100)
        self.address = f"{host}:{self.listener.getsockname()[1]}"
        self.flows = threading.Event()
        self.flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # Closed.
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near):
        self.flows.wait()
        try:
            far = socket.create_connection(self.target, 20)
        except OSError:
            near.close()
            return
        for link in (near, far):
            link.settimeout(None)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
        back.start()
        self._carry(near, far)
        back.join()
        near.close()
        far.close()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.flows.wait()
                sink.sendall(data)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def swallow(self):
        self.flows.clear()

    def release(self):
        self.flows.set()

    def close(self):
        self.release()
        # close() alone would not wake who waits in accept().
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
