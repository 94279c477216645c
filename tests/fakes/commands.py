"""Commands of the project as a user meets them, each in a process of its own.

To start Python, to import the settings and to build the parser of their fields takes half a second. The processes are
therefore forks of one that has done this and nothing else. `started` is for what only a start shows: `python -m`, from
nothing. `dry_run` is for what reads the data: forks of a process that has imported transformers too. What trains is in
`job.py`.
"""

import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from unisd_rl.cli import parse_fields

HEAVY = frozenset({"torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "scipy"})
PRODUCT = ("unisd_rl", "actors", "learner")
PROGRAMS = ("unisd_rl.run", "unisd_rl.prepare", "unisd_rl.replay", "unisd_rl.evaluate")
LIMIT_S = 60
ENGINES = frozenset({"ray", "vllm", "deepspeed"})
SMALL = ("--task.train_examples", "64", "--task.eval_examples", "8")
"""Fields of the embedded task that make its preparation short."""


@dataclass(frozen=True)
class Ended:
    """What a command said; `heavy` are the libraries it imported that a refusal must not wait for."""

    code: int
    output: str
    errors: str
    heavy: frozenset[str]


def started(program, *arguments):
    """`python -m program arguments`."""
    words = [sys.executable, "-X", "importtime", "-m", program, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S)
    lines = done.stderr.splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    said = "\n".join(line for line in lines if not line.startswith("import time:"))
    return Ended(done.returncode, done.stdout, said, HEAVY & imported)


def command(program, *arguments, **environment):
    """The same in a fork, with `environment` beside what is set here."""
    return _asked(_server(), program, arguments, environment)


def dry_run(program, *arguments, tree="", **environment):
    """The same with `--dry-run`, by a process that may import what reads data and tokenizers, and no engine.

    With `tree` it runs in that folder and imports the product anew from there.
    """
    places = {"XDG_CACHE_HOME": _cache().name}
    server, words = _server("tests.fakes.dry_run_imports"), [*arguments, "--dry-run"]
    ended = _asked(server, program, words, places | environment, tree)
    assert not ended.heavy & ENGINES
    return ended


def in_tree(tree, program):
    """A module's `main` in a fork that runs in the folder `tree` and imports the product anew from there."""
    return _asked(_server("tests.fakes.dry_run_imports"), program, [], {}, tree)


@functools.cache
def _cache():
    """A cache folder of this process: no base model is in it, and what is prepared is prepared once."""
    return tempfile.TemporaryDirectory(prefix="cache-")


def _asked(server, program, arguments, environment, tree=""):
    server.stdin.write(json.dumps([program, [str(word) for word in arguments], environment, str(tree)]) + "\n")
    server.stdin.flush()
    code, output, errors, heavy = json.loads(server.stdout.readline())
    return Ended(code, output, errors, frozenset(heavy))


@functools.cache
def _server(imported="tests.fakes"):
    """It ends when this process does, whose end closes its standard input."""
    words = [sys.executable, "-m", "tests.fakes.commands", imported]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )


def _serve(imported):
    gc.disable()  # it takes a quarter of the time of large imports, and finds nothing
    for module in (*PROGRAMS, imported):
        importlib.import_module(module)
    for program in PROGRAMS:
        parse_fields([], f"python -m {program}")
    gc.freeze()
    gc.enable()
    for line in sys.stdin:
        print(json.dumps(_forked(*json.loads(line))), flush=True)
    gc.unfreeze()  # types of Triton's that nothing collects are reported as leaked


def _forked(program, arguments, environment, tree):
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            _become(program, arguments, environment, tree)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        *said, heavy = output.read().split("\f")
        errors.seek(0)
        return code, "".join(said), errors.read().rstrip("\n"), json.loads(heavy or "[]")


def _become(program, arguments, environment, tree):
    signal.alarm(LIMIT_S)
    os.environ.update(environment)
    if tree:
        _leave_for(tree)
    sys.argv = [program, *arguments]
    code = 1
    try:
        code = importlib.import_module(program).main()
    except SystemExit as end:  # argparse, after --help
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        print(end="\f" + json.dumps(sorted(HEAVY & set(sys.modules))))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leave_for(tree):
    for module in [name for name in sys.modules if name.partition(".")[0] in PRODUCT]:
        del sys.modules[module]
    sys.path.insert(0, tree)
    os.chdir(tree)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
