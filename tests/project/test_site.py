"""The site builds without a warning; in a real browser, every page, wide and on a phone, without a network.

``SITE_SCREENSHOTS=FOLDER pytest tests/project/test_site.py`` keeps a picture of every page in that folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from public_names import public_modules, public_names

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
WIDE, PHONE = dict(width=1440, height=900), dict(width=390, height=844)
FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
]  # fmt: skip
# Runs in the page when it is loaded and its formulas are set.
FAULTS = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await Promise.all([...document.images].map(image => {
        image.loading = 'eager';
        return image.decode().catch(() => null);
    }));
    const faults = [];
    for (const image of document.images)
        if (!image.complete || image.naturalWidth === 0) faults.push('broken image ' + image.src);
    for (const image of document.images)
        if (!image.alt && image.closest('article')) faults.push('image without alt text ' + image.src);
    for (const formula of document.querySelectorAll('.math'))
        if (!formula.querySelector('mjx-container')) faults.push('formula not set: ' + formula.textContent);
    for (const error of document.querySelectorAll('mjx-merror'))
        faults.push('formula with an error: ' + (error.title || error.textContent));
    const page = document.documentElement;
    for (const formula of document.querySelectorAll('span.math mjx-container'))
        if (!formula.closest('.table-wrapper') && formula.getBoundingClientRect().right > page.clientWidth)
            faults.push('formula cut off: ' + formula.parentElement.title + formula.textContent);
    if (page.scrollWidth > page.clientWidth) {
        const wide = [...document.querySelectorAll('article *')].filter(
            node => node.getBoundingClientRect().right > page.clientWidth + 1);
        faults.push(`scrolls sideways, ${page.scrollWidth} pixels of ${page.clientWidth}; `
            + wide.slice(0, 3).map(node => node.tagName + ' ' + node.textContent.slice(0, 60)).join(' / '));
    }
    return faults;
}"""

# Public functions and classes of modules without a list of public names.
ALSO_DOCUMENTED = {
    'bucketed_losses.errors.UserError',
    'bucketed_losses.stack.StackError',
    'bucketed_losses.stack.check_stack',
    'bucketed_losses.mmdet.models.recipes.ranking_head',
    'bucketed_losses.mmdet.models.recipes.recipes',
    'bucketed_losses.study.curves.plot_curves',
    'bucketed_losses.study.plan.Plan',
    'bucketed_losses.study.report.accuracy_sections',
    'bucketed_losses.study.run.run_study',
    'bucketed_losses.study.store.read_table',
    'bucketed_losses.study.summary.summarize',
}

pytestmark = pytest.mark.medium
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed (Debian: apt-get install chromium)')


def documented_names(site):
    """Full names of everything in Python that the built site documents."""
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / 'objects.inv').read_bytes(), uri='')
    items = [item for kind, names in inventory.data.items() if kind.startswith('py:') for item in names.items()]
    # A class that is documented under its public name has an alias, the name in the module that defines it.
    return {name for name, item in items if item.uri.rpartition('#')[2] in (name, '$', f'module-{name}')}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in the base class)
        pass


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder of the site, built without a warning."""
    for package in ('mmdet', 'sphinx', 'myst_nb', 'furo', 'sphinx-mathjax-offline'):
        pytest.importorskip(package)
    if folder := os.environ.get('SITE_FOLDER'):  # a site that is built already
        return Path(folder)
    folder = tmp_path_factory.mktemp('site')
    # As `make docs` does, in this environment instead of the one that make would set up.
    command = ['make', '-o', 'setup', 'docs', f'BIN={Path(sys.executable).parent}', f'SITE={folder}']
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(scope='module')
def address(site):
    """The address at which the site is served."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(QuietHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    pytest.importorskip('playwright')
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp('browser')  # an empty profile, and nothing of the user's
    environment = {**os.environ, 'HOME': str(home), 'XDG_CONFIG_HOME': str(home), 'XDG_CACHE_HOME': str(home)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, env=environment)
        yield browser
        browser.close()


