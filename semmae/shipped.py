"""What comes with the package: its configs, and its commands under the names that they have here.

In a checkout, configs are in mm_configs/ and commands in tools/, beside the package. An installed
package has the configs inside, and its commands are those of ``semmae`` (`semmae.commands`).
"""
import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

PACKAGE = Path(__file__).resolve().parent
TOOLS = PACKAGE.parent / 'tools'
IS_CHECKOUT = (TOOLS / 'train.py').is_file() and (PACKAGE.parent / 'mm_configs').is_dir()
CONFIGS = (PACKAGE.parent if IS_CHECKOUT else PACKAGE) / 'mm_configs'


class Command(NamedTuple):
    """A command of ``semmae``. tool: its file in tools/, or ''. example: its arguments."""
    tool: str
    what: str
    example: str


# Its module in `semmae.commands` has '_' for ' '.
COMMANDS = {
    'demo': Command('', 'draw parts, masks and reconstructions of a few photographs',
                    '--images DIR --out work_dirs/demo'),
    'parts extract': Command('extract_parts', 'write a part store of a folder of images',
                             'CONFIG CHECKPOINT --images DIR --out STORE'),
    'parts quality': Command('part_quality', 'measure learned parts',
                             'CONFIG CHECKPOINT --cub data/CUB_200_2011'),
    'train': Command('train', 'train any stage', 'mm_configs/semmae_pretrain.py'),
    'test': Command('test', 'evaluate a trained model',
                    'mm_configs/semmae_linprobe.py CHECKPOINT'),
    'launch': Command('launch', 'train or test in several processes of this machine',
                      'train 8 CONFIG'),
    'suite': Command('run_suite', 'run the rows behind the tables', 'mini --jobs 2'),
    'tables': Command('make_tables', 'print the tables', 'work_dirs --measured'),
    'report': Command('make_report', 'write one HTML report of a folder of runs',
                      'work_dirs/mini'),
    'view': Command('visualize', 'draw parts, masks, models and curves', 'alpha --out alpha.pdf'),
    'probe': Command('', 'evaluate a frozen backbone on a labelled folder of your own',
                     'DIR --timm vit_small_patch14_dinov2 --checkpoint FILE'),
    'embed': Command('', 'write features of images from a frozen backbone',
                     'IMAGES --timm vit_small_patch14_dinov2 --out features.npz'),
    'predict': Command('', 'predict classes or label maps of images',
                       'CONFIG CHECKPOINT --images DIR --out classes.csv'),
    'data check': Command('check_data', 'say what is missing in data/', 'cub ade20k --root data'),
    'data unpack': Command('unpack', 'unpack a downloaded data set',
                           'CUB_200_2011.tgz --out data'),
    'data pack': Command('pack_images', 'write decoded images into one file',
                         'IMAGES --out DIR --size 224'),
    'data toy': Command('', 'draw the toy data sets', '--out data/toy'),
    'convert': Command('convert_checkpoint', 'rename the weights of a ViT for another library',
                       'SRC DST --to timm')}
NAMES = {command.tool: name for name, command in COMMANDS.items() if command.tool}
TOOL = re.compile(rf'(?:python\s+)?tools/({"|".join(NAMES)})\.py')


def config_path(path: str | Path) -> str:
    """The path of a config: as given if the file exists, else that of the shipped config.

    ``mm_configs/x.py`` is looked up relative to the working directory, then in the package. A path
    that leads nowhere is returned unchanged.
    """
    return str(path) if Path(path).exists() else shipped_path(path) or str(path)


def shipped_path(path: str | Path) -> str:
    """The file of the shipped config ``mm_configs/...``, or ''."""
    top, *rest = Path(path).parts or ('',)
    shipped = CONFIGS.joinpath(*rest)
    return str(shipped) if top == 'mm_configs' and shipped.is_file() else ''


def is_in_checkout() -> bool:
    """Whether the working directory is the checkout that holds this package."""
    return IS_CHECKOUT and Path.cwd() == PACKAGE.parent


def startable(words: list[str]) -> list[str]:
    """The words after ``python``: ``-m semmae COMMAND`` for a first word tools/NAME.py that is not
    in the working directory.
    """
    path = Path(words[0])
    if path.parent.name != 'tools' or path.stem not in NAMES or is_in_checkout():
        return words
    return ['-m', 'semmae', *NAMES[path.stem].split(), *words[1:]]


def is_semmae() -> bool:
    """Whether this process was started as ``semmae`` or ``python -m semmae``."""
    start = Path(sys.argv[0])
    return not IS_CHECKOUT or start.stem == 'semmae' or start.parts[-2:] == (
        'semmae', '__main__.py')


def as_typed_here(text: str) -> str:
    """A text with ``semmae COMMAND`` in place of ``python tools/NAME.py`` if `is_semmae`."""
    return TOOL.sub(lambda found: f'semmae {NAMES[found[1]]}', text) if is_semmae() else text


class CommandParser(argparse.ArgumentParser):
    """argparse's parser for a command; its help ends with an example. A mistake in a command of
    ``semmae`` is one line.
    """

    def format_help(self) -> str:
        name = NAMES.get(Path(self.prog).stem, self.prog.removeprefix('semmae '))
        text = super().format_help()
        if name in COMMANDS:
            start = self.prog if self.prog.startswith('semmae ') else (
                f'python tools/{COMMANDS[name].tool}.py')
            text += f'\nexample: {start} {COMMANDS[name].example}\n'  # not folded
        return as_typed_here(text)

    def error(self, message: str) -> NoReturn:
        if not self.prog.startswith('semmae '):
            super().error(message)
        self.exit(2, f'{self.prog}: {message} (--help lists the arguments)\n')
