"""README and docs: their Python runs, their configs build, their links and paths exist, the API page is complete."""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from public_names import public_modules, public_names

from bucketed_losses.cli.main import VERBS, main

ROOT = Path(__file__).resolve().parents[2]
SITE = sorted(page for page in (ROOT / 'docs').rglob('*.md') if '_build' not in page.parts)
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *SITE]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Pages whose blocks are files or steps of one example, and the tests that run them in that way.
TESTED_ELSEWHERE = {
    'docs/brs_detr_on_your_data.md': 'test_walk_throughs.py',
    'docs/slurm.md': 'test_walk_throughs.py',
    'docs/export.md': 'test_export.py',
}

# Where pages tell the reader to save configs; tests/project/test_walk_throughs.py builds them.
OF_THE_READER = 'configs/mine/'


def code_blocks(page):
    """The Python of a page; a diff of a config counts as the file after it."""
    for kind, block in re.findall(r'```(python|diff)\n(.*?)```', page.read_text(), re.DOTALL):
        if kind == 'diff' and '_base_' not in block:
            continue
        yield block if kind == 'python' else ''.join(re.findall(r'^[ +](.*\n)', block, re.MULTILINE))


BLOCKS = [
    pytest.param(block, id=f'{page.relative_to(ROOT)}-{index}')
    for page in PAGES
    for index, block in enumerate(code_blocks(page))
    if str(page.relative_to(ROOT)) not in TESTED_ELSEWHERE
]


def is_config(block):
    return any(word in block for word in ('_base_', '_imports'))


def is_head(block):
    """A head that registers itself, which tests/project/test_contributing.py runs in a process of its own."""
    return '@ranking_head(' in block


@pytest.mark.parametrize(
    'block', [block for block in BLOCKS if not is_config(block.values[0]) and not is_head(block.values[0])]
)
def test_python_runs(block):
    if 'mmengine' in block:
        pytest.importorskip('mmdet')
    exec(compile(block, 'docs', 'exec'), {})


@pytest.mark.parametrize(('page', 'number'), [('pytorch', 3), ('compat', 2)])
def test_examples_in_plain_pytorch_need_torch_only(page, number):
    """Everything that MMDetection brings along cannot be imported there."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / f'docs/{page}.md').read_text(), re.DOTALL)
    assert len(blocks) == number
    without = """
import importlib.util, sys
for name in ('mmdet', 'mmcv', 'mmengine', 'numpy', 'scipy', 'torchvision', 'pycocotools'):
    sys.modules[name] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == 'mmdet' else find(name, *a)
