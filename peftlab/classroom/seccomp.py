"""Seccomp: system calls that a process and all it starts can make no more (`man 2 seccomp`). No root needed.

It closes what namespaces and Landlock leave: sockets with a path, memory that no limit counts, the keyring, mounts.
"""

import ctypes
import errno
import os
import struct

# name: its number on x86-64, on 64-bit ARM; None where there is no such call
NEVER = {
    "socket": (41, 198),
    "connect": (42, 203),
    "io_uring_setup": (425, 425),  # it opens and connects by itself
    "io_uring_enter": (426, 426),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279),  # memory that belongs to no process
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "quotactl": (179, 60),
    "syslog": (103, 116),
}
# what the namespaces shut off, for where there are none
OTHERWISE = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column above, and AUDIT_ARCH_...
CLONE, CLONE3, SOCKETPAIR = (56, 220), 435, (53, 199)
NEW_NAMESPACES, DATAGRAMS = 0x7E020000, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of the classic packet filter's instructions
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, (16, 24)  # offsets in the kernel's seccomp_data


def refuse(calls=NEVER):
    """From now on these calls fail with EPERM, for this thread and all it starts. True when the kernel agreed."""
    if os.uname().machine not in MACHINES:
        return False
    column, architecture = MACHINES[os.uname().machine]
    no, absent = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
    program = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    program += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, no)]  # x86's second set of numbers
    for numbers in calls.values():
        if numbers[column] is not None:
            program += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, no)]
    program += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, absent)]  # its flags lie in memory: the C library then takes clone
    # a pair of datagram sockets is connected, and each still sends to any socket that has a path
    for call, argument, bits in ((CLONE, 0, NEW_NAMESPACES), (SOCKETPAIR, 1, DATAGRAMS)):
        program += [(EQUAL, 0, 4, call[column]), (LOAD, 0, 0, ARGUMENTS[argument]), (ANY_BIT, 0, 1, bits)]
        program += [(RETURN, 0, 0, no), (RETURN, 0, 0, ALLOW)]
    program += [(RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, filter, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
