#!/usr/bin/env python3
"""Stands between farpool and a TCP donor, and delays what it is told to.

    holding_proxy.py DONOR_PORT FILE     prints the port it listens at on 127.0.0.1

Once FILE exists, what the newest connection's client sends waits here; FILE.held says so, and FILE.newer that there is
another connection by now or none to hold. When FILE is gone and that client has given up, all that waits is sent on;
FILE.sent says that the donor has ended that connection, and so done what it was going to do. Ends when its stdin does.
"""

import os
import select
import socket
import sys

donor_port, hold_file = int(sys.argv[1]), sys.argv[2]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)


class Pipe:
    """One direction of a connection."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.waiting = bytearray()
        self.open = True

    def read(self):
        try:
            data = self.source.recv(1 << 20)
        except OSError:
            data = b""
        self.waiting += data
        self.open = bool(data)

    def write(self):
        try:
            self.target.sendall(self.waiting)
            if not self.open:
                self.target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The other side is gone, and with it whoever wanted this.
        self.waiting.clear()


def say(word):
    with open(hold_file + "." + word, "w"):
        pass


pipes = []
newest = held = Pipe(None, None)  # From a client.
newest.open = False
holding = told = False
while True:
    sources = {pipe.source: pipe for pipe in pipes if pipe.open}
    ready, _, _ = select.select([sys.stdin, listener, *sources], [], [], 0.005)
    if sys.stdin in ready:
        sys.exit(0)
    for pipe in [sources[source] for source in ready if source in sources]:
        pipe.read()
        if pipe is not held:
            pipe.write()
    if listener in ready:
        client, _ = listener.accept()
        donor = socket.create_connection(("127.0.0.1", donor_port))
        newest = Pipe(client, donor)
        pipes += [newest, Pipe(donor, client)]
    wanted = os.path.exists(hold_file)
    if wanted and not holding:
        holding, held = True, newest
        say("held")
    if holding and not told and (newest is not held or not held.open):
        told = True
        say("newer")
    elif not wanted and holding and not held.open:
        if held.waiting:
            held.write()
            while held.target.recv(1 << 20):
                pass
        holding = told = False
        say("sent")
