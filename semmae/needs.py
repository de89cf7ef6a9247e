"""What a config needs: the ``Needs:`` lines of its docstring, for errors about missing files."""
import ast
import contextlib
import re
from pathlib import Path

from .shipped import config_path, shipped_path

running: list = []  # paths of the configs that are run, the innermost last


@contextlib.contextmanager
def run_of(config):
    """Errors raised in this context can name what ``config`` needs."""
    running.append(config)
    try:
        yield
    finally:
        running.pop()


def needs_of(config):
    """The ``Needs:`` lines of a config's docstring as one line, or ''."""
    block = re.search(r'^Needs:(.*(?:\n[ \t]+\S.*)*)', docstring(config), re.MULTILINE)
    return ' '.join(block[1].replace('\\\n', ' ').split()) if block else ''


def parsed(config) -> ast.Module:
    """The syntax tree of a config; an empty one if it cannot be read."""
    try:
        return ast.parse(Path(config_path(config)).read_text())
    except (OSError, ValueError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def docstring(config) -> str:
    """The docstring of a config, or ''."""
    return ast.get_docstring(parsed(config)) or ''


def with_bases(config):
    """A config and its bases, nearest first."""
    found, todo = [], [Path(config_path(config))]
    while todo:
        path = todo.pop(0)
        if path not in found and path.is_file():
            found.append(path)
            todo += [own if (own := path.parent / base).is_file() else Path(shipped_path(base))
                     for base in bases_of(path)]
    return found


def bases_of(config) -> list:
    """The paths in ``_base_`` of a config, relative to its folder; [] if they are computed."""
    for node in parsed(config).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            with contextlib.suppress(ValueError):
                value = ast.literal_eval(node.value)
                return [value] if isinstance(value, str) else list(value)
    return []


def cure(template, tool, out):
    """The command for the missing folder ``out`` that ``tool`` makes.

    Returns the first of: the needs of the running config, or of a base, whose command of ``tool``
    names ``out``; the needs of the running config, if they have such a command; ``template``.
    """
    stated = [(path, needs_of(path)) for path in (with_bases(running[-1]) if running else ())]
    exact = [(path, needs) for path, needs in stated
             if re.search(rf'python {re.escape(tool)} [^.\s]', needs)]
    named = [pair for pair in exact if re.search(rf'--out {re.escape(str(out))}(\s|$)', pair[1])]
    own = [pair for pair in exact if pair in stated[:1]]
    return next((f'{path} needs: {needs}' for path, needs in named + own), template)


def with_needs(message):
    """A message about a missing file, followed by what the running config needs."""
    if not running or ' needs: ' in message or not (needs := needs_of(running[-1])):
        return message
    return f'{message.rstrip(".")}. {running[-1]} needs: {needs}'
