"""The cage of a process that runs foreign code: namespaces, limits, another user, and the kernel's filters.

The zygote leaves the machine's namespaces itself, where the kernel lets it: no network, and a folder in memory. Root
makes namespaces directly; others within a user namespace of their own, which some systems forbid. A `Cage` is made
once, in the zygote; `enter` is called in each process forked from it, and there is no way out.

Landlock is the file filter: which paths a process may still read or write. Linux 5.13, better with every version since;
it needs no privilege. Its numbers are those of linux/landlock.h, equal on every architecture. The filter of system
calls is `seccomp.py`.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import struct
from collections.abc import Iterable

from unisd_rl.tasks.sandbox import seccomp, system
from unisd_rl.tasks.sandbox.limits import Limits

FIRST_USER = 61184  # systemd's range for passing users: no account has these ids
_READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime", "/dev/null")
_CHANNEL = 3  # what a caged process keeps beside the standard three starts here
_ENTRIES = 1024  # files in a temporary folder in memory
_LIFTED = 64  # above every descriptor of the zygote

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE, _READ, _READ_DIR, _REMOVE_FILE, _MAKE_REGULAR = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # from version 5 on: 16
_ALL_TCP, _ALL_SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals


def enter_namespaces() -> bool:
    """Leave the machine's network, its shared memory and its mounts; False where that is not permitted."""
    user, group = os.geteuid(), os.getegid()
    apart = system.CLONE_NEWNET | system.CLONE_NEWIPC | system.CLONE_NEWNS
    try:
        system.unshare(apart | (0 if user == 0 else system.CLONE_NEWUSER))
        if user != 0:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{user} {user} 1")
            _write("/proc/self/gid_map", f"{group} {group} 1")
    except OSError:
        return False
    return True


def mount_in_memory(folder: str, size: int, owner: int) -> bool:
    """Put a file system in memory of at most `size` bytes over `folder`, for us alone; False where not permitted."""
    options = f"size={size},nr_inodes={_ENTRIES},mode=0700,uid={owner},gid={owner}"
    flags = system.MS_NOSUID | system.MS_NODEV | system.MS_NOEXEC
    try:
        system.mount(b"none", b"/", None, system.MS_REC | system.MS_PRIVATE, None)
        system.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode())
    except OSError:
        return False
    return True


class Cage:
    """Everything that is prepared once: limits, filters, and whether we are root."""

    def __init__(self, limits: Limits, folder: str) -> None:
        self._limits = limits
        self._folder = folder
        self._root = os.geteuid() == 0
        readable = (*_READABLE, os.path.dirname(os.__file__), "/dev/urandom")
        self._rules = _landlock_rules(readable, folder) if _landlock_version() else None
        self._filter = seccomp.program(may_change_files=self._rules is not None)

    @property
    def lets_write(self) -> bool:
        """Whether a caged process may write at all: it may beneath its folder where Landlock can hold it there."""
        return self._rules is not None

    def enter(self, user: int, keep: tuple[int, ...]) -> None:
        """Confine this process for ever: user `FIRST_USER + user`, descriptors `keep` moved to 3, 4, ...

        Raises:
            OSError: a limit could not be set. Filters that this kernel lacks are left out.
        """
        os.setsid()
        rules = self._keep_descriptors(keep)
        os.chdir(self._folder)
        os.umask(0o077)
        self._limit()
        self._become(FIRST_USER + user)
        system.prctl(system.PR_SET_DUMPABLE, 0)
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
        if rules is not None:
            _enter_landlock(rules)
            os.close(rules)
        if self._filter is not None:
            with contextlib.suppress(OSError):  # a container may forbid it; the probe finds what is missing then
                seccomp.enter(self._filter)

    def _keep_descriptors(self, keep: tuple[int, ...]) -> int | None:
        """Move `keep` to 3, 4, ..., and close all others but the rules; where those are now."""
        wanted = (*keep, *(() if self._rules is None else (self._rules,)))
        lifted = [_lift(descriptor) for descriptor in wanted]
        for target, descriptor in enumerate(lifted, start=_CHANNEL):
            os.dup2(descriptor, target)
        os.closerange(_CHANNEL + len(wanted), max(lifted, default=_LIFTED) + 1)
        return None if self._rules is None else _CHANNEL + len(keep)

    def _limit(self) -> None:
        limits = self._limits
        # SIGXCPU first, which names the reason, and SIGKILL a second later for those who ignore it.
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
        for kind, value in (
            (resource.RLIMIT_AS, limits.memory_bytes),
            (resource.RLIMIT_FSIZE, limits.file_bytes),
            (resource.RLIMIT_NOFILE, limits.open_files),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (value, value))

    def _become(self, user: int) -> None:
        """Another user where we may, without capabilities.

        One capability stays, to read the interpreter's library where only root may, and only behind the file filter.
        """
        reads = (system.CAP_DAC_READ_SEARCH,) if self._rules is not None and self._root else ()
        if self._root:
            system.prctl(system.PR_SET_KEEPCAPS, 1)
            with contextlib.suppress(OSError):  # a container with few user ids: the capabilities go all the same
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
        system.set_capabilities(*reads)


def _lift(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, _LIFTED)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _landlock_version() -> int:
    """The kernel's version of the filter, 0 where there is none."""
    try:
        return system.call(_CREATE, None, 0, 1)
    except OSError:
        return 0


def _landlock_rules(readable: Iterable[str], writable: str) -> int:
    """A descriptor for `_enter_landlock`: reading beneath `readable`, plain files beneath `writable`, nothing else.

    Paths that do not exist are left out.

    Raises:
        OSError: the kernel refuses.
    """
    kernel = _landlock_version()
    handled = (1 << _ACCESS_BITS.get(kernel, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _ALL_TCP if kernel >= 4 else 0, _ALL_SCOPES if kernel >= 6 else 0)
    rules = system.call(_CREATE, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    for path in filter(os.path.exists, readable):
        _allow(rules, path, _READ | (_READ_DIR | _EXECUTE if os.path.isdir(path) else 0))
    _allow(rules, writable, (_WRITE | _READ | _READ_DIR | _REMOVE_FILE | _MAKE_REGULAR | _TRUNCATE) & handled)
    return rules


def _enter_landlock(rules: int) -> None:
    """Restrict this process, for ever. Needs no_new_privs."""
    system.call(_RESTRICT_SELF, rules, 0)


def _allow(rules: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor), 12)
        system.call(_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
