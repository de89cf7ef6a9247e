"""What a config says that it needs, in the ``Needs:`` lines of its docstring: the cure for a user
who lacks a file."""
import ast
import contextlib
import re
from pathlib import Path

running = []  # paths of the configs that are run, the innermost last


@contextlib.contextmanager
def run_of(config):
    """Errors raised inside may name what ``config`` needs."""
    running.append(config)
    try:
        yield
    finally:
        running.pop()


def needs_of(config):
    """The ``Needs:`` lines of a config's docstring as one line, or ''."""
    block = re.search(r'^Needs:(.*(?:\n[ \t]+\S.*)*)', docstring(config), re.MULTILINE)
    return ' '.join(block[1].replace('\\\n', ' ').split()) if block else ''


def parsed(config):
    try:
        return ast.parse(Path(config).read_text())
    except (OSError, ValueError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def docstring(config):
    return ast.get_docstring(parsed(config)) or ''


def with_bases(config):
    """A config and those that it is based on, nearest first."""
    found, todo = [], [Path(config)]
    while todo:
        path = todo.pop(0)
        if path not in found and path.is_file():
            found.append(path)
            todo += [path.parent / base for base in bases_of(path)]
    return found


def bases_of(config):
    for node in parsed(config).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            with contextlib.suppress(ValueError):  # computed: what it names is not looked up
                value = ast.literal_eval(node.value)
                return [value] if isinstance(value, str) else list(value)
    return []


def cure(template, tool, out):
    """What to run for the missing folder ``out``, made by ``tool``.

    The needs of the running config, or of one that it is based on, whose command of ``tool`` names
    ``out``; else those of the running config itself, if such a command is among them; else
    ``template``.
    """
    stated = [(path, needs_of(path)) for path in (with_bases(running[-1]) if running else ())]
    exact = [(path, needs) for path, needs in stated
             if re.search(rf'python {re.escape(tool)} [^.\s]', needs)]
    named = [pair for pair in exact if re.search(rf'--out {re.escape(str(out))}(\s|$)', pair[1])]
    own = [pair for pair in exact if pair in stated[:1]]
    return next((in_words(*pair) for pair in named + own), template)


def in_words(config, needs):
    return f'{config} needs: {needs}'


def with_needs(message):
    """A message about a missing file that ends with what the running config needs."""
    if not running or ' needs: ' in message or not (needs := needs_of(running[-1])):
        return message
    return f'{message.rstrip(".")}. {in_words(running[-1], needs)}'
