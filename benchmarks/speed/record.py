"""The files of a measurement of speed: a JSON record and a Markdown table beside it."""
import argparse
import json
import math
import os
import platform
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from semmae.files import write_atomically
from semmae.recording.environment import device, git_commit, versions
from semmae.suites.step import FUSED


def parser(doc):
    """The arguments that all scripts share. doc: of the script."""
    found = argparse.ArgumentParser(description=doc.split('\n', 1)[0])
    found.add_argument('--out', required=True, help='JSON file of the measurements')
    return found


def milliseconds(seconds):
    """Median, lowest and highest of measured seconds, in ms."""
    return dict(ms=1e3 * statistics.median(seconds), lowest=1e3 * min(seconds),
                highest=1e3 * max(seconds))


def exponent(times, size):
    """The power of ``size`` by which something grew ``times``; None for the first size, 1."""
    return None if size == 1 else math.log(times) / math.log(size)


def flops_of(step):
    """Floating-point operations of a call, two for a multiplication and addition."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        step()
    return counter.get_total_flops()


def machine():
    """The hardware of the measurement."""
    about = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    names = [line.split(': ')[1] for line in about.split('\n') if line.startswith('model name')]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'not measured on a GPU'
    return dict(device=device(), gpu=gpu, cpu=(names or [platform.machine()])[0],
                cores=os.cpu_count(), threads=torch.get_num_threads(), system=platform.system())


def where(record):
    """A sentence on the hardware and date of a record."""
    at = record['machine']
    return (f'{at["cpu"]}, {at["cores"]} cores, {at["threads"]} threads; GPU: {at["gpu"]}. '
            f'{record["date"]}')


def write(out, script, arguments, table, **content):
    """Write a record as ``out`` (JSON) and ``table(record)`` beside it (.md), and print the table.

    script: a file of this folder, or '-m MODULE'. arguments: of the script; None for those of this
    process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    started = script if script.startswith('-m ') else f'benchmarks/speed/{Path(script).name}'
    command = ['python', started, *map(str, given)]
    record = dict(command=' '.join(command),
                  date=datetime.now(UTC).isoformat(timespec='seconds'), machine=machine(),
                  versions=versions(), git_commit=git_commit(), **content)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((Path(out), json.dumps(record, indent=1)),
                       (Path(out).with_suffix('.md'), table(record))):
        write_atomically(path, lambda f, text=text: f.write(text.encode() + b'\n'))
    print(table(record))
