"""The process that compares mathematics for `math_equality.py`: questions and answers, a line each."""

import json
import resource
import sys


def main(cpu_s: int, memory_bytes: int) -> None:
    """Answer questions; each may take `cpu_s` seconds of processor time, and all of them `memory_bytes`."""
    from math_verify import parse, verify

    parse("$1$", parsing_timeout=None)  # builds its tables
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    _say("ready")
    for line in sys.stdin:
        question = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + cpu_s + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            sides = [parse(_latex(question[side]), parsing_timeout=None) for side in ("left", "right")]
            equal = all(sides) and bool(verify(sides[1], sides[0], timeout_seconds=None))
        except (Exception, MemoryError, RecursionError):  # sympy raises anything about what a model writes
            equal = False
        _say(json.dumps(equal))


def _latex(text: str) -> str:
    return rf"\boxed{{{text.strip().strip('$')}}}"


def _say(line: str) -> None:
    print(line, flush=True)
