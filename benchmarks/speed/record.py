"""What a measurement of speed leaves behind: a JSON record and a Markdown table beside it."""
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from semmae.files import write_atomically
from semmae.recording.record import device, git_commit, versions
from semmae.suites.roofline import FUSED


def flops_of(step):
    """Floating-point operations of a call, two for a multiplication and addition."""
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        step()
    return counter.get_total_flops()


def machine():
    """What the numbers were measured on."""
    about = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    names = [line.split(': ')[1] for line in about.split('\n') if line.startswith('model name')]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'not measured on a GPU'
    return dict(device=device(), gpu=gpu, cpu=(names or [platform.machine()])[0],
                cores=os.cpu_count(), threads=torch.get_num_threads(), system=platform.system())


def where(record):
    """A sentence on what a record was measured on."""
    at = record['machine']
    return (f'{at["cpu"]}, {at["cores"]} cores, {at["threads"]} threads; GPU: {at["gpu"]}. '
            f'{record["date"]}')


def write(out, command, table, **content):
    """Write a record as ``out`` (JSON) and ``table(record)`` beside it (.md), and print that."""
    record = dict(command=' '.join(['python', *map(str, command)]),
                  date=datetime.now(timezone.utc).isoformat(timespec='seconds'), machine=machine(),
                  versions=versions(), git_commit=git_commit(), **content)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((Path(out), json.dumps(record, indent=1)),
                       (Path(out).with_suffix('.md'), table(record))):
        write_atomically(path, lambda f, text=text: f.write(text.encode() + b'\n'))
    print(table(record))
