"""Landlock: a Linux process gives up, for itself and all it starts, every file but those it names. No root needed.

Linux 5.13 and later, where it is switched on (`man 7 landlock`). Newer kernels can also forbid TCP (6.7), and signals
and abstract sockets to processes outside (6.12); we ask for what is there.
"""

import ctypes
import os
import struct

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # the same numbers on every architecture
NO_NEW_PRIVILEGES = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights over files a version of the interface knows; 16 since the fifth


def version():
    """The version of the interface, 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(CREATE, None, 0, 1)) if os.uname().sysname == "Linux" else 0


def restrict(readable, writable):
    """From now on only these files and folders, the second kind to write to as well. True when the kernel agreed."""
    call, abi = ctypes.CDLL(None, use_errno=True).syscall, version()
    if not abi:
        return False
    every = (1 << RIGHTS.get(abi, 16)) - 1
    asked = struct.pack("=QQQ", every, 3, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]  # files, TCP, processes
    ruleset = call(CREATE, asked, len(asked), 0)
    if ruleset < 0:
        return False
    for paths, rights in ((readable, EXECUTE | READ_FILE | READ_DIR), (writable, every)):
        for path in filter(os.path.exists, paths):
            allowed = rights if os.path.isdir(path) else rights & (EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE)
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            call(ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed & every, handle), 0)
            os.close(handle)
    ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    done = call(RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return done
