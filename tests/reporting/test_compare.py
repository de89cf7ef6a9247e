"""The report of a suite in a browser: runs, protocols, confusions; light, dark, and small."""
import pytest

from semmae.visualization.folder_report import write_folder_report

from .records import a_suite
from .test_browser import CONTRAST, GROUND, NIGHT, WHITE, browser, pytestmark, tab  # noqa: F401

MAE, MAE_1, SEMMAE = 0, 1, 2  # positions in the lists of runs


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp('suite')
    return write_folder_report(a_suite(folder), 'none', folder / 'report.html')


def choose(tab, a, b):  # noqa: F811
    """Select two runs as a reader does."""
    for name, number in (('a', a), ('b', b)):
        tab.js(f'''(() => {{ const e = document.getElementById("run-{name}");
            e.selectedIndex = {number}; e.dispatchEvent(new Event("change")); }})()''')


def cells(tab, heading):  # noqa: F811
    """The rows of the first table after a heading of the side-by-side view."""
    return tab.js(f'''(() => {{ let e = [...document.querySelectorAll("#compared h3")]
        .find(h => h.textContent === "{heading}");
        while (!e.querySelector("table")) e = e.nextElementSibling;
        return [...e.querySelectorAll("tbody tr")]
            .map(r => [...r.cells].map(c => c.textContent)); }})()''')


def names(tab, heading):  # noqa: F811
    """The images that are listed below a heading."""
    return tab.js(f'''(() => {{ const e = [...document.querySelectorAll("#compared h4")]
        .find(h => h.textContent === "{heading}").nextElementSibling;
        return [...e.querySelectorAll("code")].map(c => c.textContent); }})()''')


@pytest.mark.parametrize(('scheme', 'width'), [('light', 1280), ('dark', 1280), ('light', 390),
                                               ('dark', 390)])
def test_two_runs_stand_beside_each_other_without_an_error(tab, path, scheme, width):  # noqa: F811
    tab.open(path, width, 844, scheme)
    choose(tab, MAE, SEMMAE)
    tab.js('document.querySelectorAll("details").forEach(e => { e.open = true; })')
    assert tab.complaints() == []
    assert tab.js('document.documentElement.scrollWidth') <= tab.js('innerWidth') == width
    assert tab.js(GROUND) == (NIGHT if scheme == 'dark' else WHITE)
    assert min(tab.js(CONTRAST).values()) >= 4.5
    # Nothing but tables, which scroll by themselves, is wider than the window.
    assert tab.js('''[...document.querySelectorAll("#compared *, .card *, figure *, svg")]
        .filter(e => !e.closest(".scroll") && !e.closest("svg *"))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).length''') == 0
    assert tab.js('''[...document.querySelectorAll("#compared img")]
        .every(e => e.complete && e.naturalWidth > 0)''')


def test_the_protocols_differ_in_what_differs_and_say_of_what_it_is_a_part(tab, path):  # noqa: F811
    tab.open(path)
    choose(tab, MAE, SEMMAE)
    assert cells(tab, 'Protocol') == [
        ['model.backbone.drop', '(not recorded)', '1', 'method']]
    said = 'document.querySelector(".verdict").textContent'
    assert tab.js(said) == 'Comparable: only the method or its pre-training differs.'
    choose(tab, MAE, MAE_1)
    assert tab.js(said) == 'The same protocol and pre-training.'


def test_images_that_one_run_has_right_and_the_other_wrong(tab, path):  # noqa: F811
    tab.open(path)
    choose(tab, MAE, SEMMAE)  # MAE: wrong at cat/3 and dog/3. SemMAE: wrong at cat/0
    assert cells(tab, 'Predictions') == [['both right', '5'], ['only A right', '1'],
                                         ['only B right', '2'], ['both wrong', '0']]
    assert names(tab, 'A right, B wrong') == ['cat/0.png']
    assert names(tab, 'B right, A wrong') == ['cat/3.png', 'dog/3.png']
    assert tab.js('document.querySelectorAll("#compared .examples img").length') >= 3
    choose(tab, SEMMAE, MAE)
    assert names(tab, 'A right, B wrong') == ['cat/3.png', 'dog/3.png']
    assert names(tab, 'Wrong with the highest score') == ['cat/0.png']


def test_the_confusion_matrix_sorts_and_is_shaded_by_its_shares(tab, path):  # noqa: F811
    tab.open(path)
    table = ('[...document.querySelectorAll("h4")].find(h => h.textContent.startsWith('
             '"Confusions of MAE")).parentElement.querySelectorAll(".shaded")')
    number = tab.js(f'''[...document.querySelectorAll("table")].indexOf(
        [...{table}].find(t => t.textContent.includes("87.5")))''')
    found = f'document.querySelectorAll("table")[{number}]'
    assert tab.column(0, number) == ['cat', 'dog']
    tab.click(f'{found}.tHead.rows[0].cells[1]')
    assert tab.column(0, number) == ['dog', 'cat'] and tab.column(1, number) == ['37.5', '87.5']
    shades = [tab.js(f'getComputedStyle({found}.rows[{k}].cells[1]).backgroundColor')
              for k in (1, 2)]
    assert shades[0] != shades[1]


def test_a_download_has_the_cells_of_its_table(tab, path):  # noqa: F811
    tab.open(path)
    choose(tab, MAE, SEMMAE)
    text = tab.js('''decodeURIComponent(document.querySelector(
        '#compared a[download="protocols.csv"]').href.split(",").slice(1).join(","))''')
    assert text.split('\n') == ['"field","A","B","part of"',
                                '"model.backbone.drop","(not recorded)","1","method"']


def test_curves_change_with_the_scheme_of_the_page(tab, path):  # noqa: F811
    tab.open(path)
    line = '''getComputedStyle([...document.querySelectorAll("#figures svg path")]
        .find(e => e.style.stroke === "var(--line-0)")).stroke'''
    text = 'getComputedStyle(document.querySelector("#figures svg text")).fill'
    before = tab.js(line), tab.js(text)
    tab.click('document.querySelector("#theme")')
    after = tab.js(line), tab.js(text)
    assert before[0] != after[0] and before[1] != after[1]


def test_the_first_screen_has_the_headline_numbers(tab, path):  # noqa: F811
    for width, height in ((1280, 900), (390, 844)):
        tab.open(path, width, height)
        box = tab.js('''(() => { const r = document.querySelector(".card li").
            getBoundingClientRect(); return [r.top, r.bottom]; })()''')
        assert 0 < box[0] < box[1] < height
        assert '75.00' in tab.js('document.querySelector(".cards").textContent')