class Visit:
    """A page in the browser, and what went wrong with it."""

    def __init__(self, context, address: str, path: str) -> None:
        self.faults: list[str] = []
        self.address = address
        self.page = page = context.new_page()
        page.set_default_timeout(180_000)  # a busy machine
        page.on('console', lambda message: message.type == 'error' and self.note(f'console: {message.text}'))
        page.on('pageerror', lambda error: self.note(f'script: {error}'))
        page.on('response', lambda answer: answer.status >= 400 and self.note(f'{answer.status} {answer.url}'))
        page.route('**/*', self.only_local)
        page.goto(f'{address}/{path}', wait_until='load')

    def note(self, *faults: str) -> None:
        self.faults += [fault for fault in faults if fault not in self.faults]

    def only_local(self, route) -> None:
        if route.request.url.startswith((self.address, 'data:', 'blob:')):
            route.continue_()
        else:
            self.note(f'request to {route.request.url}')
            route.abort()

    def look(self, viewport: dict) -> None:
        """Note the faults at a size of the window, also in the parts that a click opens."""
        self.page.set_viewport_size(viewport)
        for opened in (False, True):
            self.page.evaluate(
                'opened => document.querySelectorAll("article details").forEach(part => { part.open = opened; })',
                opened,
            )
            self.note(*(f'{viewport["width"]} wide: {fault}' for fault in self.page.evaluate(FAULTS)))

    def photograph(self, stem: str, viewport: dict) -> None:
        self.page.set_viewport_size(viewport)
        self.page.evaluate('document.querySelectorAll("article details").forEach(part => { part.open = false; })')
        for scheme in ('light', 'dark'):
            self.page.emulate_media(color_scheme=scheme)
            self.page.screenshot(path=f'{stem}_{viewport["width"]}_{scheme}.png', full_page=True)


@pytest.fixture(scope='module')
def context(browser):
    context = browser.new_context(viewport=WIDE)
    yield context
    context.close()


def test_site_has_every_page_and_documents_every_public_name(site):
    for page in (ROOT / 'docs').rglob('*.md'):
        if '_build' not in page.parts:
            assert (site / page.relative_to(ROOT / 'docs')).with_suffix('.html').is_file()
    documented = documented_names(site)
    assert not public_names() - documented, 'names that no page of docs/api documents'
    # Members of public classes have a public class as their beginning.
    top_level = {name for name in documented if name.rpartition('.')[0] not in documented}
    assert not {name for name in top_level if name not in public_names() | {*public_modules()} | ALSO_DOCUMENTED}


@BROWSER
@pytest.mark.timeout(1200)
def test_every_page_in_a_browser(site, address, context):
    paths = sorted(str(path.relative_to(site)) for path in site.rglob('*.html') if '_static' not in path.parts)
    assert len(paths) > 40
    pictures = os.environ.get('SITE_SCREENSHOTS')
    wrong = {}
    for path in paths:
        visit = Visit(context, address, path)
        for viewport in (WIDE, PHONE):
            visit.look(viewport)
            if pictures:
                visit.photograph(str(Path(pictures, path.removesuffix('.html').replace('/', '_'))), viewport)
        if visit.faults:
            wrong[path] = visit.faults
        visit.page.close()
    assert not wrong, '\n'.join(f'{path}: {fault}' for path, faults in wrong.items() for fault in faults)


@BROWSER
def test_the_checks_find_faults(address, context):
    """The page of formulas has many; a formula that is not set, a wide part and a broken image are found."""
    visit = Visit(context, address, 'mathematics.html')
    visit.look(WIDE)
    assert not visit.faults
    page = visit.page
    assert page.locator('mjx-container').count() > 50
    page.evaluate("document.querySelector('mjx-container').remove()")
    assert any('formula not set' in fault for fault in page.evaluate(FAULTS))
    wide = "<p style='width: 5000px'>wide</p>"
    page.evaluate(f'document.querySelector("article").innerHTML += `{wide}`')
    assert any('scrolls sideways' in fault for fault in page.evaluate(FAULTS))
    page.evaluate("document.querySelector('article').append(Object.assign(new Image(), {src: 'none.png', alt: 'x'}))")
    assert any('broken image' in fault for fault in page.evaluate(FAULTS))
    page.evaluate("fetch('https://example.com/x.js').catch(() => null)")
    assert any('request to https://example.com' in fault for fault in visit.faults)
    page.close()


@BROWSER
def test_search_finds_a_function(address, context):
    visit = Visit(context, address, 'search.html?q=bucketed_rs_loss')
    visit.page.wait_for_selector('#search-results li')
    assert 'bucketed_rs_loss' in visit.page.locator('#search-results').inner_text() and not visit.faults
    visit.page.close()
