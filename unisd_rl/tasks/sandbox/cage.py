"""The cage of a process that runs foreign code: namespaces, limits, another user, and the kernel's filters.

The zygote leaves the machine's namespaces itself, where the kernel lets it: no network, and a folder in memory. Root
makes namespaces directly; others within a user namespace of their own, which some systems forbid. A `Cage` is made
once, in the zygote; `enter` is called in each process forked from it, and there is no way out.
"""

import contextlib
import fcntl
import os
import resource
import signal

from unisd_rl.tasks.sandbox import landlock, seccomp, system
from unisd_rl.tasks.sandbox.limits import Limits

FIRST_USER = 61184  # systemd's range for passing users: no account has these ids
_READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/localtime", "/dev/null")
_CHANNEL = 3  # what a caged process keeps beside the standard three starts here
_ENTRIES = 1024  # files in a temporary folder in memory
_LIFTED = 64  # above every descriptor of the zygote


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
        self._rules = landlock.ruleset(readable, folder) if landlock.version() else None
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
            landlock.enter(rules)
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
