"""What docs/versioning.md promises: public modules, deprecations and their removals."""

from __future__ import annotations

import linecache
import pkgutil
import re
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import bucketed_losses
from bucketed_losses import deprecation
from bucketed_losses.deprecation import Deprecation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/versioning.md').read_text()
needs_mmdet = pytest.mark.skipif(find_spec('mmdet') is None, reason='needs MMDetection')


def section(name):
    """The lines between the marks of a generated or compared part of the page."""
    return re.search(rf'<!-- begin: {name} -->\n(.*?)<!-- end -->', PAGE, re.DOTALL)[1].strip().splitlines()


def version(text):
    return tuple(map(int, text.split('.')))


@pytest.fixture(scope='module')
def planned():
    """The deprecations of all modules of the package."""
    for name in ('mmdet', 'pandas', 'matplotlib'):
        pytest.importorskip(name)
    for module in pkgutil.walk_packages(bucketed_losses.__path__, 'bucketed_losses.'):
        if not module.name.endswith('__main__'):
            import_module(module.name)
    return list(deprecation.PLANNED)


def test_the_page_lists_the_planned_removals(planned):
    expected = [
        '| what | instead | deprecated since | removed in |',
        '|---|---|---|---|',
        *(f'| `{item.name}` | {item.instead} | {item.since} | {item.removal} |' for item in planned),
    ]
    assert sorted(section('planned removals')) == sorted(expected)


def test_a_removal_comes_two_minor_versions_later_and_in_time(planned):
    current = version(bucketed_losses.__version__)
    for item in planned:
        since, removal = version(item.since), version(item.removal)
        assert len(since) == len(removal) == 3 and removal[2] == 0
        assert removal[0] > since[0] or removal[1] >= since[1] + 2, item
        assert removal > current, f'{item.name} must be removed now: {item}'


def test_every_deprecation_is_declared():
    """No other file warns of its own, without a version of removal."""
    for path in (ROOT / 'bucketed_losses').rglob('*.py'):
        if path.name != 'deprecation.py' and '.mim' not in path.parts:
            assert not re.search(r'\b(Future|Deprecation|PendingDeprecation)Warning\b', path.read_text()), path


@needs_mmdet
@pytest.mark.parametrize('name', ['datasets', 'engine', 'evaluation', 'models'])
def test_old_places_of_the_plugin(name, monkeypatch):
    import bucketed_losses.mmdet

    with pytest.warns(FutureWarning) as record:
        assert getattr(bucketed_losses, name) is getattr(bucketed_losses.mmdet, name)
    assert record[0].filename == __file__
    assert str(record[0].message) == (
        f'bucketed_losses.{name} is deprecated since version 0.2.0 and will be removed in version 0.4.0: '
        f'use bucketed_losses.mmdet.{name}'
    )


@needs_mmdet
def test_what_a_config_calls_is_not_deprecated():
    import bucketed_losses.mmdet

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert bucketed_losses.swap_here is bucketed_losses.mmdet.swap_here
        assert bucketed_losses.swap_loss is bucketed_losses.mmdet.swap_loss


def test_a_warning_points_at_the_use(monkeypatch):
    monkeypatch.setattr(deprecation, 'PLANNED', [])
    item = Deprecation('old()', 'call new()', since='0.2.0', removal='0.4.0')
    assert [item] == deprecation.PLANNED

    def old():
        item.warn()

    with pytest.warns(
        FutureWarning, match=r'old\(\) is deprecated .* removed in version 0\.4\.0: call new\(\)'
    ) as record:
        old()
    assert record[0].filename == __file__ and linecache.getline(__file__, record[0].lineno).strip() == 'old()'


@pytest.mark.parametrize('line', section('public modules'))
def test_public_modules_declare_their_names(line):
    names = re.findall(r'`([\w.]+)`', line)
    if '.mmdet' in names[0] or len(names) > 1:
        pytest.importorskip('mmdet')
    module = import_module(names[0])
    assert module.__all__ and all(hasattr(module, name) for name in module.__all__)
    for name in names[1:]:
        assert name.rpartition('.')[0] == names[0] and hasattr(module, name.rpartition('.')[2])
