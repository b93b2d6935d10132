"""shoal up, down, restart, status, logs and test: on this machine, and over a real sshd in network namespaces."""
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from local_cluster import free_ports, get_json, get_text, wait_until
from sshd import BRIDGE_ADDRESS, SshHosts


class Launched:
    """A cluster that `shoal` starts from a cluster file; brought down at the end of the test."""

    def __init__(self, shoal, folder, description):
        self.shoal = shoal
        self.folder = folder
        self.path = folder / "my cluster.json"
        self.port = description["launch"]["api_port"]
        self.description = description
        self.write()

    def write(self):
        self.path.write_text(json.dumps(self.description))

    def call(self, command, *words, timeout_s=90):
        return subprocess.run([self.shoal, command, "--cluster", self.path, *map(str, words)], capture_output=True,
                              text=True, timeout=timeout_s, check=False)

    def do(self, command, *words):
        done = self.call(command, *words)
        assert done.returncode == 0, f"{done.args}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def fail(self, command, *words):
        done = self.call(command, *words)
        assert done.returncode != 0, f"{done.args}:\n{done.stdout}\n{done.stderr}"
        return done.stderr

    def devices(self):
        return {device["device"]: device for device in json.loads(self.do("status", "--json"))["devices"]}

    def pids(self):
        return {name: device.get("pid") for name, device in self.devices().items()}

    def end(self):
        self.call("down", "--stop-timeout", 5)
        for copy in self.folder.glob("*/bin"):
            shutil.rmtree(copy)


@pytest.fixture(scope="session")
def light_shoal(shoal, tmp_path_factory):
    """The binary without what debuggers read: it is copied often."""
    path = tmp_path_factory.mktemp("light") / "shoal"
    subprocess.run(["strip", "-o", path, shoal], check=True)
    return path


def description(demo_model, workdir, devices, **launch):
    """Two layers on each device, and the experts spread over all."""
    return {"devices": devices, "model": {"name": demo_model.name},
            "sharding": {"layers": [2, 2, 2], "experts": "round_robin:3"},
            "launch": {"workdir": str(workdir), "model_root": str(demo_model.parent), "api_port": free_ports(1)[0],
                       "env": {"SHOAL_PACKED_CACHE": "off"}, "flags": ["--threads", 1], **launch}}


@pytest.fixture
def local(light_shoal, demo_model, tmp_path):
    """A coordinator and two workers on loopback, in a folder whose name a shell would misread."""
    ports = free_ports(2)
    devices = [{"device_id": "first", "role": "coordinator"}]
    devices += [{"device_id": f"w{i}", "hostname": "127.0.0.1", "port": port, "role": "worker"}
                for i, port in enumerate(ports, 1)]
    cluster = Launched(light_shoal, tmp_path, description(demo_model, tmp_path / "it's a $(touch x) \"dir\"", devices))
    cluster.workdir = Path(cluster.description["launch"]["workdir"])
    yield cluster
    cluster.end()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_cluster_goes_up_is_looked_at_and_goes_down(local):
    local.do("up")
    devices = local.devices()
    assert [(d["rank"], d["role"], d["process"], d["state"], d["layers"]) for d in devices.values()] == [
        (0, "coordinator", "running", "up", "0-1"), (1, "worker", "running", "up", "2-3"), (2, "worker", "running", "up", "4-5")]
    table = local.do("status")
    assert "up" in table.splitlines()[0] and re.search(r"^2 +w2 +this machine +worker +running +\d+ ", table, re.M), table

    tested = local.do("test", "--asks", 2)
    assert "all 3 devices are up" in tested and "Paris" in tested
    assert re.search(r"^2 +[\d.]+ +[\d.]+ +[1-9]\d* +[\d.]+$", tested, re.M), tested

    # Every line of every log names its node and rank.
    for name, file in (("first/0", "api_server.log"), ("w1/1", "w1_server.log"), ("w2/2", "w2_server.log")):
        lines = (local.workdir / "logs" / file).read_text().splitlines()
        assert lines and all(re.match(rf"[\d-]+ [\d:.]+ [DIWE] \[{name}[\] ]", line) for line in lines), lines
    merged = local.do("logs", "-n", 5).splitlines()
    assert {line.split(" | ")[0] for line in merged} == {"first 0", "w1    1", "w2    2"}
    times = [line.split(" | ")[1][:23] for line in merged]
    assert times == sorted(times)
    assert {line.split()[0] for line in local.do("logs", "w2").splitlines()} == {"w2"}

    # A second `up` starts nothing, and a restart of one leaves the others.
    before = local.pids()
    assert "runs already" in local.do("up") and local.pids() == before
    local.do("restart", "w2")
    after = local.pids()
    assert after["w2"] != before["w2"] and after["w1"] == before["w1"] and after["first"] == before["first"]

    # What was killed is started again, and what runs with other settings is told.
    os.kill(after["w1"], signal.SIGKILL)
    assert wait_until(lambda: local.devices()["w1"]["process"] == "died", 10)
    local.description["devices"][2]["flags"] = ["--memory", "1GiB"]
    local.write()
    said = local.do("up")
    assert re.search("started 'w1'", said) and re.search("'w2' runs already.*shoal restart w2", said), said
    assert local.pids()["w2"] == after["w2"]

    local.do("down")
    assert not any(map(alive, local.pids().values()))
    assert [device["process"] for device in local.devices().values()] == ["stopped"] * 3
    assert not list((local.workdir / "run").glob("*.pid"))
    local.do("down")