"""
    code = without + '\n'.join(f'exec({block!r}, {{}})' for block in blocks)
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


# Shell blocks, run by bash with every program replaced by one that says what it was called with.
PROGRAMS = [
    'python',
    '.venv/bin/python',
    'bucketed-losses',
    'pip',
    'make',
    'mim',
    'sbatch',
    'srun',
    'scancel',
    'squeue',
    'sinfo',
    'tail',
    'torchrun',
    'pytest',
    'git',
    'tensorboard',
    'source',
    'activate',
    'tools/dist_train.sh',
    'tools/dist_test.sh',
    'tools/slurm_train.sh',
    'tools/slurm_test.sh',
    'mpirun',
    'nvidia-smi',
    'apt-get',
]
STUBS = '\n'.join(f"{name}() {{ printf '%s\\x1f' {name} \"$@\"; printf '\\x1e'; }}" for name in PROGRAMS)


def calls_in(page):
    """``(program, arguments)`` of everything that the shell blocks of a page would run."""
    for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.DOTALL):
        result = subprocess.run(['bash', '-c', f'{STUBS}\n{block}'], capture_output=True, text=True, cwd=ROOT)
        assert 'not found' not in result.stderr and 'syntax error' not in result.stderr, (block, result.stderr)
        for call in result.stdout.split('\x1e'):
            if call.strip():
                program, *arguments = call.strip('\n').split('\x1f')[:-1]
                yield program.split('\n')[-1], arguments


class Parsed(BaseException):
    """The command line was accepted."""


def parse_only(self, args=None, namespace=None):
    self.parse_known_args(args, namespace)
    _, unknown = self.parse_known_args(args, namespace)
    if unknown:
        self.error(f'unrecognized arguments: {unknown}')
    raise Parsed


def configs_of(call):
    return [a for a in call if re.fullmatch(r'(configs|mmdet::)\S+\.py', a)]


@pytest.mark.parametrize('page', PAGES, ids=IDS)
def test_commands_are_accepted(page, monkeypatch):
    """Every command of the page reaches a tool that is there, with arguments that it takes and configs that exist."""
    calls = list(calls_in(page))
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_only)
    monkeypatch.chdir(ROOT)
    for program, arguments in calls:
        for config in configs_of(arguments):
            if '::' not in config and not config.startswith(OF_THE_READER):
                assert (ROOT / config).is_file(), config
        if program == 'make':
            assert all(a in targets or '=' in a for a in arguments), arguments
        if program.endswith('.sh'):
            assert (ROOT / program).is_file()
        if program == 'bucketed-losses':
            if arguments[0] in VERBS and arguments[0] != 'doctor':
                pytest.importorskip('mmdet')
            with pytest.raises((Parsed, SystemExit) if '--help' in arguments else Parsed):
                main(arguments)
        if program.endswith('python') and arguments[0].endswith('.py'):
            pytest.importorskip('mmdet')
            assert (ROOT / arguments[0]).is_file(), arguments
            monkeypatch.setattr(sys, 'argv', arguments)
            monkeypatch.syspath_prepend(str(ROOT / Path(arguments[0]).parent))
            with pytest.raises(Parsed):
                runpy.run_path(str(ROOT / arguments[0]), run_name='__main__')


@pytest.mark.slow
def test_readme_commands_as_pasted(tmp_path):
    """In a fresh clone, one after the other, and then all of them again: about twelve minutes, set-up aside."""
    clone = tmp_path / 'clone'
    subprocess.run(['git', 'clone', '-q', ROOT, clone], check=True)
    (clone / '.venv').symlink_to(ROOT / '.venv')
    blocks = re.findall(r'```bash\n(.*?)```', (clone / 'README.md').read_text(), re.DOTALL)
    # The environment of this project stands in for the one that make would build.
    make = f'make() {{ [ "$1" = demo ] && PYTHONPATH={clone} .venv/bin/python -m bucketed_losses demo; }}'
    command = 'bucketed-losses() { python -m bucketed_losses "$@"; }'
    script = f'set -e\nexport PYTHONPATH={clone}\n{make}\n{command}\n' + '\n'.join(2 * blocks)
    result = subprocess.run(['bash', '-c', script], cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize('block', [block for block in BLOCKS if re.search(r'^_base_ =', block.values[0], re.MULTILINE)])
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
        assert (ROOT / path).exists() or path.startswith(OF_THE_READER), path
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


def test_api_pages_name_every_public_module():
    pages = ''.join(page.read_text() for page in (ROOT / 'docs/api').glob('*.md'))
    missing = [module for module in public_modules() if not re.search(rf'^.. automodule:: {module}$', pages, re.M)]
    assert not missing


def test_every_public_name_of_models_is_public_in_a_part_of_it():
    """The pages document the parts of models: no name is in the whole alone."""
    models = pytest.importorskip('bucketed_losses.mmdet.models')
    parts = {name.rpartition('.')[2] for name in public_names() if '.mmdet.models.' in name}
    assert set(models.__all__) - parts == {'pairing', 'refusals'}


@pytest.mark.parametrize('name', sorted(public_names()))
def test_every_public_name_has_a_docstring(name):
    module, _, attribute = name.rpartition('.')
    value = getattr(import_module(module), attribute)
    if callable(value):
        assert value.__doc__


def test_the_model_zoo_is_up_to_date():
    pytest.importorskip('mmengine')
    import report_model_zoo

    text = report_model_zoo.PAGE.read_text()
    assert report_model_zoo.page(text) == text, 'python tools/benchmarks/report_model_zoo.py'
