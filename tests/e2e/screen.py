"""A terminal for tests: a program that runs in it, and what stands on its screen."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

CODE = re.compile(rb"\x1b\[([?0-9;]*)([@-~])|\x1b[()][A-Z0-9]|\x1b[=>78]|\x1b\][^\x07]*\x07")


class Screen:
    """Of the kind that TERM=linux is, as far as programs need it that draw a whole screen."""

    def __init__(self, argv, width=80, height=24, **environment):
        self.raw = b""
        self._rest = b""
        self.lines = []
        self.x = self.y = 0
        self._resized(width, height)
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
            try:
                os.execve(argv[0], [str(word) for word in argv], {**inherited, "TERM": "linux", **environment})
            finally:
                os._exit(127)
        self.resize(width, height)

    def _resized(self, width, height):
        """What fits stays, as on a real terminal: programs send what is new only."""
        self.width, self.height = width, height
        self.lines = [(line + [" "] * width)[:width] for line in (self.lines + [[] for _ in range(height)])[:height]]

    def resize(self, width, height):
        self._resized(width, height)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def text(self):
        return "\n".join("".join(line).rstrip() for line in self.lines)

    def shows(self, *texts, within=10):
        """Whether all of these come to stand on the screen."""
        return self.until(lambda: all(text in self.text() for text in texts), within)

    def until(self, reached, within=10):
        end = time.monotonic() + within
        while not reached():
            if time.monotonic() > end:
                return False
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    self._take(os.read(self.terminal, 65536))
                except OSError:  # The program has ended.
                    return reached()
        return True

    def wait(self, within=10):
        """The exit code, once it ends."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                self.process = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    self._take(os.read(self.terminal, 65536))
                except OSError:
                    pass
        return None

    def close(self):
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.terminal)

    def _take(self, data):
        self.raw += data
        data = self._rest + data
        at = 0
        while at < len(data):
            if data[at] == 0x1b:
                code = CODE.match(data, at)
                if code is None:
                    break  # The rest of it is yet to come.
                if code[2]:
                    self._obey(code[1].decode(), code[2].decode())
                at = code.end()
                continue
            length = 1 if data[at] < 0x80 else 2 if data[at] < 0xe0 else 3 if data[at] < 0xf0 else 4
            if at + length > len(data):
                break
            self._put(data[at:at + length].decode("utf-8", "replace"))
            at += length
        self._rest = data[at:]

    def _put(self, letter):
        if letter == "\r":
            self.x = 0
        elif letter == "\n":
            self.y = min(self.y + 1, self.height - 1)
        elif letter == "\b":
            self.x = max(self.x - 1, 0)
        elif letter >= " ":
            if self.x < self.width and self.y < self.height:
                self.lines[self.y][self.x] = letter
            self.x += 1

    def _obey(self, arguments, what):
        numbers = [int(one) for one in arguments.split(";") if one.isdigit()]
        count = numbers[0] if numbers else 1
        line = self.lines[min(self.y, self.height - 1)]
        if what == "H":
            self.y, self.x = (numbers + [1, 1])[0] - 1, (numbers + [1, 1])[1] - 1 if len(numbers) > 1 else 0
        elif what in "ABCD":
            dx, dy = {"A": (0, -1), "B": (0, 1), "C": (1, 0), "D": (-1, 0)}[what]
            self.x, self.y = max(self.x + dx * count, 0), max(self.y + dy * count, 0)
        elif what == "G":
            self.x = count - 1
        elif what == "d":
            self.y = count - 1
        elif what == "X":
            line[self.x:self.x + count] = [" "] * len(line[self.x:self.x + count])
        elif what == "K":
            begin, end = {0: (self.x, self.width), 1: (0, self.x + 1), 2: (0, self.width)}[numbers[0] if numbers else 0]
            line[begin:end] = [" "] * len(line[begin:end])
        elif what == "J":
            first = 0 if numbers[:1] == [2] else self.y + 1
            if first > 0:
                line[self.x:] = [" "] * len(line[self.x:])
            for other in self.lines[first:]:
                other[:] = [" "] * self.width
        elif what == "P":
            line[self.x:] = line[self.x + count:] + [" "] * count
            del line[self.width:]
        elif what == "@":
            line[self.x:self.x] = [" "] * count
            del line[self.width:]
        elif what in "LM":
            for _ in range(count):
                if what == "M":
                    del self.lines[self.y]
                    self.lines.append([" "] * self.width)
                else:
                    self.lines.insert(self.y, [" "] * self.width)
                    del self.lines[self.height]
        elif what not in "mhlrc":
            raise NotImplementedError(f"the terminal of tests does not know {arguments}{what}")
