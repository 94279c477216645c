"""The system calls that Python has no function for. Each raises OSError with the kernel's reason."""

import ctypes
import os
import struct

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 22, 38
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
CAP_DAC_READ_SEARCH = 2
_MNT_DETACH = 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: object) -> int:
    """The system call of this number.

    Raises:
        OSError: it failed.
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *(_word(argument) for argument in arguments)))


def prctl(option: int, *values: object) -> None:
    """Set an attribute of this process."""
    padded = (*values, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(ctypes.c_int(option), *(_word(value) for value in padded)))


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> None:
    """Mount a file system, or change how one is shared."""
    _checked(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def unmount(target: bytes) -> None:
    """Take away the file system that is mounted at a folder."""
    _checked(_libc.umount2(target, ctypes.c_int(_MNT_DETACH)))


def set_capabilities(*kept: int) -> None:
    """Give up every capability but those of `kept` (each below 32)."""
    mask = sum(1 << capability for capability in kept)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(struct.pack("=6I", mask, mask, 0, 0, 0, 0))
    _checked(_libc.capset(header, sets))


def _word(value: object) -> object:
    return ctypes.c_ulong(value) if isinstance(value, int) else value


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
