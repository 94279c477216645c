"""A command in a process of its own that need not import what it uses: a fork of one that has, as a grid's runs are."""

import os
import signal
import subprocess
import sys
import threading

from unisd_rl.ablation.commands import Command, fork_server, main_of


class Job:
    """`python -m program arguments`, with those members of `subprocess.Popen` that tests of runs use.

    Both its streams come through one pipe. `environment` is added to this process's, without the address of a Ray.
    """

    def __init__(self, program, *arguments, **environment):
        context = fork_server()
        reader, writer = context.Pipe(duplex=False)
        self._command = Command(program, tuple(map(str, arguments)))
        self._process = context.Process(target=_perform, args=(self._command, environment, writer))
        self._process.start()
        writer.close()
        self.pid = self._process.pid
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._command, timeout)
        return self.returncode

    def communicate(self, timeout):
        """What it still prints, once it has ended, and nothing of another stream."""
        said = []
        reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(self._command, timeout)
        self.wait(timeout)
        return said[0], ""

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _perform(command, environment, writer):
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.update(environment)
    sys.exit(main_of(command))
