"""The system call filter: a small BPF program that answers "not permitted" to what a tested program has no use for.

Refused are: further processes and programs, sockets, signals, tracing and reading other processes, scheduling, mounts
and namespaces, changes of a file's mode, owner, times and attributes (which Landlock does not see), and objects that
outlive a process. Of `prctl` the signal at the parent's death is refused, of `prlimit64` the limits of others.
Numbers are those of the kernel's headers; a table is needed for every architecture.
"""

import ctypes
import os
import platform
import struct

from unisd_rl.tasks.sandbox import system

_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data (little endian)
_SECOND_ABI = 0x40000000  # x86-64 has its calls a second time from here on (x32)

# name: (x86-64, arm64); None where the architecture has no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "personality": (135, 92),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
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
    "mknod": (133, None),
    "mknodat": (259, 33),
    "flock": (73, 32),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_PRCTL, _PRLIMIT = (157, 167), (302, 261)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH


def program() -> bytes | None:
    """The filter for this machine; None where its architecture has no table."""
    if platform.machine() not in _ARCHITECTURES or os.uname().sysname != "Linux":
        return None
    column, architecture = _ARCHITECTURES[platform.machine()]
    numbers = [row[column] for row in _REFUSED.values() if row[column] is not None]
    first = [
        _step(_LOAD, _AT_ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _AT_NUMBER),
    ]
    last = [
        # prctl(PR_SET_PDEATHSIG, ...) is refused
        _step(_EQUAL, _PRCTL[column], 0, 2),
        _step(_LOAD, _AT_FIRST_ARGUMENT),
        _step(_EQUAL, system.PR_SET_PDEATHSIG, 4, 3),
        # prlimit64(0, ...) is allowed: process 0 is the caller
        _step(_EQUAL, _PRLIMIT[column], 0, 2),
        _step(_LOAD, _AT_FIRST_ARGUMENT),
        _step(_EQUAL, 0, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]
    to_refuse = len(numbers) + len(last)  # from the first of the checks: that many steps to the end
    checks = [_step(_AT_LEAST, _SECOND_ABI, to_refuse - 1 + 0, 0)]
    checks += [_step(_EQUAL, number, to_refuse - 2 - place, 0) for place, number in enumerate(numbers)]
    return b"".join(first + checks + last)


def enter(filter_program: bytes) -> None:
    """Filter this process's calls from now on. Needs no_new_privs.

    Raises:
        OSError: the kernel has no such filters, or this container may not set any.
    """
    steps = ctypes.create_string_buffer(filter_program, len(filter_program))
    header = struct.pack("@HP", len(filter_program) // 8, ctypes.addressof(steps))
    system.prctl(system.PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(header, len(header)))


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
