"""Converters of BCCD and the playing cards: small checkouts of the same layout, and the real files where they are."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import run_verb

pytest.importorskip('mmdet')

import cv2
from mmengine.config import Config

from bucketed_losses.errors import UserError
from bucketed_losses.mmdet.datasets.public_sets import BCCD_COUNTS, CARDS_COUNTS, convert_bccd, convert_cards
from bucketed_losses.mmdet.datasets.voc_to_coco import read_voc, to_coco

ROOT = Path(__file__).resolve().parents[3]


def write_voc(folder, image, size, objects):
    """An annotation as labelling tools write it; objects are ``(class, x1, y1, x2, y2)``."""
    boxes = ''.join(
        f'<object><name>{name}</name><pose>Unspecified</pose><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
        f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
        for name, x1, y1, x2, y2 in objects
    )
    width, height = size
    dimensions = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
    folder.mkdir(parents=True, exist_ok=True)
    text = f'<annotation><filename>{image}</filename>{dimensions}{boxes}</annotation>'
    (folder / f'{Path(image).stem}.xml').write_text(text)


def write_image(file, size):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert cv2.imwrite(str(file), pixels)


@pytest.fixture
def blood(tmp_path):
    """A checkout like BCCD_Dataset with four images; the lists are not in alphabetical order."""
    root = tmp_path / 'checkout/BCCD'
    objects = {
        'cell_3': [('WBC', 10, 10, 50, 40), ('RBC', -4, 30, 20, 52), ('RBC', 63, 10, 80, 30)],
        'cell_1': [('Platelets', 5, 5, 5, 5), ('RBC', 30, 30, 60, 90)],
        'cell_2': [('RBC', 1, 2, 3, 4)],
        'cell_4': [],
    }
    for name, boxes in objects.items():
        write_voc(root / 'Annotations', f'{name}.jpg', (64, 48), boxes)
        write_image(root / f'JPEGImages/{name}.jpg', (64, 48))
    lists = root / 'ImageSets/Main'
    lists.mkdir(parents=True)
    for split, names in {'train': ['cell_3', 'cell_1'], 'val': ['cell_2'], 'test': ['cell_4']}.items():
        (lists / f'{split}.txt').write_text('\n'.join(names) + '\n')
    return root.parent


@pytest.fixture
def cards(tmp_path):
    """A checkout like that of the cards: a small photograph, and a large one, whose name ends in capitals."""
    root = tmp_path / 'tutorial/images'
    write_voc(root / 'train', 'IMG_7.JPG', (960, 540), [('queen', 300, 30, 450, 270)])
    write_image(root / 'train/IMG_7.JPG', (960, 540))
    write_voc(root / 'test', 'cam_2.jpg', (200, 100), [('ten', 20, 10, 60, 90), ('ace', 0, 0, 200, 100)])
    write_image(root / 'test/cam_2.jpg', (200, 100))
    return root.parent


def test_bccd_as_coco(blood, tmp_path):
    sizes = convert_bccd(blood, tmp_path / 'out', counts=None)
    assert sizes == {'train': (2, 3), 'val': (1, 1), 'test': (1, 0)}
    train = json.loads((tmp_path / 'out/train.json').read_text())
    assert [(image['id'], image['file_name']) for image in train['images']] == [(0, 'cell_3.jpg'), (1, 'cell_1.jpg')]
    assert [(c['id'], c['name']) for c in train['categories']] == [(1, 'RBC'), (2, 'WBC'), (3, 'Platelets')]
    # The box that leaves the image is cut; the platelet without a size and what is left below two pixels are not there.
    found = [(a['id'], a['image_id'], a['category_id'], a['bbox'], a['area']) for a in train['annotations']]
    assert found == [
        (1, 0, 2, [10, 10, 40, 30], 1200),
        (2, 0, 1, [0, 30, 20, 18], 360),
        (3, 1, 1, [30, 30, 30, 18], 540),
    ]
    images = {file.name for file in (tmp_path / 'out/images').iterdir()}
    assert images == {f'cell_{n}.jpg' for n in (1, 2, 3, 4)}
    source = blood / 'BCCD/JPEGImages/cell_1.jpg'
    assert (tmp_path / 'out/images/cell_1.jpg').read_bytes() == source.read_bytes()


def test_cards_as_coco_are_reduced_with_their_boxes(cards, tmp_path):
    assert convert_cards(cards, tmp_path / 'out', counts=None) == {'train': (1, 1), 'val': (1, 2)}
    (train, val) = (json.loads((tmp_path / f'out/{split}.json').read_text()) for split in ('train', 'val'))
    assert train['images'] == [{'id': 1, 'file_name': 'train_IMG_7.jpg', 'width': 640, 'height': 360}]
    assert [a['bbox'] for a in train['annotations']] == [[200, 20, 100, 160]]
    assert [a['bbox'] for a in val['annotations']] == [[20, 10, 40, 80], [0, 0, 200, 100]]
    assert [a['category_id'] for a in val['annotations']] == [2, 6]
    shapes = {file.name: cv2.imread(str(file)).shape[:2] for file in (tmp_path / 'out/images').iterdir()}
    assert shapes == {'train_IMG_7.jpg': (360, 640), 'val_cam_2.jpg': (100, 200)}


@pytest.mark.parametrize('name', ['bccd', 'cards'])
def test_our_configs_read_what_is_written(name, request, tmp_path):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from bucketed_losses.mmdet.engine import replace_data_root

    source = request.getfixturevalue({'bccd': 'blood', 'cards': 'cards'}[name])
    {'bccd': convert_bccd, 'cards': convert_cards}[name](source, tmp_path / 'out', counts=None)
    cfg = Config.fromfile(ROOT / f'configs/{name}/atss_efficientnet-lite0_fpn_brs_1xb8-12e_{name}.py')
    init_default_scope('mmdet')
    replace_data_root(cfg, str(tmp_path / 'out'))
    for split, number in {'bccd': {'train': 2, 'val': 1}, 'cards': {'train': 1, 'val': 1}}[name].items():
        data = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(data) == number and len(data[0]['data_samples'].gt_instances) > 0


def test_the_command_refuses_another_version(blood, cards, tmp_path):
    known = {'bccd': '205 train, 87 val, 72 test', 'cards': '296 train, 67 val'}
    here = {'bccd': (blood, '2 train, 1 val, 1 test'), 'cards': (cards, '1 train, 1 val')}
    for name, (source, counts) in here.items():
        words = f'the data set has {known[name]} images, and this checkout has {counts}'
        with pytest.raises(UserError, match=words):
            run_verb('convert-data', name, source, '--out', tmp_path / name)
        assert not (tmp_path / name).exists()


def test_errors_name_the_file(blood, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(UserError, match=r'there is no file .*train\.txt; give the folder of a checkout'):
        convert_bccd(tmp_path, out)
    xml = blood / 'BCCD/Annotations/cell_2.xml'
    text = xml.read_text()
    for new, words in (
        (text.replace('RBC', 'XYZ'), "cell_2.jpg has a box of the class 'XYZ'; expected one of RBC, WBC, Platelets"),
        (text.replace('<xmax>3</xmax>', ''), 'cell_2.xml is not an annotation in VOC XML: it has no bndbox/xmax'),
        (text[:40], 'cell_2.xml is not an annotation in VOC XML: '),
    ):
        xml.write_text(new)
        with pytest.raises(UserError, match=re.escape(words)):
            convert_bccd(blood, out, counts=None)
    xml.unlink()
    with pytest.raises(UserError, match=r'there is no annotation .*cell_2\.xml'):
        convert_bccd(blood, out, counts=None)
    assert not out.exists() and not list(tmp_path.glob('.out-*'))
    out.mkdir()
    with pytest.raises(UserError, match='exists already; name a new folder'):
        convert_bccd(blood, out, counts=None)


def test_an_output_that_cannot_be_written(blood, tmp_path):
    (tmp_path / 'a_file').touch()
    for out, words in (
        (tmp_path / 'a_file', 'a_file exists already'),
        (tmp_path / 'a_file/below', 'a_file is a file, not a folder'),
        (Path('/proc/below'), '/proc/below cannot be written: |cannot write files to /proc'),
    ):
        with pytest.raises(UserError, match=words):
            convert_bccd(blood, out, counts=None)


def test_a_missing_image_is_named(cards, tmp_path):
    (cards / 'images/train/IMG_7.JPG').unlink()
    with pytest.raises(UserError, match=r'there is no file .*IMG_7\.JPG'):
        convert_cards(cards, tmp_path / 'out', counts=None)
    (cards / 'images/train/IMG_7.JPG').write_text('no image')
    with pytest.raises(UserError, match=r'IMG_7\.JPG cannot be read as an image'):
        convert_cards(cards, tmp_path / 'out', counts=None)
    assert not (tmp_path / 'out').exists()


def test_known_counts_are_those_of_the_converted_files(bccd_root, cards_root):
    for root, counts in ((bccd_root, BCCD_COUNTS), (cards_root, CARDS_COUNTS)):
        found = {split: len(json.loads(Path(root, f'{split}.json').read_text())['images']) for split in counts}
        assert found == counts


def as_voc(folder, root, split, names):
    """The annotations of a COCO file as VOC XML, an independent way back; the names of the images in their order."""
    content = json.loads(Path(root, f'{split}.json').read_text())
    classes = {category['id']: category['name'] for category in content['categories']}
    for image in content['images']:
        boxes = [a for a in content['annotations'] if a['image_id'] == image['id']]
        corners = [(classes[a['category_id']], *a['bbox'][:2], *np.add(a['bbox'][:2], a['bbox'][2:])) for a in boxes]
        write_voc(folder, image['file_name'], (image['width'], image['height']), corners)
        names.append(Path(image['file_name']).stem)
    return content


@pytest.mark.parametrize('data', ['bccd', 'cards'])
def test_the_converted_annotations_are_those_of_the_real_set(data, request, tmp_path):
    """COCO to VOC and back gives ids, order, classes and boxes of the real files."""
    root = request.getfixturevalue(f'{data}_root')
    names = []
    content = as_voc(tmp_path, root, 'val', names)
    images = [read_voc(tmp_path / f'{name}.xml') for name in names]
    classes = [category['name'] for category in content['categories']]
    made = to_coco(images, classes, first_image_id=content['images'][0]['id'])
    assert made['images'] == content['images'] and made['categories'] == content['categories']
    keys = ('id', 'image_id', 'category_id', 'bbox')
    assert [[a[key] for key in keys] for a in made['annotations']] == [
        [a[key] for key in keys] for a in content['annotations']
    ]


@pytest.mark.parametrize('data', ['bccd', 'cards'])
def test_a_checkout_of_the_public_repository(data, request, tmp_path):
    """The environment variable BCCD_CHECKOUT or CARDS_CHECKOUT names it: every split is that of the converted files."""
    source = os.environ.get(f'{data.upper()}_CHECKOUT')
    if source is None:
        pytest.skip(f'{data.upper()}_CHECKOUT does not name a checkout of the public repository')
    root = request.getfixturevalue(f'{data}_root')
    run_verb('convert-data', data, source, '--out', tmp_path / 'out')
    for split in {'bccd': BCCD_COUNTS, 'cards': CARDS_COUNTS}[data]:
        made, real = (json.loads((Path(folder) / f'{split}.json').read_text()) for folder in (tmp_path / 'out', root))
        for key in ('images', 'categories'):
            assert made[key] == real[key]
        keys = ('id', 'image_id', 'category_id', 'bbox', 'iscrowd')
        assert [[a[k] for k in keys] for a in made['annotations']] == [
            [a[k] for k in keys] for a in real['annotations']
        ]
        assert all((tmp_path / 'out/images' / image['file_name']).is_file() for image in made['images'])
