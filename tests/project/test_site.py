"""The built site in a real browser: every page, wide and on a phone, light and dark, without a network.

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

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
VIEWS = {
    'wide, light': dict(viewport=dict(width=1440, height=900), color_scheme='light'),
    'phone, light': dict(viewport=dict(width=390, height=844), color_scheme='light'),
    'wide, dark': dict(viewport=dict(width=1440, height=900), color_scheme='dark'),
    'phone, dark': dict(viewport=dict(width=390, height=844), color_scheme='dark'),
}
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
    if (page.scrollWidth > page.clientWidth) {
        const wide = [...document.querySelectorAll('article *')].filter(
            node => node.getBoundingClientRect().right > page.clientWidth + 1);
        faults.push(`scrolls sideways, ${page.scrollWidth} pixels of ${page.clientWidth}; `
            + wide.slice(0, 3).map(node => node.tagName + ' ' + node.textContent.slice(0, 60)).join(' / '));
    }
    return faults;
}"""

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium is installed (Debian: apt-get install chromium)'),
]


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in the base class)
        pass


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder of the built site."""
    for package in ('mmdet', 'sphinx', 'myst_parser', 'furo', 'sphinx-mathjax-offline', 'playwright'):
        pytest.importorskip(package)
    if folder := os.environ.get('SITE_FOLDER'):  # a site that is built already
        return Path(folder)
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', str(ROOT / 'docs'), str(folder)]
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
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp('browser')  # an empty profile, and nothing of the user's
    environment = {**os.environ, 'HOME': str(home), 'XDG_CONFIG_HOME': str(home), 'XDG_CACHE_HOME': str(home)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, env=environment)
        yield browser
        browser.close()


def open_page(context, address, path):
    """The page, and what went wrong with it."""
    page = context.new_page()
    faults: list[str] = []
    page.on('console', lambda message: message.type == 'error' and faults.append(f'console: {message.text}'))
    page.on('pageerror', lambda error: faults.append(f'script: {error}'))
    page.on('response', lambda response: response.status >= 400 and faults.append(f'{response.status} {response.url}'))

    def allow_local(route):
        if route.request.url.startswith((address, 'data:', 'blob:')):
            route.continue_()
        else:
            faults.append(f'request to {route.request.url}')
            route.abort()

    page.route('**/*', allow_local)
    page.goto(f'{address}/{path}', wait_until='load')
    faults += page.evaluate(FAULTS)
    # Tables that a click opens must fit, too.
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    faults += [f'with all details open: {fault}' for fault in page.evaluate(FAULTS) if fault not in faults]
    page.evaluate("document.querySelectorAll('article details').forEach(part => { part.open = false; })")
    return page, faults


@pytest.mark.timeout(900)
@pytest.mark.parametrize('view', VIEWS)
def test_every_page_in_a_browser(site, address, browser, view):
    paths = sorted(str(path.relative_to(site)) for path in site.rglob('*.html') if '_static' not in path.parts)
    assert len(paths) > 40
    pictures = os.environ.get('SITE_SCREENSHOTS')
    context = browser.new_context(**VIEWS[view])
    wrong = {}
    for path in paths:
        page, faults = open_page(context, address, path)
        if faults:
            wrong[path] = faults
        if pictures:
            name = f'{path.removesuffix(".html").replace("/", "_")}_{view.replace(", ", "_")}.png'
            page.screenshot(path=Path(pictures, name), full_page=True)
        page.close()
    context.close()
    assert not wrong


def test_formulas_are_looked_at(site, address, browser):
    """The page of formulas has many, and the check would find one that is not set."""
    context = browser.new_context()
    page, faults = open_page(context, address, 'mathematics.html')
    assert not faults
    assert page.locator('mjx-container').count() > 50
    page.evaluate("document.querySelector('mjx-container').remove()")
    assert any('formula not set' in fault for fault in page.evaluate(FAULTS))
    page.evaluate("document.querySelector('article').style.width = '5000px'")
    assert any('scrolls sideways' in fault for fault in page.evaluate(FAULTS))
    page.evaluate("document.querySelector('article').append(Object.assign(new Image(), {src: 'none.png', alt: 'x'}))")
    assert any('broken image' in fault for fault in page.evaluate(FAULTS))
    context.close()


def test_search_finds_a_function(site, address, browser):
    context = browser.new_context()
    page, faults = open_page(context, address, 'search.html?q=bucketed_rs_loss')
    page.wait_for_selector('#search-results li')
    assert page.locator('#search-results li').count() > 0 and not faults
    context.close()
