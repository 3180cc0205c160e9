"""configs/README.md and model-index.yml name every config, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/*.py') if path.parent.name != '_base_'}
TRAINED_HERE = ('configs/bccd/', 'configs/shapes/')
README = (ROOT / 'configs/README.md').read_text()


def published():
    return {config for config in CONFIGS if not config.startswith(TRAINED_HERE)}


def test_readme_has_a_row_for_every_published_config():
    rows = re.findall(r'^\| \[(\S+)\]\((\S+)\) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$', README, re.MULTILINE)
    assert {f'configs/{row[1]}' for row in rows} == published() and len(rows) == len(published())
    for name, target, _, ap, seconds, run in rows:
        assert target == f'{name}.py'
        assert re.fullmatch(r'-|\d\d\.\d( \(mask\))?', ap) and re.fullmatch(r'-|\d\.\d\d', seconds)
        assert run.startswith('step')


def test_readme_has_a_row_for_every_group_of_small_configs():
    groups = re.findall(r'^\| `(\w+/[\w-]+)_\*`', README, re.MULTILINE)
    small = CONFIGS - published()
    assert small == {config for config in small for group in groups if config.startswith(f'configs/{group}_')}
    assert all(any(config.startswith(f'configs/{group}_') for config in small) for group in groups)


def test_paper_figures_are_the_papers():
    """A few of Tables 1, 3, 4, 5, 7 and 8, written out once more."""
    for name, ap, seconds in [
        ('faster-rcnn_r50_fpn_brs_4xb4-1x_coco', '39.5', '0.17'),
        ('faster-rcnn_r101-mdconv-c3-c5_fpn_rs_4xb4-ms-480-960-3x_coco', '47.3', '0.75'),
        ('cascade-rcnn_r50_fpn_rs_4xb4-1x_coco', '41.1', '1.28'),
        ('cascade-rcnn_r50_fpn_brs_4xb4-36e_coco', '42.3', '-'),
        ('mask-rcnn_r50_fpn_brs_4xb4-27e_coco', '37.3 (mask)', '-'),
        ('mask-rcnn_r50_fpn_brs_4xb4-sample1e-3-ms-1x_lvis-v1', '25.8 (mask)', '0.35'),
        ('paa_r50_fpn_bap_4xb4-1x_coco', '37.2', '0.30'),
        ('retinanet_r50_fpn_brs_4xb4-1x_coco', '38.3', '0.23'),
        ('atss_r50_fpn_4xb4-1x_coco', '39.3', '0.14'),
        ('co-deformable-detr_swin-l_8xb2-12e_coco', '56.9', '-'),
        ('brs-detr_r50_8xb2-12e_coco', '50.1', '0.69'),
        ('brs-detr_swin-t_8xb2-12e_coco', '52.3', '-'),
        ('rs-detr_r50_8xb2-12e_coco', '-', '4.14'),
    ]:
        assert re.search(rf'/{re.escape(name)}\.py\) \| .* \| {re.escape(ap)} \| {seconds} \|', README), name


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
