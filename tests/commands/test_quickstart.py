"""tools/quickstart.sh: signals, exit statuses, and the commands that it ends with."""
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.test_docs import commands, unknown_flags

from ..tiny import REPO

SCRIPT = (REPO / 'tools/quickstart.sh').read_text()


def shell(text, **how):
    """A process of bash with the functions of tools/setup.sh, in a process group of its own."""
    return subprocess.Popen(
        ['bash', '-c', f'set -euo pipefail; source tools/setup.sh; {text}'], cwd=REPO, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how)


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_step_in_one_line(number, status):
    code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'
    process = shell(f"step {sys.executable} -c '{code}'; echo never")
    step = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT) if status == 130 else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        status, '', 'Stopped. The same command continues.\n')
    assert not psutil.pid_exists(step)


def test_a_step_that_fails_ends_the_script_with_its_status():
    out, err = (process := shell("step true; step bash -c 'exit 7'; echo never")).communicate()
    assert (process.returncode, out, err) == (7, '', '')


def test_all_that_takes_time_is_a_step():
    text = SCRIPT + (REPO / 'tools/setup.sh').read_text()
    started = re.findall(r'^ *(.*)"\$(?:PYTHON|base)" (?!--version|-c)', text, re.MULTILINE)
    assert len(started) == 6 and all(before.rstrip().endswith('step') for before in started)


def test_the_last_screen_names_three_to_five_commands_that_exist():
    screen = SCRIPT.partition('<< EOF')[2].rpartition('\nEOF')[0]
    shown = commands(f'```\n{screen}\n```')
    assert 3 <= len(shown) <= 5 and [unknown_flags(words) for words in shown] == [[]] * len(shown)
    assert screen.splitlines()[-1] == 'Report: $work/seed0/report/report.html'
