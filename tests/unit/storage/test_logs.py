"""What a process prints goes to its file, a disk that is full does not end it, and what it died of is found there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.full_disk import files_of_at_most
from unisd_rl.storage import logs
from unisd_rl.storage.logs import innermost_cause, roll_log

ROOT = Path(__file__).parents[3]
PRINTS = """
import os, sys
from pathlib import Path
from unisd_rl.storage.logs import redirect_output

redirect_output(Path(sys.argv[1]))
print("said by Python", flush=True)
print("said as an error", file=sys.stderr)
os.system("echo said by a child")
"""


def printed(path):
    return subprocess.run([sys.executable, "-c", PRINTS, path], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_standard_output_and_error_go_to_the_file_those_of_children_too(tmp_path):
    done = printed(tmp_path / "logs" / "one.log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "logs" / "one.log").read_text().splitlines() == [
        "said by Python",
        "said as an error",
        "said by a child",
    ]


def test_words_that_a_full_disk_does_not_take_are_lost_and_nothing_else(tmp_path):
    (tmp_path / "one.log").symlink_to("/dev/full")
    assert printed(tmp_path / "one.log").returncode == 0


CHAINED = """\
(EngineCore pid=7) INFO 11-26 16:40:07 [core.py:133] Initializing
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]   File "loader.py", line 5, in load
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]     raise KeyError(name)
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]           ^^^^^^^^^^^^^^
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133] KeyError: 'lm_head.weight'
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:9] The above exception was the direct cause of the following exception:
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133]   File "core.py", line 1107, in run_engine_core
(EngineCore pid=7) ERROR 11-26 16:40:09 [core.py:1133] RuntimeError: the model was not loaded
"""
CONSEQUENCE = """\
Traceback (most recent call last):
  File "async_llm.py", line 700, in output_handler
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
"""
HEADER = """\
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "cpp_builder.py", line 500, in run_compile_cmd
(EngineCore pid=7) torch._inductor.exc.InductorError: CppCompileError: C++ compile error
(EngineCore pid=7)
(EngineCore pid=7) Command:
(EngineCore pid=7) g++ /caches/inductor/xx/cxx.main.cpp -o /caches/inductor/xx/cxx.so
(EngineCore pid=7)
(EngineCore pid=7) Output:
(EngineCore pid=7) /caches/inductor/xx/cxx.main.cpp:3:10: fatal error: Python.h: No such file or directory
(EngineCore pid=7)     3 | #include <Python.h>
(EngineCore pid=7) compilation terminated.
"""
TRITON = """\
/tmp/tmp1/main.c:5:10: fatal error: Python.h: No such file or directory
Traceback (most recent call last):
  File "driver.py", line 40, in compile_module_from_src
subprocess.CalledProcessError: Command '['/usr/bin/gcc', '/tmp/tmp1/main.c']' returned non-zero exit status 1.
"""
HARMLESS = 'Traceback (most recent call last):\n  File "a.py", line 1\nImportError: no optional part\nINFO going on\n'
AT_THE_END = """\
Exception ignored in: <function AsyncLLM.__del__ at 0x7f5a4d8af600>
Traceback (most recent call last):
  File "async_llm.py", line 294, in __del__
TypeError: 'NoneType' object is not callable
"""
CAUSES = {
    "the_first_of_a_chain": (CHAINED, "KeyError: 'lm_head.weight'"),
    "not_its_consequence_in_another_process": (CHAINED + CONSEQUENCE, "KeyError: 'lm_head.weight'"),
    "the_last_failure_of_several": (HARMLESS + CHAINED, "KeyError: 'lm_head.weight'"),
    "the_compilers_own_words": (HEADER, "a compiler that is called at run time: Python.h: No such file or directory"),
    "the_words_of_tritons_compiler": (
        TRITON,
        "a compiler that is called at run time: Python.h: No such file or directory",
    ),
    "not_what_is_raised_at_the_end_of_a_process": (CHAINED + CONSEQUENCE + AT_THE_END, "KeyError: 'lm_head.weight'"),
    "nothing": ("INFO all is well\n", None),
    "only_a_consequence": (CONSEQUENCE, None),
}


@pytest.mark.parametrize(("text", "cause"), CAUSES.values(), ids=CAUSES)
def test_the_innermost_cause_of_a_failure_is_found_in_a_log(tmp_path, text, cause):
    (tmp_path / "rollout-0.log").write_text(text)
    assert innermost_cause(tmp_path / "rollout-0.log") == cause


def test_a_log_that_is_not_there_tells_no_cause(tmp_path):
    assert innermost_cause(tmp_path / "rollout-0.log") is None


def test_a_full_log_rolls_over_under_its_writers_and_its_oldest_parts_go(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_PART_BYTES", 100)
    path = tmp_path / "one.log"
    with path.open("ab", buffering=0) as log:  # as the descriptors that children inherit
        for round_ in range(7):
            log.write(b"." * 60)
            roll_log(path)
            assert path.stat().st_size == 60, "not full"
            log.write(bytes(str(round_), "ascii") * 60)
            roll_log(path)
            assert path.stat().st_size == 0
        log.write(b"last")
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [*(f"one.{number:05d}.log" for number in (4, 5, 6, 7)), "one.log"]
    assert [part.read_text()[-1] for part in parts] == ["3", "4", "5", "6", "t"]
    assert path.read_text() == "last"


def test_a_log_that_a_full_disk_cannot_put_aside_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_PART_BYTES", 100_000)
    path = tmp_path / "one.log"
    path.write_text("x" * 100_000)
    with files_of_at_most(4096), pytest.raises(OSError):
        roll_log(path)
    assert [file.name for file in tmp_path.iterdir()] == ["one.log"]
    assert path.stat().st_size == 100_000


def test_the_cause_of_a_failure_is_found_in_a_log_that_rolled_over_since(tmp_path, monkeypatch):
    path = tmp_path / "one.log"
    path.write_text(CHAINED)
    cause = innermost_cause(path)
    monkeypatch.setattr(logs, "_PART_BYTES", 1)
    roll_log(path)
    assert path.read_text() == ""
    assert cause is not None
    assert innermost_cause(path) == cause
    assert innermost_cause(tmp_path / "none.log") is None
