"""A process that another one started ends with it, whatever ends that one."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

CHILD = """
import os, signal, sys, time
from dimo_cli.distributed import orphans
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.platform = sys.argv[1]
orphans.SECONDS_BETWEEN_LOOKS = 0.1
orphans.end_with_parent(int(sys.argv[2]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2], str(os.getpid())])
time.sleep(60)
"""


def is_running(number):
    """A zombie is not: whoever is to fetch it may take its time."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_hears_no_ctrl_c_ends_with_its_parent(platform, end):
    call = [sys.executable, "-c", PARENT, CHILD, platform]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(end)
        parent.wait()
    deadline = time.monotonic() + 20
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_whose_parent_is_gone_already_ends_too():
    gone = subprocess.run([sys.executable, "-c", CHILD, "linux", "999999"], check=False)
    assert gone.returncode == -signal.SIGKILL
