"""A network that drops packets silently: a namespace behind a veth pair, with wrong link addresses."""
import os
import subprocess

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
