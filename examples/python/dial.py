"""Dials one far service through the engine, from a script.

    python3 dial.py CORE.wasm HOST!PORT COMMAND... <request >answer

The command's stdin and stdout are the pipe to the far side: PuTTY's bare
ssh-connection, as `psusan` and `ssh HOST psusan` speak it. What comes on stdin goes
out; what comes back until the far end of it goes to stdout.

One thread reads the pipe, so that who writes on it waits for nobody; what it has read
has a bound (the windows). wasmtime-py has no generated types; records are
objects with the names of the WIT package, variants have a `tag` and a `payload`.
"""

import subprocess
import sys
import time
from queue import Empty, SimpleQueue
from threading import Thread

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker, Record

GREETING = b"SSHCONNECTION@putty.projects.tartarus.org-2.0-"
LONGEST = 1 << 18  # a longer message is none: OpenSSH sends no longer packet


def record(**fields):
    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


class Core:
    """The component: its functions by name."""

    def __init__(self, path):
        engine = Engine()
        self.store = Store(engine)
        component = Component.from_file(engine, path)
        self.instance = Linker(engine).instantiate(self.store, component)  # no imports
        self.interface = self.instance.get_export_index(self.store, "sshnet:core/engine@0.1.0")

    def call(self, name, *arguments):
        index = self.instance.get_export_index(self.store, name, self.interface)
        return self.instance.get_func(self.store, index)(self.store, *arguments)


class Session:
    """A session over the pipe of one command."""

    def __init__(self, path, command):
        self.core = Core(path)
        limits = self.core.call("default-limits")
        config = record(prefix="/net", services=[], limits=limits)
        self.session = self.core.call("[constructor]session", config)
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.child.stdin.write(GREETING + b"sshnet_example\r\n")
        greeting = self.line()
        if not greeting.startswith(GREETING):
            raise ConnectionError(f"that is no bare ssh-connection: {greeting!r}")
        self.started, self.wake, self.outcomes, self.requests = time.monotonic(), None, {}, 0
        self.messages = SimpleQueue()
        Thread(target=self.listen, daemon=True).start()
        self.event("pipe-up")

    def line(self):
        line = b""
        while not line.endswith(b"\n"):
            line += self.exactly(1)
        return line

    def exactly(self, length):
        data = b""
        while len(data) < length:
            piece = self.child.stdout.read(length - len(data))
            if not piece:
                raise ConnectionError("the pipe ended")
            data += piece
        return data

    def listen(self):
        """Puts each message into the queue, and at last why there are no more."""
        try:
            while True:
                length = int.from_bytes(self.exactly(4), "big")
                if length > LONGEST:
                    raise ConnectionError(f"the far side sends a message of {length} bytes")
                self.messages.put(self.exactly(length))
        except OSError as why:
            self.messages.put(why)

    def event(self, name, *arguments):
        """Something happened: performs the effects."""
        taken = 0
        for effect in self.core.call(f"[method]session.{name}", self.session, *arguments):
            if effect.tag == "send":
                message = bytes(effect.payload)
                self.child.stdin.write(len(message).to_bytes(4, "big") + message)
                taken += len(message)
            elif effect.tag == "complete":
                self.outcomes[effect.payload.request] = effect.payload.outcome
            elif effect.tag == "wake":
                self.wake = effect.payload
            elif effect.tag == "warn":
                print(effect.payload, file=sys.stderr)
            else:
                raise ConnectionError(effect.payload)
        if taken:
            self.event("pipe-took", taken)

    def request(self, name, *arguments):
        """Makes a request, and waits for its end."""
        return self.wait(self.start(name, *arguments))[1]

    def start(self, name, *arguments):
        """Makes a request: answers its number."""
        self.requests += 1
        self.event(name, self.requests, *arguments)
        return self.requests

    def wait(self, *requests):
        """Waits until one of them ends: answers which, and what it has."""
        while not (ended := [request for request in requests if request in self.outcomes]):
            now = int((time.monotonic() - self.started) * 1e6)
            if self.wake is not None and self.wake <= now:
                self.wake = None
            self.event("advance", now)
            wait = None if self.wake is None else max(self.wake - now, 0) / 1e6
            try:
                message = self.messages.get(timeout=wait)
            except Empty:
                continue
            if isinstance(message, OSError):
                raise message
            self.event("receive", message)
        outcome = self.outcomes.pop(ended[0])
        # A result is lifted bare where its two types differ, as these do.
        if hasattr(outcome, "code"):
            raise OSError(f"{outcome.code}: {outcome.message}")
        return ended[0], outcome.payload

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def copy(session, client):
    """Both ways at once: who echoes takes no more while nobody takes from it."""
    reading, writing, more = session.start("read", client, 65536), None, True
    while reading or writing or more:
        if more and not writing:
            if more := sys.stdin.buffer.read1(32768):
                writing = session.start("write", client, more)
            else:
                writing = session.start("control", client, b"closewrite")
        request, answer = session.wait(*filter(None, (writing, reading)))
        if request == writing:
            writing = None
        elif answer:
            sys.stdout.buffer.write(answer)
            reading = session.start("read", client, 65536)
        else:
            reading = None


def main():
    core, address, *command = sys.argv[1:]
    session = Session(core, command)
    client = session.request("clone", "tcp")
    session.request("control", client, f"connect {address}".encode())
    copy(session, client)
    session.close()


if __name__ == "__main__":
    main()
