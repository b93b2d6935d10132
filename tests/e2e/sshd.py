"""Hosts for `shoal up`: network namespaces behind one bridge, each with a real sshd on port 22."""
import os
import shutil
import subprocess

import pytest

from local_cluster import wait_until

SSHD = "/usr/sbin/sshd"
BRIDGE_ADDRESS = "10.232.77.1"


def _run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


class SshHosts:
    """hosts.address(0), hosts.address(1), ...: machines that let root in with hosts.identity, and are in hosts.known_hosts.

    All have the same disk and the same processes; only their networks differ.
    """

    def __init__(self, folder, count):
        self.folder = folder
        self.count = count
        self.bridge = f"shb{os.getpid() % 1000000}"
        self.identity = folder / "key of the test"
        self.known_hosts = folder / "known hosts"
        self._daemons = {}

    def address(self, number):
        return f"10.232.77.{number + 2}"

    def space(self, number):
        return f"shoal-ssh-{os.getpid()}-{number}"

    def open(self):
        if not os.path.exists(SSHD):
            pytest.fail("no /usr/sbin/sshd: ./dev setup installs it")
        try:
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{BRIDGE_ADDRESS}/24", "dev", self.bridge)
            _run("ip", "link", "set", self.bridge, "up")
            for number in range(self.count):
                self._open_space(number)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            pytest.skip(f"no network namespaces here (needs root and iproute2): {getattr(error, 'stderr', '') or error}")
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.identity))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key"))
        host_key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text("".join(f"{self.address(i)} {host_key}\n" for i in range(self.count)))
        shutil.copy(f"{self.identity}.pub", self.folder / "authorized_keys")
        (self.folder / "sshd_config").write_text(
            f"Port 22\nHostKey {self.folder}/host_key\nAuthorizedKeysFile {self.folder}/authorized_keys\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
            f"SetEnv HOME={self.folder}\n")
        os.makedirs("/run/sshd", exist_ok=True)  # Where sshd separates its privileges; Debian's service makes it.
        for number in range(self.count):
            self.start_sshd(number)
        return self

    def _open_space(self, number):
        space, here = self.space(number), f"{self.bridge}n{number}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", here, "master", self.bridge, "up")
        _run("ip", "-n", space, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")

    def start_sshd(self, number):
        log = (self.folder / f"sshd-{number}.log").open("ab")
        self._daemons[number] = subprocess.Popen(
            ["ip", "netns", "exec", self.space(number), SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        greeting = ["bash", "-c", f"exec 3<>/dev/tcp/{self.address(number)}/22 && head -c 4 <&3"]
        if not wait_until(lambda: subprocess.run(greeting, capture_output=True, check=False).stdout == b"SSH-", 10):
            pytest.fail(f"sshd did not start: {(self.folder / f'sshd-{number}.log').read_text()}")

    def swallow(self, number):
        """From now on the host does not answer, and nothing says so."""
        _run("ip", "link", "set", f"{self.bridge}n{number}", "nomaster")

    def close(self):
        for daemon in self._daemons.values():
            daemon.terminate()
            daemon.wait(10)
        for number in range(self.count):
            subprocess.run(["ip", "netns", "del", self.space(number)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
