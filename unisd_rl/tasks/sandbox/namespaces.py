"""A zygote's own view of the machine, where the kernel lets it have one: no network, and a folder in memory.

Root makes the namespaces directly; others within a user namespace of their own, which some systems forbid.
"""

import os

from unisd_rl.tasks.sandbox import system

_ENTRIES = 1024  # files in the temporary folder


def enter() -> bool:
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


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
