"""A server that takes every connection and never answers: as one that hangs, or that a firewall swallows."""

import socket


class BlackHole:
    """On a port of this machine; the kernel takes the connections."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._taken: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def wait_for_client(self, timeout_s: float) -> None:
        """Until somebody has connected and now waits for an answer."""
        self._server.settimeout(timeout_s)
        self._taken.append(self._server.accept()[0])

    def close(self) -> None:
        for connection in (*self._taken, self._server):
            connection.close()
