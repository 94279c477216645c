"""The file filter: which paths a process may still read or write. Linux 5.13, better with every version since.

Needs no privilege; whoever has entered cannot leave, and neither can its children. Numbers are those of
linux/landlock.h, equal on every architecture.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from unisd_rl.tasks.sandbox import system

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE, _READ, _READ_DIR, _REMOVE_FILE, _MAKE_REGULAR = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # from version 5 on: 16
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals


def version() -> int:
    """The kernel's version of the filter, 0 where there is none."""
    try:
        return system.call(_CREATE, None, 0, 1)
    except OSError:
        return 0


def ruleset(readable: Iterable[str], writable: str) -> int:
    """A file descriptor for `enter`: reading beneath `readable`, plain files beneath `writable`, nothing else.

    Paths that do not exist are left out.

    Raises:
        OSError: the kernel refuses.
    """
    kernel = version()
    handled = (1 << _ACCESS_BITS.get(kernel, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _ALL_TCP if kernel >= 4 else 0, _ALL_SCOPES if kernel >= 6 else 0)
    rules = system.call(_CREATE, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    for path in filter(os.path.exists, readable):
        _allow(rules, path, _READ | (_READ_DIR | _EXECUTE if os.path.isdir(path) else 0))
    _allow(rules, writable, (_WRITE | _READ | _READ_DIR | _REMOVE_FILE | _MAKE_REGULAR | _TRUNCATE) & handled)
    return rules


def enter(rules: int) -> None:
    """Restrict this process, for ever. Needs no_new_privs."""
    system.call(_RESTRICT_SELF, rules, 0)


def _allow(rules: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor), 12)
        system.call(_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
