"""The system call filter: a small BPF program that answers "not permitted" to what a tested program has no use for.

Refused are: further processes and programs, sockets, signals, tracing and reading other processes, scheduling, mounts
and namespaces, changes of a file's mode, owner, times and attributes (which Landlock does not see), and objects that
outlive a process. Of `prctl` the signal at the parent's death is refused, of `prlimit64` the limits of others. Where
there is no Landlock, every way to change a file is refused as well: a program then has a folder that it cannot use.
Numbers are those of the kernel's headers; a table is needed for every architecture.
"""

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

from unisd_rl.tasks.sandbox import system

_MODE_FILTER = 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, (16, 24, 32)  # offsets in struct seccomp_data (little endian)
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
# What changes files.
_CHANGES: dict[str, tuple[int | None, int | None]] = {
    "openat2": (437, 437),
    "creat": (85, None),
    "truncate": (76, 45),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "rmdir": (84, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH


@dataclass(frozen=True, slots=True)
class _Condition:
    """A call that is refused for some arguments: if `argument` is (or is not) as `test` with `value` says."""

    numbers: tuple[int | None, int | None]
    argument: int
    test: int
    value: int
    refused_if: bool


_CONDITIONS = (
    _Condition((157, 167), 0, _EQUAL, system.PR_SET_PDEATHSIG, True),  # prctl
    _Condition((302, 261), 0, _EQUAL, 0, False),  # prlimit64: process 0 is the caller
)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_OPENING = (
    _Condition((2, None), 1, _ANY_BIT, _TO_WRITE, True),  # open
    _Condition((257, 56), 2, _ANY_BIT, _TO_WRITE, True),  # openat
)


def program(may_change_files: bool) -> bytes | None:
    """The filter for this machine; None where its architecture has no table."""
    if platform.machine() not in _ARCHITECTURES:
        return None
    column, architecture = _ARCHITECTURES[platform.machine()]
    table = _REFUSED if may_change_files else _REFUSED | _CHANGES
    numbers = [number for row in table.values() if (number := row[column]) is not None]
    last = _conditional(_CONDITIONS if may_change_files else _CONDITIONS + _OPENING, column)
    first = [
        _step(_LOAD, _AT_ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _AT_NUMBER),
    ]
    to_refuse = len(numbers) + len(last)  # from the first of the checks: that many steps to the end
    checks = [_step(_AT_LEAST, _SECOND_ABI, to_refuse - 1, 0)]
    checks += [_step(_EQUAL, number, to_refuse - 2 - index, 0) for index, number in enumerate(numbers)]
    return b"".join(first + checks + last)


def _conditional(conditions: tuple[_Condition, ...], column: int) -> list[bytes]:
    """Three steps for each condition, then "allowed", then "refused"."""
    present = [(number, condition) for condition in conditions if (number := condition.numbers[column]) is not None]
    steps = []
    for index, (number, condition) in enumerate(present):
        to_allow = 3 * (len(present) - index - 1)
        if_true, if_false = (to_allow + 1, to_allow) if condition.refused_if else (to_allow, to_allow + 1)
        steps += [
            _step(_EQUAL, number, 0, 2),
            _step(_LOAD, _AT_ARGUMENTS[condition.argument]),
            _step(condition.test, condition.value, if_true, if_false),
        ]
    return [*steps, _step(_RETURN, _ALLOW), _step(_RETURN, _REFUSE)]


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
