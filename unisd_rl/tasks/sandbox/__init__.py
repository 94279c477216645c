"""The sandbox, where programs written by a model are tested: they can neither fool the verdict nor harm the evaluator.

A trial takes two fresh processes, forked from a warmed interpreter (`zygote.py`) that never runs foreign code:

    evaluator            pool.py        threads, one zygote a core
        | program and tests, each in a file in memory
        v
    zygote               zygote.py      starts both, waits at most `wall_s`, kills both groups
        |           |
        v           v
    candidate <---> judge               candidate.py, judge.py: calls and plain values (wire.py)
    the program     the tests

The tests run in the judge, where the program is not: it answers calls with numbers, strings and containers, which the
judge compares. So leaving early, printing "passed", redefining `assert`, `==` or `isinstance`, or looking for the
expected values in memory gains nothing.

What holds a program (`cage.py`), strongest first; the zygote tries each at its start (`probe.py`), and
`Sandbox.gaps()` names what does not hold on this machine:

- resource limits: memory, CPU time, file size, open files, no further process or thread; a wall clock outside;
- a user id of its own when the evaluator is root, without capabilities; its own session; no environment, stdin closed,
  output thrown away;
- a system call filter (seccomp): no process, socket, signal, tracing, mount, or change of a file's mode; without
  Landlock, no change of a file at all;
- a file filter (Landlock): reads only the interpreter's library, writes only in its temporary folder;
- namespaces, where they may be made: no network at all, and a temporary folder in memory of bounded size.

Against a fork bomb, three things, each enough: RLIMIT_NPROC 0, which binds every user but root; the user id that root
gives up; the system call filter. Since no process can be started and no session left, killing the program's group
ends all of it.

What it does not protect from: faults of the kernel itself; side channels (timing, caches); full use of one core and
of the granted memory until the time is up; a look at the clock, and at names and sizes of files whose path is known
(`stat`). A program may know the tests from its prompt and answer just those. The tests are trusted: they come with
the data set. Linux only.
"""
