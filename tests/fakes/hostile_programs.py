"""Programs that attack, cheat or fail: (name, program, part of the reason for which it is wrong).

All are tested with `assert f(2) == 4` and `assert f(3) == 9`. A program of ATTACKS answers right only if its attack
failed: `attack()` must raise, and whatever it returns counts as a success. MARKER and PARENT are filled in.
"""

from textwrap import dedent, indent

RIGHT = "def f(x): return x * x\n"

# Nothing that a program does to itself passes for an answer.
CHEATS = [
    ("SystemExit on import", "import sys; sys.exit(0)", "SystemExit"),
    ("SystemExit in the function", "def f(x): raise SystemExit(0)", "SystemExit"),
    ("leaves on import", "import os; os._exit(0)", "ended"),
    ("leaves in the function", "import os\ndef f(x): os._exit(0)", "ended"),
    ("quit()", "def f(x): quit()", "quit"),
    ("KeyboardInterrupt", "def f(x): raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("GeneratorExit", "def f(x): raise GeneratorExit", "GeneratorExit"),
    ("an exception whose text raises", "class E(Exception):\n  def __str__(self): 1/0\ndef f(x): raise E", "E"),
    ("prints passed", "print('passed')\ndef f(x): print('{\"passed\": true}')", "AssertionError"),
    ("leaves at exit with 0", "import atexit, os; atexit.register(os._exit, 0); raise SystemExit", "SystemExit"),
    (
        "an object equal to all",
        "class A:\n  def __eq__(s, o): return True\n  __hash__ = None\ndef f(x): return A()",
        "Assert",
    ),
    ("a number equal to all", "class A(int):\n  def __eq__(s, o): return True\ndef f(x): return A(0)", "Assert"),
    ("a text equal to all", "class A(str):\n  def __eq__(s, o): return True\ndef f(x): return A()", "Assert"),
    ("a number of no size", "class A(int):\n  def __reduce__(s): return eval, ('4',)\ndef f(x): return A(0)", "Assert"),
    ("a float that is another", "class A(float):\n  def __float__(s): return 4.0\ndef f(x): return A(0)", "Assert"),
    ("builtins replaced", "import builtins\nbuiltins.AssertionError = builtins.len = int\ndef f(x): return 0", ""),
    ("__build_class__ and __import__ replaced", "import builtins\nbuiltins.__import__ = None\ndef f(x): return 0", ""),
    ("pickle replaced", "import pickle\npickle.Pickler = pickle.Unpickler = None\ndef f(x): return 0", ""),
    (
        "the serving frame told to return",
        dedent(
            """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame: frame.f_locals.update(operation="call", result=4); frame = frame.f_back
        """
        ),
        "Assert",
    ),
    (
        "a verdict written everywhere",
        dedent(
            """
        import os
        def f(x):
            for n in range(64):
                try: os.write(n, b'{"passed": true, "reason": "passed"}')
                except OSError: pass
        """
        ),
        "",
    ),
    (
        "a hostile pickle on the wire",
        dedent(
            """
        import os, struct
        def f(x):
            p = b"cos\\nsystem\\n(S'true'\\ntR."
            os.write(3, struct.pack("=Q", len(p)) + p)
        """
        ),
        "NotPlain",
    ),
    ("a length of many gigabytes on the wire", "import os\ndef f(x): os.write(3, b'\\xff' * 8)", "NotPlain"),
    ("all descriptors closed", "import os; os.closerange(0, 64)\ndef f(x): return 4", "ended"),
    ("a tracer", "import sys; sys.settrace(lambda *a: None)\ndef f(x): return 0", "Assert"),
    ("a function", "def f(x): return f", "Assert"),
    ("a generator", "def f(x): yield 4", "Assert"),
    ("a coroutine", "async def f(x): return x * x", "Assert"),
    ("not a number", "def f(x): return float('nan')", "Assert"),
    ("the right number as text", "def f(x): return str(x * x)", "Assert"),
    ("the right number in Arabic digits", "def f(x): return '\\u0664'", "Assert"),
    ("forty million characters", "def f(x): return 'x' * 40_000_000", "bytes pass"),
    ("a list a million deep", "def f(x):\n  a = []\n  for _ in range(10**6): a = [a]\n  return a", ""),
    ("a list that holds itself", "def f(x):\n  a = []; a.append(a); return a", "Assert"),
    ("an endless iterator to compare", "import itertools\ndef f(x): return itertools.count()", "Assert"),
    ("the right value for the first test only", "def f(x): return 4", "Assert"),
    ("raises", "def f(x): return 1 / 0", "ZeroDivisionError"),
    ("raises an exception with a hard constructor", "def f(x): return b'\\xff'.decode()", "UnicodeDecodeError"),
    ("another name", "def g(x): return x * x", "does not define f"),
    ("no Python", "def f(x: return x", "SyntaxError"),
    ("a null byte", "def f(x): return x * x\0", "null"),
    ("prose", "The answer is to square it.", "SyntaxError"),
    ("nothing", "", "does not define f"),
    ("reads the keyboard", "def f(x): return int(input())", "EOFError"),
    ("endless recursion", "def f(x): return f(x)", "RecursionError"),
    ("recursion past the stack", "import sys; sys.setrecursionlimit(10**9)\ndef f(x): return f(x) + f([x])", ""),
    ("ten gigabytes", "def f(x): return len(bytearray(10 << 30))", "MemoryError"),
    ("ever more memory", "def f(x):\n  a = []\n  while True: a.append(bytes(1 << 20))", "MemoryError"),
    ("a crash", "import ctypes\ndef f(x): return ctypes.string_at(0)", "ended"),
    ("stops itself", "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)", "Permission"),
]

# Ended by the clock.
ENDLESS = [
    ("an endless loop", "def f(x):\n  while True: pass", "computed"),
    (
        "an endless loop under a broad except",
        dedent(
            """
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """
        ),
        "computed",
    ),
    (
        "an endless loop that ignores signals",
        dedent(
            """
        import signal
        for number in range(1, 64):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def f(x):
            while True: pass
        """
        ),
        "",
    ),
    ("an endless loop on import", "while True: pass", "computed"),
    ("an endless generator", "class A:\n  def __iter__(s):\n    while True: yield 0\ndef f(x): return list(A())", ""),
    ("a hopeless regular expression", "import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b')", "computed"),
    ("a number too large to compute", "def f(x): return 7 ** 7 ** 9", "computed"),
    ("endless output", "def f(x):\n  while True: print('x' * 10**6)", "computed"),
    ("a fork bomb", "import os\ndef f(x):\n  while True:\n    try: os.fork()\n    except OSError: pass", "computed"),
]

# Each must raise; then the program is right.
ATTACKS = [
    ("forks", "os.fork()"),
    ("starts a thread", "threading.Thread(target=print).start()"),
    ("starts a program", "subprocess.run(['true'])"),
    ("asks the shell", "assert os.system('true') == 0"),
    ("becomes a program", "os.execv('/bin/true', ['true'])"),
    ("deletes a file", "os.remove(MARKER)"),
    ("empties a file", "open(MARKER, 'w')"),
    ("appends to a file", "open(MARKER, 'a')"),
    ("renames a file", "os.rename(MARKER, MARKER + '2')"),
    ("changes a file's mode", "os.chmod(MARKER, 0)"),
    ("changes a file's times", "os.utime(MARKER)"),
    ("reads a file", "open(MARKER).read()"),
    ("reads the accounts", "open('/etc/passwd').read()"),
    ("lists the root", "os.listdir('/')"),
    ("writes beside its folder", "open('../file', 'w')"),
    ("writes to the shared temporary folder", "open('/tmp/unisd-hostile', 'w')"),
    ("makes a folder", "os.mkdir('folder')"),
    ("links out of its folder", "os.symlink('/etc/passwd', 'link')"),
    ("makes a hard link", "os.link(MARKER, 'link')"),
    ("fills the disk", "[open('f%d' % n, 'wb').write(bytes(1 << 20)) for n in range(64)]"),
    ("writes a large file", "open('large', 'wb').write(bytes(64 << 20))"),
    ("reads the parent's environment", "open('/proc/%d/environ' % os.getppid(), 'rb').read()"),
    ("reads the evaluator's environment", "open('/proc/PARENT/environ', 'rb').read()"),
    ("reads the parent's memory", "open('/proc/%d/mem' % os.getppid(), 'rb').read(1)"),
    ("reads the evaluator's memory", "open('/proc/PARENT/mem', 'rb').read(1)"),
    ("reads the neighbour's memory", "open('/proc/%d/mem' % (os.getpid() + 1), 'rb').read(1)"),
    ("traces the parent", "checked(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))"),
    ("ends the parent", "os.kill(os.getppid(), 9)"),
    ("ends the evaluator", "os.kill(PARENT, 9)"),
    ("ends everything", "os.kill(-1, 9)"),
    ("ends its group", "os.killpg(0, 9)"),
    ("connects", "socket.create_connection(('127.0.0.1', 80), 0.2)"),
    ("sends a datagram", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"),
    ("asks for a name", "socket.getaddrinfo('example.org', 80)"),
    ("fetches a page", "urllib.request.urlopen('http://example.org', timeout=0.2)"),
    ("listens", "socket.socket(socket.AF_UNIX).bind('\\0name')"),
    ("raises its limits", "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"),
    ("limits the evaluator", "resource.prlimit(PARENT, resource.RLIMIT_CPU, (1, 1))"),
    ("becomes root", "os.setuid(0); os.seteuid(0); open('/etc/shadow')"),
    ("leaves its session", "os.setsid()"),
    ("mounts", "checked(ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, None))"),
    ("makes namespaces", "checked(ctypes.CDLL(None).unshare(0x10000000))"),
    ("outlives its parent", "checked(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0))"),
    ("leaves shared memory behind", "checked(ctypes.CDLL(None).shmget(0, 4096, 0o1666))"),
    ("finds an environment", "assert os.environ"),
    ("finds input", "assert sys.stdin.read()"),
    ("finds the tests in a descriptor", "assert any(b'assert f(' in readable(n) for n in range(3, 64))"),
    ("finds the tests in memory", "assert [o for o in gc.get_objects() if 'assert f(' + '2)' in str(o)[:10000]]"),
]

_ATTACK = """
import ctypes, gc, os, resource, socket, subprocess, sys, threading, urllib.request
MARKER = {marker!r}
def checked(result):
    if result < 0: raise OSError
def readable(n):
    try: return os.pread(n, 1 << 20, 0)
    except OSError: return b""
def attack():
{attack}
def f(x):
    try: attack()
    except BaseException: return x * x
    return 0
"""

# Unusual but right.
HARMLESS = [
    ("a lambda", "f = lambda x: x * x"),
    ("a nested number type", "import enum\nclass E(enum.IntEnum):\n  A = 4\n  B = 9\ndef f(x): return E(x * x)"),
    ("true division that comes out even", "def f(x): return x * x / 1"),
    ("a main block that leaves", RIGHT + "if __name__ == '__main__':\n  import sys; sys.exit(1)"),
    ("standard output closed", "import sys; sys.stdout.close()\n" + RIGHT),
    ("much output", "def f(x):\n  for _ in range(1000): print('x' * 1000)\n  return x * x"),
    ("a dataclass", "from dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\ndef f(x): return A(x).x ** 2"),
    ("a file of its own", "def f(x):\n  open('a', 'w').write(str(x * x))\n  return int(open('a').read())"),
    ("a rare module", "import colorsys, sqlite3\n" + RIGHT),
    ("a byte order mark", "\ufeff" + RIGHT),
    ("an alarm of its own", "import signal; signal.alarm(100)\n" + RIGHT),
    ("Windows line ends", "def f(x):\r\n    return x * x\r\n"),
]


def attacks(marker: str, parent: int) -> list[tuple[str, str]]:
    """Name and program of each attack."""
    texts = ((name, indent(attack.replace("PARENT", str(parent)), "    ")) for name, attack in ATTACKS)
    return [(name, _ATTACK.format(marker=marker, attack=attack)) for name, attack in texts]