def test_a_pid_file_whose_pid_is_anothers_stops_nobody(local):
    local.do("up")
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            pid_file = local.workdir / "run/w1.pid"
            record = json.loads(pid_file.read_text())
            pid_file.write_text(json.dumps({**record, "pid": stranger.pid}))
            assert "belongs to another process" in local.do("status")
            assert "left alone" in local.do("down")
            assert stranger.poll() is None
            assert alive(record["pid"])  # It was not in a PID file any more.
        finally:
            stranger.kill()
            os.kill(record["pid"], signal.SIGKILL)


def test_what_can_not_start_says_why_and_leaves_nothing_behind(local):
    local.description["devices"][2]["flags"] = ["--memory", "nonsense"]
    local.write()
    said = local.fail("up")
    assert "'w2': it ended" in said and "nonsense" in said and "the end of its log" in said, said
    assert [device["process"] for device in local.devices().values()] == ["stopped"] * 3
    assert "'w2'" in local.fail("up", "--keep")
    assert [device["process"] for device in local.devices().values()] == ["stopped", "running", "died"]


def test_a_model_that_is_not_there_is_told_within_the_timeout(local, tmp_path):
    local.description["devices"][1]["model_root"] = str(tmp_path / "empty")
    local.write()
    said = local.fail("up", "--timeout", 3)
    assert "w1" in said and "empty" in said, said
    assert not any(map(alive, local.pids().values()))


def test_bad_files_are_refused_before_anything_starts(local):
    local.description["launch"]["workdri"] = local.description["launch"].pop("workdir")
    local.write()
    assert "workdir" in local.fail("up")
    local.description["launch"]["workdir"] = local.description["launch"].pop("workdri")
    local.description["devices"][1]["device_id"] = "../w1"
    local.write()
    assert "../w1" in local.fail("up") and not local.workdir.exists()


def test_following_logs_shows_what_is_appended(local):
    local.do("up")
    with subprocess.Popen([local.shoal, "logs", "--cluster", local.path, "-f", "-n", "1"], stdout=subprocess.PIPE,
                          text=True) as follower:
        try:
            while not follower.stdout.readline().startswith("w1 "):  # From then on it follows.
                pass
            local.do("restart", "w1")
            seen = [follower.stdout.readline()]
            while "worker listens" not in seen[-1]:
                seen.append(follower.stdout.readline())
            assert any(line.startswith("w1    1 | ") for line in seen), seen
        finally:
            follower.terminate()


def test_the_cluster_file_is_read_once(local):
    text = local.path.read_text()
    local.path.unlink()
    os.mkfifo(local.path)
    try:
        threading.Thread(target=local.path.write_text, args=(text,), daemon=True).start()
        devices = json.loads(local.do("status", "--json"))["devices"]  # Whoever read again would wait for another writer.
        assert [device["process"] for device in devices] == ["stopped"] * 3
    finally:
        local.path.unlink()
        local.write()


# ------------------------------------------------------------------------------------------------------ over ssh

@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    opened = SshHosts(tmp_path_factory.mktemp("ssh"), 4).open()
    yield opened
    opened.close()


@pytest.fixture
def remote(light_shoal, demo_model, tmp_path, hosts):
    """A coordinator on one host and workers on two others; each has a folder of its own, as their disk is the same."""
    devices = []
    for i, name in enumerate(["api", "w1", "w2"]):
        devices.append({"device_id": name, "hostname": hosts.address(i), "port": 50051,
                        "role": "worker" if i else "coordinator", "workdir": str(tmp_path / f"{name}'s \"$HOME\" dir")})
    launch = {"key_file": str(tmp_path / "cluster.key"),
              "ssh": {"user": "root", "identity": str(hosts.identity), "known_hosts": str(hosts.known_hosts)}}
    cluster = Launched(light_shoal, tmp_path, description(demo_model, tmp_path / "unused", devices, **launch))
    cluster.workdirs = {device["device_id"]: Path(device["workdir"]) for device in devices}
    yield cluster
    cluster.end()


