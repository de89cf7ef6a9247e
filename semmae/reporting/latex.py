"""Tables as LaTeX for a paper; see `render` for what a table is."""
import re
import unicodedata

from .page import COMMAND, OURS, escaped_cells, visible

IN_SHORT = ('ours: mean ± sample standard deviation (n runs). to the best: difference and 95 % '
            'intervals over seeds (Welch) and over test images (paired bootstrap); within noise: '
            'an interval includes 0; bold: no interval includes 0. Tables are numbered as in the '
            'SemMAE paper.')
_GREEK = ('alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho '
          'varsigma sigma tau upsilon varphi chi psi omega').split()
_GREEK_CAPITALS = dict(zip('ΓΔΘΛΞΠΣΦΨΩ', (
    'Gamma', 'Delta', 'Theta', 'Lambda', 'Xi', 'Pi', 'Sigma', 'Phi', 'Psi', 'Omega')))
# Brackets and the star are braced: after a row end, \\ would read them as its argument.
# Long words without a space may break behind / _ and =, and before a parenthesis.
_LATEX = str.maketrans({
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}', '"': r'\textquotedbl{}',
    '`': r'\textasciigrave{}', '[': '{[}', ']': '{]}', '*': '{*}', '±': r'$\pm$',
    '/': r'/\allowbreak{}', '_': r'\_\allowbreak{}', '=': r'=\allowbreak{}',
    '(': r'\allowbreak(', '→': r'$\to$', '×': r'$\times$', '−': '$-$',
    **{chr(0x3b1 + k): f'$\\{name}$' for k, name in enumerate(_GREEK) if name != 'omicron'},
    **{letter: f'$\\{name}$' for letter, name in _GREEK_CAPITALS.items()}})
_NOT_IN_T1 = frozenset('¸ĦħĸĿŀŉŦŧ')  # letters up to U+017E at which pdflatex stops


def latex_text(text):
    """``text`` for LaTeX with T1 fonts; characters that T1 lacks are shown as (U+4E2D)."""
    text = ''.join(
        c if c < '\x7f' or ord(c) in _LATEX or c in '–—‘’“”„•…€™' or (
            '\xa0' < c < 'ſ' and c not in _NOT_IN_T1) else f'(U+{ord(c):04X})'
        for c in unicodedata.normalize('NFC', text)).translate(_LATEX)
    # Otherwise two hyphens become a dash, and two quotes or commas a quotation mark.
    return re.sub(r"-(?=-)|'(?=')|,(?=,)", r'\g<0>{}', text)


# Shares of the line width.
_WIDTHS = {'method': .12, 'setting': .16, 'paper': .055, 'ours': .15, 'difference': .095,
           'to the best': .15, 'note': .13, 'measured on': .15, 'value': .12, 'source': .21,
           'certainty': .11, 'place': .14, 'printed': .22, 'finding': .3, 'parts of': .22,
           'backbone': .18}
_WIDTH = .11  # of columns that are not named, in a table without attrs['width']
_GAP = .018  # between columns: 6 points of about 345
_NUMBERS = ('paper', 'ours', 'difference', 'value')
_ONE_PAGE = 60  # estimated lines of a table that certainly fit on one page


def latex_tables(frames, reading):
    """The tables; commands for empty cells and ``reading``, the common legend, are comments."""
    parts = [r'% needs \usepackage{booktabs,array,longtable} and \usepackage[T1]{fontenc}',
             '% long tables need a document of one column',
             *(f'% {text}' for text in reading)]
    for name, shown in (piece for item in frames.items() for piece in _pieces(*item)):
        escaped = escaped_cells(shown, latex_text, r'\textbf{{{}}}')
        columns = ''.join(
            r'>{\ragged' + ('left' if column in _NUMBERS else 'right')
            + r'\arraybackslash}p{' + str(_width(shown, column)) + r'\linewidth}'
            for column in shown)
        # The tables of another paper have their own numbers.
        title = latex_text(visible(re.sub(
            r'^(Table \d)\. (.*)', r'\2 (SemMAE paper, \1)', shown.attrs['title'])))
        legend = [latex_text(visible(text)) + r'\par' for text in (
            *shown.attrs['legend'], *([IN_SHORT] if OURS in shown else []))]
        empty = [f'% to fill: {visible(command)}' for command in shown.attrs['commands']]
        write = _float if _height(shown) <= _ONE_PAGE else _long
        caption = f'\\caption{{{title}}}\\label{{tab:semmae-{name}}}'
        parts.append('\n'.join([*write(escaped, columns, caption, legend), *empty]))
    return '\n\n'.join(parts) + '\n'


def _width(frame, column):
    return _WIDTHS.get(column, frame.attrs.get('width', _WIDTH))


def _pieces(name, frame):
    """[(name, columns that fit the page)]: legend and commands are those of the last.

    The first column is in all of them. Commands become a list of texts.
    """
    first, *others = frame.columns.drop(COMMAND, errors='ignore')
    columns = [[first]]
    for column in others:
        if sum(_width(frame, shown) + _GAP for shown in (*columns[-1], column)) > 1:
            columns.append([first])
        columns[-1].append(column)
    pieces = [(f'{name}-{k + 1}' if k else str(name), frame[shown])
              for k, shown in enumerate(columns)]
    for k, (_, piece) in enumerate(pieces):
        piece.attrs = dict(frame.attrs, title=frame.attrs['title'] + ' (continued)' * (k > 0),
                           legend=[], commands=[])
    piece.attrs |= dict(legend=frame.attrs['legend'], commands=[
        *filter(None, frame.get(COMMAND, ())),
        *(command for _, command in frame.attrs.get('commands', ()))])
    return pieces


def _height(frame):
    """Estimated lines of a table and its legend, with about 110 letters per line."""
    letters = {column: int(110 * _width(frame, column)) for column in frame}
    rows = [max(-(-len(visible(cell)) // letters[column]) for column, cell in row.items())
            for row in frame.to_dict('records')]
    return sum(rows) + sum(-(-len(text) // 110) for text in frame.attrs['legend'])


_SMALL = r'\scriptsize\setlength{\tabcolsep}{3pt}'


def _float(escaped, columns, caption, legend):
    table = escaped.style.hide(axis='index').to_latex(hrules=True, column_format=columns).strip()
    return [r'\begin{table}', r'\centering' + _SMALL, caption, table,
            r'\par\smallskip\raggedright', *legend, r'\end{table}']


def _long(escaped, columns, caption, legend):
    """A table over several pages, which a float cannot have; for one-column documents only."""
    head = [r'\toprule', ' & '.join(escaped) + r' \\', r'\midrule']
    rows = [' & '.join(cells) + r' \\' for cells in escaped.itertuples(index=False)]
    return [r'\begingroup' + _SMALL, rf'\begin{{longtable}}{{{columns}}}', caption + r'\\',
            *head, r'\endfirsthead', *head, r'\endhead', r'\bottomrule', r'\endlastfoot', *rows,
            r'\end{longtable}', r'\noindent\raggedright', *legend, r'\endgroup']
