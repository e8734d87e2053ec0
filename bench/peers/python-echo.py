"""Peer of the benchmark: echo on a Python event loop, by the loop's own socket calls (as RLoop's "raw" benchmark does) or,
with --proto, by a Protocol.

python-echo.py [--loop rloop|uvloop] [--proto] [--host H] [--port P]; ends on SIGTERM, by the signal's default action.
"""

import argparse
import asyncio
import importlib
import socket

BACKLOG = 4096
# What RLoop's own server asks for at once: as much as the largest message of its benchmark.
RECEIVE_BYTES = 100 * 1024


class Echo(asyncio.Protocol):
    """Sends back what it gets; a peer that does not read waits until it has read what is queued."""

    def connection_made(self, transport):
        self.transport = transport
        no_delay(transport.get_extra_info("socket"))

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def no_delay(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def accept_all(loop, listener):
    # The loop knows tasks only weakly.
    serving = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        task = loop.create_task(serve(loop, connection))
        serving.add(task)
        task.add_done_callback(serving.discard)


async def serve(loop, connection):
    with connection:
        no_delay(connection)
        try:
            while data := await loop.sock_recv(connection, RECEIVE_BYTES):
                await loop.sock_sendall(connection, data)
        except ConnectionError:
            # A client that resets ends its own connection and nothing else.
            pass


def listen(host, port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("rloop", "uvloop"), default="uvloop")
    parser.add_argument("--proto", action="store_true")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()

    loop = importlib.import_module(given.loop).new_event_loop()
    asyncio.set_event_loop(loop)
    listener = listen(given.host, given.port)
    host, port = listener.getsockname()
    if given.proto:
        loop.run_until_complete(loop.create_server(Echo, sock=listener))
    else:
        loop.create_task(accept_all(loop, listener))
    print(f"listening on tcp://{host}:{port} (shards 1, engine {given.loop})", flush=True)
    loop.run_forever()


main()
