"""`shoal top`: the cluster in a terminal, over HTTP."""
import re
import socket
import threading

import pytest

from dialogue import ask, client_of
from local_cluster import free_ports, wait_until
from screen import Screen

QUESTION = "What is the capital of Portugal?"


class Door:
    """A port that leads to another one while it is open."""

    def __init__(self, target):
        self.target = target
        self.port, = free_ports(1)
        self._listener = None
        self.open()

    def open(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, listener):
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target), 10)
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def open_screen():
    screens = []

    def make(*argv, **options):
        screens.append(Screen(argv, **options))
        return screens[-1]

    yield make
    for screen in screens:
        screen.close()


def test_once_prints_all_there_is_as_plain_text(run, trio):
    ask(client_of(trio), QUESTION)
    done = run("top", "--once", "--url", trio.url, "--interval", "0.3")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and all(len(line) <= 80 for line in done.stdout.splitlines())
    for layers, node in enumerate(("coordinator", "worker-1", "worker-2")):
        assert re.search(rf"^{node} +up +{2 * layers}-{2 * layers + 1} ", done.stdout, re.M), done.stdout
    assert re.search(r"First token +p50 [\d.]+ m?s", done.stdout), done.stdout
    assert "session 1 is open" in done.stdout and "MOST USED" in done.stdout
    # Where the output is no terminal nobody could press a key.
    assert run("top", "--url", trio.url, "--interval", "0.2").stdout.startswith("shoal top")
    gone = run("top", "--once", "--url", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert gone.returncode == 1 and "refused" in gone.stderr


def test_a_key_of_a_file_is_sent_and_a_digest_is_none(run, trio, tmp_path):
    key = tmp_path / "key"
    key.write_text("sha256:" + "0" * 64 + " name=ann\n")
    done = run("top", "--once", "--url", trio.url, "--api-key-file", key)
    assert done.returncode == 2 and "digests" in done.stderr
    key.write_text("\n")
    assert "holds no key" in run("top", "--once", "--url", trio.url, "--api-key-file", key).stderr


def test_in_a_terminal_it_follows_keys_sizes_and_a_server_that_goes_and_comes_back(shoal, trio, open_screen):
    door = Door(trio.port)
    screen = open_screen(shoal, "top", "--url", f"http://127.0.0.1:{door.port}", "--interval", "0.3", NO_COLOR="1")
    assert screen.shows("worker-2", "1 cluster", "Tokens/s", "WHAT HAPPENED"), screen.text()
    screen.press("4")
    assert screen.shows("MOST USED", "worker-1"), screen.text()
    screen.press("3")
    assert screen.shows("session 1 is open") and "Tokens/s" not in screen.text(), screen.text()
    screen.press("\t\t")  # Round to the first page.
    assert screen.shows("Tokens/s"), screen.text()

    screen.resize(40, 10)
    assert screen.shows("coordinator", "Tokens/s"), screen.text()
    screen.press("\x1b[B" * 3)  # There is no room for all rows.
    assert screen.until(lambda: "coordinator" not in screen.text()), screen.text()
    screen.resize(100, 30)
    assert screen.shows("coordinator", "worker-2", "q quits"), screen.text()

    door.close()
    assert screen.shows("asked again", "worker-2"), screen.text()
    door.open()
    assert screen.until(lambda: "asked again" not in screen.text() and "Tokens/s" in screen.text()), screen.text()
    assert not re.search(rb"\x1b\[[0-9;]*\b[34][0-7]m", screen.raw), "NO_COLOR"
    screen.press("q")
    assert screen.wait() == 0
    door.close()


def test_states_have_colours_where_the_terminal_has_them(shoal, trio, open_screen):
    screen = open_screen(shoal, "top", "--url", trio.url)
    assert screen.shows("worker-2"), screen.text()
    assert wait_until(lambda: screen.until(lambda: b"\x1b[32m" in screen.raw, 1), 5), screen.raw
    screen.press("q")
    assert screen.wait() == 0