def test_a_cluster_over_ssh(remote, hosts, tmp_path):
    said = remote.do("up")
    assert said.count("copied") == 3 and "made the cluster's key" in said, said
    devices = remote.devices()
    assert [(d["host"], d["state"]) for d in devices.values()] == [(hosts.address(i), "up") for i in range(3)]
    for device in devices.values():
        assert (os.readlink(f"/proc/{device['pid']}/ns/net") ==
                subprocess.run(["ip", "netns", "exec", hosts.space(device["rank"]), "readlink", "/proc/self/ns/net"],
                               capture_output=True, text=True, check=True).stdout.strip())
    # The key is the owner's only, here and there, and no argument of a process.
    key = (tmp_path / "cluster.key").read_text()
    for folder in (tmp_path, *remote.workdirs.values()):
        assert (folder / "cluster.key").stat().st_mode & 0o777 == 0o600
        assert (folder / "cluster.key").read_text() == key
    # They outlive their ssh session, and answer on their own network only.
    assert "Paris" in remote.do("test", "--asks", 1)
    with pytest.raises(OSError):
        get_text(f"http://{hosts.address(0)}:{remote.port}/health", 2)
    merged = remote.do("logs", "-n", 3)
    assert re.search(r"^w2  2 \| .*\[w2/2", merged, re.M), merged

    before = remote.pids()
    os.kill(before["w1"], signal.SIGKILL)
    said = remote.do("up")
    assert "copied" not in said and "started 'w1'" in said, said
    assert {name for name, pid in remote.pids().items() if pid != before[name]} == {"w1"}
    pids = remote.pids().values()
    remote.do("down")
    assert not any(map(alive, pids))


def children(pid):
    def parent(stat):
        return int(stat.rsplit(")", 1)[1].split()[1])
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if parent(path.read_text()) == pid:
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def test_a_host_whose_ssh_ends_is_told_of_while_logs_are_followed(remote):
    remote.do("up")
    words = [remote.shoal, "logs", "--cluster", remote.path, "-f", "-n", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stdout.readline()
            assert wait_until(lambda: len(children(follower.pid)) == 3, 20)
            os.kill(children(follower.pid)[0], signal.SIGKILL)
            assert "its logs are not followed any more" in follower.stderr.readline()
            assert follower.poll() is None
        finally:
            follower.terminate()


def test_a_host_that_does_not_answer_is_named_and_the_others_are_left_clean(remote, hosts):
    silent = hosts.address(3)
    hosts.swallow(3)
    remote.description["devices"][2]["ssh"] = {"host": silent}
    remote.write()
    began = time.monotonic()
    said = remote.fail("up")
    assert f"{silent}: ssh could not log in" in said and "ssh -i" in said, said
    assert time.monotonic() - began < 40
    devices = remote.devices()
    assert [device["process"] for device in devices.values()] == ["stopped", "stopped", None]
    assert devices["w2"]["host"] == silent and "ssh could not log in" in devices["w2"]["error"]


def test_an_unknown_host_key_is_refused(remote, hosts, tmp_path):
    (tmp_path / "none").write_text("")
    remote.description["devices"][1]["ssh"] = {"known_hosts": str(tmp_path / "none")}
    remote.write()
    said = remote.fail("up")
    assert hosts.address(1) in said and "Host key verification failed" in said, said


def test_a_binary_that_does_not_run_there_says_so(remote, hosts, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf7\x00" + bytes(100))  # For another machine.
    other.chmod(0o755)
    remote.description["devices"][1]["binary"] = str(other)
    remote.write()
    said = remote.fail("up")
    assert hosts.address(1) in said and "does not run there" in said and '"binary"' in said, said
    assert [device["process"] for device in remote.devices().values()] == ["stopped"] * 3


def test_the_launching_machine_may_be_one_of_the_hosts(light_shoal, demo_model, tmp_path, hosts):
    devices = [{"device_id": "here", "hostname": BRIDGE_ADDRESS, "port": 50061, "role": "coordinator"},
               {"device_id": "there", "hostname": hosts.address(1), "port": 50061, "role": "worker",
                "workdir": str(tmp_path / "there")}]
    launch = {"key_file": str(tmp_path / "cluster.key"),
              "ssh": {"user": "root", "identity": str(hosts.identity), "known_hosts": str(hosts.known_hosts)}}
    described = description(demo_model, tmp_path / "here", devices, **launch)
    described["sharding"] = {"layers": [3, 3]}
    cluster = Launched(light_shoal, tmp_path, described)
    try:
        cluster.do("up")
        assert [device["host"] for device in cluster.devices().values()] == ["this machine", hosts.address(1)]
        assert get_json(f"http://127.0.0.1:{cluster.port}/health")["status"] == "ok"
        cluster.do("down")
    finally:
        cluster.end()
