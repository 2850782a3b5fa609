"""Dials one far service through the engine, from a script.

    python3 dial.py CORE.wasm HOST!PORT COMMAND... <request >answer

The command's stdin and stdout are the pipe to the far side: PuTTY's bare
ssh-connection, as `psusan` and `ssh HOST psusan` speak it. What comes on stdin goes
out; what comes back until the far end of it goes to stdout.

There is no thread: what is on the way has a bound (the windows), so the pipe is read
whenever there is nothing to send. wasmtime-py has no generated types; records are
objects with the names of the WIT package, variants have a `tag` and a `payload`.
"""

import subprocess
import sys
import time
from selectors import EVENT_READ, DefaultSelector

from wasmtime import Engine, Store
from wasmtime.component import Component, Linker, Record

GREETING = b"SSHCONNECTION@putty.projects.tartarus.org-2.0-"


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
        self.requests += 1
        request = self.requests
        self.event(name, request, *arguments)
        with DefaultSelector() as pipe:
            pipe.register(self.child.stdout, EVENT_READ)
            while request not in self.outcomes:
                now = int((time.monotonic() - self.started) * 1e6)
                if self.wake is not None and self.wake <= now:
                    self.wake = None
                self.event("advance", now)
                wait = None if self.wake is None else max(self.wake - now, 0) / 1e6
                if pipe.select(wait):
                    length = int.from_bytes(self.exactly(4), "big")
                    self.event("receive", self.exactly(length))
        outcome = self.outcomes.pop(request)
        # A result is lifted bare where its two types differ, as these do.
        if hasattr(outcome, "code"):
            raise OSError(f"{outcome.code}: {outcome.message}")
        return outcome.payload

    def close(self):
        self.child.stdin.close()
        self.child.wait()


def main():
    core, address, *command = sys.argv[1:]
    session = Session(core, command)
    client = session.request("clone", "tcp")
    session.request("control", client, f"connect {address}".encode())
    while data := sys.stdin.buffer.read1(32768):
        session.request("write", client, data)
    session.request("control", client, b"closewrite")
    while data := session.request("read", client, 65536):
        sys.stdout.buffer.write(data)
    session.close()


if __name__ == "__main__":
    main()
