"""Linux namespaces: a process that sees no network, no process but those it starts, and no file it could change.

What it writes goes into a file system in memory, of a bounded size, that is gone with the last process that sees it.
No root needed, where the system allows user namespaces (`man 7 user_namespaces`).
"""

import ctypes
import os
import struct
from pathlib import Path

USER, PIDS, NETWORK, IPC, MOUNTS = 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x00020000
NO_SUID, NO_DEVICES, RECURSIVE, PRIVATE = 2, 4, 0x4000, 0x40000
MOUNT_SETATTR, HERE, READ_ONLY = 442, -100, struct.pack("=QQQQ", 1, 0, 0, 0)
CAPABILITIES = 0x20080522  # the version of the kernel's structure


def apart(scratch, size, files):
    """The processes forked from now on are apart, and the folder `scratch` is their own: `size` bytes and `files` at most.

    The calling process itself sees the same files. False, and perhaps half done, where the kernel does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(USER | PIDS | NETWORK | IPC | MOUNTS):
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w", buffering=1) as file:
                file.write(text + "\n")
    except OSError:
        return False
    room = f"size={size},nr_inodes={files},mode=700".encode()
    return (
        libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None) == 0
        and libc.syscall(MOUNT_SETATTR, HERE, b"/", 0x8000, READ_ONLY, len(READ_ONLY)) == 0  # AT_RECURSIVE
        and libc.mount(b"tmpfs", os.fsencode(Path(scratch)), b"tmpfs", NO_SUID | NO_DEVICES, room) == 0
    )


def powerless():
    """Give up every capability, those that `apart` brought as well: what was shut stays shut."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.capset(struct.pack("=II", CAPABILITIES, 0), bytes(24)) == 0
