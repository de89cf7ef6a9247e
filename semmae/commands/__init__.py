"""Commands: each parses its arguments, calls one function, and prints where the result went."""
import argparse
import os
import signal
import sys
from importlib import import_module

from .. import __version__
from ..shipped import COMMANDS

FORKS = ('mmengine', 'mmcv', 'mmpretrain', 'mmseg')
GROUPS = {name.split()[0] for name in COMMANDS if ' ' in name}


def main(argv=None):
    """Run ``semmae COMMAND ...``; returns the exit status. Imports only what the command needs."""
    words = sys.argv[1:] if argv is None else list(argv)
    name = next((name for name in COMMANDS if words[:name.count(' ') + 1] == name.split()), None)
    if name is None:
        return answer(words)
    module = import_module('semmae.datasets.toy' if name == 'data toy'
                           else f'semmae.commands.{name.replace(" ", "_")}')
    try:
        return module.main(words[name.count(' ') + 1:], prog=f'semmae {name}')
    except ImportError as error:
        if (error.name or '').partition('.')[0] in FORKS:
            error.msg = (f'semmae needs {error.name} of the OpenMMLab forks, which is not '
                         "installed. Run: pip install 'semmae[openmmlab]'")
        elif not str(error).startswith('semmae needs'):  # `registry.check_openmmlab`
            raise
        print(error.msg, file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def answer(words):
    """Print help or the version, or refuse ``words`` that are no command (exit status 2)."""
    group = words[0] if words and words[0] in GROUPS else ''
    shown = {name: command for name, command in COMMANDS.items() if name.startswith(group)}
    parser = argparse.ArgumentParser(
        prog=f'semmae {group}'.strip(), usage='%(prog)s COMMAND ...',
        description='SemMAE from images to tables. semmae COMMAND --help lists the options.',
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog='commands:\n' + '\n'.join(
            f'  {name:15}{it.what}\n{"":17}semmae {name} {it.example}'
            for name, it in shown.items()))
    parser.add_argument('--version', action='version', version=f'semmae {__version__}')
    words = words[1:] if group else words
    if not words:
        parser.print_help()
        return 2
    if words[0].startswith('-'):
        parser.parse_args(words)
    known = ', '.join(name.removeprefix(f'{group} ') for name in shown)
    print(f"{parser.prog}: there is no command '{words[0]}'; expected {known}", file=sys.stderr)
    return 2
