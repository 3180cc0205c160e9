"""README and docs: their Python runs, their configs build, their links and paths exist, the API page is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bucketed_losses

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
IDS = [page.name for page in PAGES]
BLOCKS = [
    pytest.param(block, id=f'{page.name}-{index}')
    for page in PAGES
    for index, block in enumerate(re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize('block', [block for block in BLOCKS if '_imports' not in block.values[0]])
def test_python_runs(block):
    exec(compile(block, 'docs', 'exec'), {})


@pytest.mark.parametrize('block', [block for block in BLOCKS if '_base_' in block.values[0]])
def test_configs_build(block):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    cfg = Config.fromstring(block, '.py')
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    losses = [type(module).__name__ for module in model.modules() if type(module).__name__ in block]
    assert losses, 'the loss that the page names is in the model'


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_links_and_paths_exist(page):
    text = page.read_text()
    for target in re.findall(r'\]\(([^)#\s]*)(?:#[^)\s]*)?\)', text):
        if target and not target.startswith('https://'):
            assert (page.parent / target).exists(), target
    for path in re.findall(r'\b(?:configs|tools|tests|docs|bucketed_losses)/[\w./-]+\.(?:py|md|sh)\b', text):
        assert (ROOT / path).exists(), path
    for target in re.findall(r'\bmake ([a-z-]+)\b', ''.join(re.findall(r'```bash\n(.*?)```', text, re.DOTALL))):
        assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE), target


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_anchors_exist(page):
    for target, anchor in re.findall(r'\]\(([^)#\s]*)#([^)\s]+)\)', page.read_text()):
        if target.startswith('https://'):
            continue
        headings = re.findall(r'^#+ (.*)$', ((page.parent / target) if target else page).read_text(), re.MULTILINE)
        slugs = {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}
        assert anchor in slugs, anchor


def public_names():
    from bucketed_losses import functional, processes, step_sums

    names = set(functional.__all__) | {'rank_positives', 'RankedPositives', 'identity_update', 'IdentityUpdate'}
    names |= {
        name
        for module in (processes, step_sums)
        for name, value in vars(module).items()
        if not name.startswith('_') and getattr(value, '__module__', None) == module.__name__
    }
    for module in (getattr(bucketed_losses, part, None) for part in ('datasets', 'engine', 'models')):
        names |= set(getattr(module, '__all__', ()))
    return sorted(names)


@pytest.mark.parametrize('name', public_names())
def test_api_page_is_complete(name):
    assert re.search(rf'`[^`]*\b{name}\b', (ROOT / 'docs/api.md').read_text())
