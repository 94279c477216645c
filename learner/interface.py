"""Which network interface has an address.

gloo listens where the machine's own name leads, and on many Linux machines that is the loopback, where ranks on other
machines look for it in vain. So each rank tells it the interface by which Ray's nodes know each other.
"""

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915  # linux/sockios.h: an interface's IPv4 address
_NAME_BYTES, _ADDRESS = 15, slice(20, 24)  # of struct ifreq


def interface_of(address: str) -> str | None:
    """The name of this machine's interface with this IPv4 address, e.g. `eth0`; None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:_NAME_BYTES])
            try:
                found = fcntl.ioctl(asking, _SIOCGIFADDR, request)[_ADDRESS]
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found) == address:
                return name
    return None
