"""Becomes another program, on some cores only, that is asked to stop when its parent dies.

  python launch.py PARENT CORES program argument ...

PARENT is a process id, CORES are numbers with commas between them, or nothing. A sweep that is
killed leaves no program behind: on Linux the kernel sends it SIGTERM, on which run.py saves. That
is asked for here, in the process itself, and not between fork and exec, where a parent with
threads can deadlock.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    _, parent, cores, *program = sys.argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, map(int, cores.split(",")))
        if os.getppid() != int(parent):  # Died before it could be noticed.
            sys.exit(128 + signal.SIGTERM)
    os.execvp(program[0], program)
