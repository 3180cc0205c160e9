"""configs/README.md and model-index.yml name every config, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_'}
TRAINED_HERE = ('configs/bccd/', 'configs/cards/', 'configs/shapes/', 'configs/study/')
README = (ROOT / 'configs/README.md').read_text()


def published():
    return {config for config in CONFIGS if not config.startswith(TRAINED_HERE)}


def test_readme_has_a_row_for_every_published_config():
    rows = re.findall(r'^\| \[(\S+)\]\((\S+)\) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$', README, re.MULTILINE)
    assert {f'configs/{row[1]}' for row in rows} == published() and len(rows) == len(published())
    for name, target, _, ap, seconds, run in rows:
        assert target == f'{name}.py'
        assert re.fullmatch(r'-|\d\d\.\d( \((mask|box)\))?', ap) and re.fullmatch(r'-|\d\.\d\d', seconds)
        assert run.startswith('step')


def test_readme_has_a_row_for_every_group_of_small_configs():
    groups = re.findall(r'^\| `(\w+/[\w-]+)_\*`', README, re.MULTILINE)
    of_studies = {f'configs/{name}.py' for name in re.findall(r'`(study/[\w-]+)`', README)}
    assert of_studies == {config for config in CONFIGS if config.startswith('configs/study/')}
    small = CONFIGS - published() - of_studies
    assert small == {config for config in small for group in groups if config.startswith(f'configs/{group}_')}
    assert all(any(config.startswith(f'configs/{group}_') for config in small) for group in groups)


def test_model_index_lists_every_published_config_and_invents_nothing():
    imports = load(ROOT / 'model-index.yml')['Import']
    found = {}
    for path in imports:
        content = load(ROOT / path)
        collections = {collection['Name'] for collection in content['Collections']}
        for model in content['Models']:
            assert model['In Collection'] in collections
            assert model['Name'] == Path(model['Config']).stem
            assert 'Weights' not in model and 'Results' not in model
            found[model['Config']] = model
    assert set(found) == published()
    from mmengine.config import Config

    for config, model in found.items():
        assert model['Metadata']['Epochs'] == Config.fromfile(ROOT / config).train_cfg.max_epochs


def test_model_index_satisfies_the_checks_of_mims_library():
    load_model_index = pytest.importorskip('modelindex.load_model_index', reason='pip install model-index')
    index = load_model_index.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert not index.check(silent=True)
    assert {model.config for model in index.models} == published()
