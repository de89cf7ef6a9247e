"""The report in a browser: what its script does, what it asks for, how it looks.

A headless Chromium is driven over the DevTools protocol on a pipe, so no library is needed. Without
a Chromium these tests are skipped; SEMMAE_CHROMIUM names one that is not found by itself.
"""
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from semmae.reporting.page import Section
from semmae.reporting.render import sections
from semmae.reporting.report import write_report
from semmae.reporting.tables import build_tables
from semmae.results.protocol import anchor

from .records import a_record

CHROMIUM = os.environ.get('SEMMAE_CHROMIUM') or next(filter(None, map(
    shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no chromium on this machine')
HOSTILE = ('<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', '`a_b|c`',
           "'onmouseover=alert(3)", '\u05d0\u05d1\u05d2 \u202egnp.exe', '</style><b>', '{{ 7*7 }}')

OPEN = 'document.querySelectorAll("details[open]").length'
GROUND = 'getComputedStyle(document.documentElement).backgroundColor'
WHITE, NIGHT = 'rgb(255, 255, 255)', 'rgb(20, 23, 27)'


class Browser:
    """Chromium without a window; commands and events are JSON, each ended by a zero byte."""

    def __init__(self, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chromium reads 3 and writes 4: copies with high numbers are not overwritten on the way.
        read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (theirs_in, theirs_out))
        self.process = subprocess.Popen(
            [CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             '--disable-dev-shm-usage', '--hide-scrollbars', f'--user-data-dir={profile}',
             '--remote-debugging-pipe', 'about:blank'],
            preexec_fn=lambda: (os.dup2(read, 3), os.dup2(write, 4)), pass_fds=(3, 4),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (theirs_in, theirs_out, read, write):
            os.close(fd)
        self.fds, self.buffer, self.count, self.events = (ours_in, ours_out), b'', 0, []

    def message(self, timeout=30):
        """The next message, None after ``timeout`` seconds without one."""
        while b'\0' not in self.buffer:
            if not select.select([self.fds[0]], [], [], timeout)[0]:
                return None
            data = os.read(self.fds[0], 1 << 20)
            if not data:
                raise RuntimeError(f'{CHROMIUM} ended, status {self.process.poll()}')
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(message)

    def send(self, method, session=None, **params):
        self.count += 1
        command = dict(id=self.count, method=method, params=params)
        content = json.dumps(dict(command, sessionId=session) if session else command).encode()
        os.write(self.fds[1], content + b'\0')
        while (answer := self.message()) is not None:
            if answer.get('id') == self.count:
                assert 'error' not in answer, f'{method}: {answer}'
                return answer['result']
            self.events.append(answer)
        raise TimeoutError(f'no answer to {method}')

    def close(self):
        try:
            self.send('Browser.close')
        except (RuntimeError, TimeoutError, OSError):
            self.process.kill()
        self.process.wait(20)
        for fd in self.fds:
            os.close(fd)


class Tab:
    """A tab that shows one page after another; each starts as in a new browser."""

    def __init__(self, browser):
        self.browser = browser
        target = browser.send('Target.createTarget', url='about:blank')['targetId']
        self.session = browser.send('Target.attachToTarget', targetId=target,
                                    flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.send(f'{domain}.enable')

    def open(self, path, width=1280, height=900, scheme='light', script=True):
        self.visit('about:blank')
        self.send('Storage.clearDataForOrigin', origin='file://', storageTypes='local_storage')
        self.send('Emulation.setDeviceMetricsOverride', width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.send('Emulation.setEmulatedMedia', media='',
                  features=[dict(name='prefers-color-scheme', value=scheme)])
        self.send('Emulation.setScriptExecutionDisabled', value=not script)
        self.visit(path.as_uri())

    def visit(self, address):
        self.browser.events.clear()
        self.send('Page.navigate', url=address)
        until = time.monotonic() + 30
        while not self.events('Page.loadEventFired') and time.monotonic() < until:
            self.browser.events.append(self.browser.message() or {})

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def events(self, method):
        return [event['params'] for event in self.browser.events
                if event.get('sessionId') == self.session and event.get('method') == method]

    def js(self, expression):
        answer = self.send('Runtime.evaluate', expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def click(self, element):
        """A real click on the middle of what the expression ``element`` gives."""
        x, y = self.js(f'''(() => {{ const e = {element};
            e.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});
            const r = e.getClientRects()[0];
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()''')
        for kind in ('mousePressed', 'mouseReleased'):
            self.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def press(self, key, code):
        for kind in ('keyDown', 'keyUp'):
            self.send('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, **(dict(text='\r') if key == 'Enter' else {}))

    def column(self, number, table=0):
        return self.js(f'[...document.querySelectorAll("table")[{table}].tBodies[0].rows]'
                       f'.map(row => row.cells[{number}].textContent)')

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.send('Page.captureScreenshot')['data']))

    def complaints(self):
        """Errors and warnings of the console, violations of the policy, dialogs of hostile code."""
        self.js('new Promise(done => setTimeout(done, 50))')
        return [*(e['exceptionDetails'] for e in self.events('Runtime.exceptionThrown')),
                *(e['args'] for e in self.events('Runtime.consoleAPICalled')),
                *(e['entry'] for e in self.events('Log.entryAdded')),
                *self.events('Page.javascriptDialogOpening')]

    def requests(self):
        return [e['request']['url'] for e in self.events('Network.requestWillBeSent')]


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp('profile'))
    try:
        version = browser.send('Browser.getVersion')['product']
    except (RuntimeError, TimeoutError, OSError) as error:
        browser.process.kill()
        pytest.skip(f'{CHROMIUM} does not start: {error}')
    if int(version.split('/')[1].split('.')[0]) < 123:
        browser.close()
        pytest.skip(f'{version} is too old, the tests need 123')
    yield browser
    browser.close()


@pytest.fixture(scope='module')
def tab(browser):
    return Tab(browser)


REDUCED = dict(reduced=True, reduced_why='few images')
RECORDS = [*(a_record(seed=seed, value=60. + seed, **REDUCED) for seed in range(3)),
           a_record('linprobe/semmae_p16', method='SemMAE')]
ROWS = (('b', '9.5 ± 2.0 (n=5)', '+1.30'), ('a', '42.7', '-'), ('B10', '', '-0.5'),
        ('B9', '100', ''), ('c', '-', '+0.2'))


def page(folder, records=RECORDS, rows=ROWS, **more):
    """A report of one table of ``rows``, in which the second has a link, and of the real tables."""
    order = Section('Order', columns=('name', 'ours', 'difference'), rows=rows,
                    links=['', anchor(records[0]), '', '', ''])
    picture = folder / 'picture.png'
    Image.fromarray(np.full((300, 900, 3), 200, np.uint8)).save(picture)
    return write_report(folder / 'report.html', more.pop('title', 'A report'), records,
                        [order, *sections(build_tables(records))],
                        more.pop('pictures', [('Grey', 'Nothing else.', picture, 'A grey field')]),
                        **more)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return page(tmp_path_factory.mktemp('report'), notes=['A note.'])


def test_the_page_causes_no_error_and_requests_no_other_file(tab, path):
    tab.open(path)
    for element in ('document.querySelector("th[tabindex]")', 'document.querySelector("#theme")',
                    'document.querySelector("figure button")'):
        tab.click(element)
    assert tab.complaints() == []
    assert all(url.startswith(('file://', 'data:image/png')) for url in tab.requests())
    assert [url for url in tab.requests() if url.startswith('file://')] == [path.as_uri()]


def test_the_policy_blocks_other_scripts(tab, path, tmp_path):
    changed = tmp_path / 'changed.html'
    changed.write_text(path.read_text().replace("'use strict';\n(", "'use strict'; (")
                       .replace('</body>', '<script>document.title = "run"</script></body>'))
    tab.open(changed)
    assert tab.js('document.title') == 'A report' and not tab.js('!!document.querySelector(".js")')
    assert len(tab.complaints()) == 2


def test_a_column_sorts_by_number_with_empty_cells_last_and_the_third_click_restores(tab, path):
    tab.open(path)
    head = 'document.querySelectorAll("th[tabindex]")[1]'
    before = tab.column(1)
    tab.click(head)
    assert tab.column(1) == ['9.5 ± 2.0 (n=5)', '42.7', '100', '', '-']
    assert tab.js(f'{head}.ariaSort') == 'ascending'
    tab.click(head)
    assert tab.column(1) == ['100', '42.7', '9.5 ± 2.0 (n=5)', '', '-']
    assert tab.js(f'{head}.ariaSort') == 'descending'
    tab.click(head)
    assert tab.column(1) == before and tab.js(f'{head}.ariaSort') is None


def test_signed_numbers_sort_by_value_and_texts_by_letters(tab, path):
    tab.open(path)
    tab.click('document.querySelectorAll("th[tabindex]")[2]')
    assert tab.column(2) == ['-0.5', '+0.2', '+1.30', '-', '']
    tab.click('document.querySelectorAll("th[tabindex]")[0]')
    assert tab.column(0) == ['a', 'b', 'B9', 'B10', 'c']
    assert tab.js('document.querySelectorAll("th[aria-sort]").length') == 1


def test_the_keyboard_sorts_a_column(tab, path):
    tab.open(path)
    tab.js('document.querySelectorAll("th[tabindex]")[1].focus()')
    tab.press('Enter', 13)
    assert tab.column(1)[0] == '9.5 ± 2.0 (n=5)'


def test_a_number_opens_its_protocol_and_the_protocol_links_back(tab, path):
    tab.open(path)
    entry = f'document.getElementById("{anchor(RECORDS[0])}")'
    assert tab.js(OPEN) == 0
    tab.click('document.querySelector("td a")')
    assert tab.js(f'{entry}.open') and tab.js(OPEN) == 1
    top = tab.js(f'{entry}.getBoundingClientRect().top')
    assert 0 <= top < 900 and 'linprobe/mae_p16' in tab.js(f'{entry}.textContent')
    plain, marked = (tab.js(f'getComputedStyle({e}).backgroundColor') for e in (
        'document.querySelector("details:not(.here)")', entry))
    assert plain != marked
    tab.click(f'{entry}.querySelector(".back")')
    assert tab.js('document.activeElement.textContent') == '42.7'
    assert 0 <= tab.js('document.querySelector("td a").getBoundingClientRect().top') < 900


def test_an_address_that_names_an_entry_opens_it(tab, path):
    tab.open(path)
    tab.js(f'location.hash = "{anchor(RECORDS[3])}"')
    tab.js('new Promise(done => setTimeout(done, 50))')
    assert tab.js('[...document.querySelectorAll("details[open] code")][0].textContent') == (
        'linprobe/semmae_p16')


def test_a_picture_opens_enlarged_and_closes(tab, path):
    tab.open(path)
    dialog = 'document.querySelector("dialog")'
    small = tab.js('document.querySelector("figure img").width')
    tab.click('document.querySelector("figure button")')
    large = f'{dialog}.querySelector("img")'
    assert tab.js(f'{dialog}.open') and tab.js(f'{large}.alt') == 'A grey field'
    tab.js(f'{large}.decode()')
    assert tab.js(f'{large}.width') > small
    assert tab.js(f'{dialog}.querySelector(".bar span").textContent') == 'Grey'
    tab.press('Escape', 27)
    assert not tab.js(f'{dialog}.open')
    tab.click('document.querySelector("figure button")')
    tab.click(f'{dialog}.querySelector(".close")')
    assert not tab.js(f'{dialog}.open')


def test_without_scripts_all_content_is_visible_and_no_button_is(tab, path):
    tab.open(path, script=False)
    tab.send('Emulation.setScriptExecutionDisabled', value=False)
    assert tab.js('document.querySelectorAll("th[tabindex], figure button").length') == 0
    assert tab.js('[...document.querySelectorAll("button, .with-script")]'
                  '.every(e => !e.checkVisibility())')
    assert tab.js('[...document.querySelectorAll("td, summary, figcaption, img")]'
                  '.filter(e => !e.closest("dialog") && !e.matches("details table *"))'
                  '.every(e => e.checkVisibility())')


def test_a_phone_needs_no_sideways_scrolling(tab, tmp_path):
    long = a_record('linprobe/' + 'x' * 90, method='A' * 70, reduced=True,
                    reduced_why='y' * 300)
    report = page(tmp_path, [long, *RECORDS], notes=['z' * 400])
    for width in (320, 360, 768):
        tab.open(report, width, 800)
        tab.js('document.querySelectorAll("details").forEach(e => { e.open = true; })')
        assert tab.js('document.documentElement.scrollWidth') <= tab.js('innerWidth') == width
        table = 'document.querySelector("#tables .scroll:has(.to-fill)")'
        assert tab.js(f'{table}.scrollWidth') > width


def test_the_first_column_stays_visible_when_a_table_scrolls(tab, path):
    tab.open(path, 360, 800)
    box = 'document.querySelectorAll("#tables .scroll")[1]'
    tab.js(f'{box}.scrollLeft = 250')
    first, second = (tab.js(f'{box}.querySelector("td:nth-child({k})").getBoundingClientRect().x')
                     for k in (1, 2))
    assert 0 <= first < 40 and second < 0


CONTRAST = '''(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = colour => rgb(colour).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (colour !== 'rgba(0, 0, 0, 0)') return colour; } return 'white'; };
  const found = {};
  document.querySelectorAll('details').forEach(e => { e.open = true; });
  for (const name of ['p', '.hint', 'h1', 'h2', 'td', 'th', 'th[tabindex]', 'td a', 'nav a', 'dd',
                      'dt', 'figcaption', 'code', '.reduced', '.result', '.back', '#theme',
                      '#tables li', '.here code', '.here .result', '.here .reduced',
                      '.here .back', '.here th'])
    for (const e of document.querySelectorAll(name)) {
      const a = light(getComputedStyle(e).color), b = light(behind(e));
      const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      found[name] = Math.min(ratio, found[name] ?? 99); }
  return found; })()'''


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_texts_have_contrast_in_light_and_in_dark(tab, path, scheme):
    tab.open(path, scheme=scheme)
    tab.click('document.querySelector("td a")')
    found = tab.js(CONTRAST)
    assert len(found) == 23 and min(found.values()) >= 4.5, found
    assert tab.js(GROUND) == (NIGHT if scheme == 'dark' else WHITE)


def test_the_button_changes_the_scheme(tab, path):
    tab.open(path)
    assert tab.js(GROUND) == WHITE and tab.js('theme.textContent') == 'Dark'
    tab.click('document.querySelector("#theme")')
    assert tab.js(GROUND) == NIGHT and tab.js('theme.textContent') == 'Light'
    assert min(tab.js(CONTRAST).values()) >= 4.5
    tab.click('document.querySelector("#theme")')
    assert tab.js(GROUND) == WHITE


def test_hostile_names_are_texts_and_run_nothing(tab, tmp_path):
    records = [a_record(f'linprobe/{name}', method=name, dataset=name, reduced=True,
                        reduced_why=name, config=name, device=name, git_commit=name,
                        versions={name: name}, protocol={name: [name], 'lr': k})
               for k, name in enumerate(HOSTILE)]
    picture = tmp_path / 'p.png'
    Image.new('RGB', (8, 8)).save(picture)
    tab.open(page(tmp_path, records, title=HOSTILE[1], notes=HOSTILE,
                  pictures=[(name, name, picture, name) for name in HOSTILE]))
    tab.js('document.querySelectorAll("details").forEach(e => { e.open = true; })')
    tab.click('document.querySelector("th[tabindex]")')
    tab.click('document.querySelector("td a")')
    assert tab.complaints() == []
    assert tab.js('document.querySelectorAll("script").length') == 1
    assert tab.js('document.querySelectorAll("[onerror], [onmouseover], style b").length') == 0
    assert tab.js('document.querySelectorAll("img").length') == len(HOSTILE)
    text = tab.js('document.body.textContent')
    for name in HOSTILE:
        assert text.count(name.replace('\u202e', '(U+202E)')) >= 8, name
    assert '\u202e' not in text and text.count('{{ 7*7 }}') >= 8


def test_the_printed_page_is_light_and_has_no_buttons(tab, path):
    tab.open(path, scheme='dark')
    tab.send('Emulation.setEmulatedMedia', media='print')
    assert tab.js(GROUND) == WHITE
    assert not tab.js('document.querySelector("#theme").checkVisibility()')
    assert len(tab.send('Page.printToPDF')['data']) > 1000
