"""Importing this cuts the network for the process: only loopback is left. Every test, kernel and subprocess has it."""

import errno
import socket
import sys


def _hook(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):  # no tuple: not the network
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in ("localhost", "::1", socket.gethostname()) and not host.startswith("127."):
        raise OSError(errno.ENETUNREACH, f"the tests run with the network cut, and something asked for {host}")


sys.addaudithook(_hook)
