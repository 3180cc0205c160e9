"""Classes, images and boxes that do not fit: one line on stderr that says what to do, and exit status 2.

The data set is a few drawn squares (``tests/support/squares.py``).
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace

import pytest

pytest.importorskip('mmdet')

from launching import ROOT
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from squares import CLASSES, changed, data_set, drop_category, on_file, training

from bucketed_losses.errors import UserError

# Classes


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_a_file_with_fewer_classes(kind, split, data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'few.json', drop_category('square'))
    options = [*on_file(split, path), f'{split}_dataloader.dataset.type={kind}']
    words = (rf'{split}_dataloader.dataset: .*few\.json has no category for 1 of the 2 classes', 'square; it has dot')
    refused('train', training(data, tmp_path, *options), *words, 'num_classes')
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_a_file_with_fewer_classes_is_not_tested(data, trained, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'few.json', drop_category('square'))
    config, *options = training(data, tmp_path, *on_file('val', path))
    for tool in ('test', 'calibrate'):
        refused(tool, [config, trained, *options], r'few\.json has no category for 1 of the 2 classes.*: square;')


def reverse_categories(content):
    content['categories'].reverse()


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_a_file_with_categories_in_another_order(kind, split, data, tmp_path, refused):
    """MMDetection would label a square 0 in one file and 1 in the other."""
    path = changed(data / 'val.json', tmp_path / 'reversed.json', reverse_categories)
    options = [*on_file(split, path), f'{split}_dataloader.dataset.type={kind}']
    order = r'the categories in .*reversed\.json have the order dot, square, and metainfo\.classes has square, dot'
    refused('train', training(data, tmp_path, *options), rf'{split}_dataloader\.dataset: {order}', 'in this order; if')


def test_classes_in_another_order_are_not_tested(data, trained, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'reversed.json', reverse_categories)
    config, *options = training(data, tmp_path, *on_file('val', path))
    for tool in ('test', 'calibrate'):
        refused(tool, [config, trained, *options], r'reversed\.json have the order dot, square')


def test_classes_of_two_data_sets_in_another_order(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'reversed.json', reverse_categories)
    options = [*on_file('val', path), 'val_dataloader.dataset.metainfo.classes=[dot,square]']
    words = (
        r'val_dataloader\.dataset: metainfo\.classes has the order dot, square, and that of train_dataloader\.dataset '
        'has the order square, dot; write the same classes'
    )
    refused('train', training(data, tmp_path, *options), words)


def test_other_categories_between_those_of_the_classes(data, tmp_path):
    """Labels are in the order of the classes, also in Objects365, which sorts categories by their ids."""
    from bucketed_losses.mmdet.engine.config_checks import check_classes

    more = changed(data / 'val.json', tmp_path / 'a.json', lambda c: c['categories'].insert(1, dict(id=9, name='star')))
    for kind in ('CheckedCocoDataset', 'CocoDataset'):
        check_classes(Loops(data_set(kind, more)), ['train'])
    path = changed(data / 'val.json', tmp_path / 'reversed.json', reverse_categories)
    check_classes(Loops(data_set('Objects365V1Dataset', path)), ['train'])


WRAPPERS = {
    'dataset.dataset': lambda good, bad: dict(type='RepeatDataset', times=2, dataset=bad),
    'dataset.datasets.1': lambda good, bad: dict(type='ConcatDataset', datasets=[good, bad]),
    'dataset.dataset.dataset': lambda good, bad: dict(
        type='RepeatDataset', times=2, dataset=dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=bad)
    ),
}


class Loops:
    """What the checks of data use of a runner."""

    def __init__(self, dataset):
        self.cfg = Config(dict(train_dataloader=dict(dataset=dataset)))

    @cached_property
    def train_loop(self):
        init_default_scope('mmdet')
        dataset = DATASETS.build(self.cfg.train_dataloader.dataset)
        return SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))


@pytest.mark.parametrize('where', WRAPPERS)
def test_wrapped_data_sets(where, data, tmp_path):
    from bucketed_losses.mmdet.engine.config_checks import check_classes, check_not_empty

    def checked(path, **more):
        good, bad = (data_set('CocoDataset', file, **more) for file in (data / 'train.json', path))
        loops = Loops(WRAPPERS[where](good, bad))
        check_not_empty(loops, ['train'])
        check_classes(loops, ['train'])

    checked(data / 'val.json')
    few = changed(data / 'val.json', tmp_path / 'few.json', drop_category('dot'))
    with pytest.raises(
        UserError, match=rf'train_dataloader\.{where}: .*few\.json has no category for 1 of .*: dot; it'
    ):
        checked(few)
    none = changed(data / 'val.json', tmp_path / 'none.json', lambda content: content.update(images=[], annotations=[]))
    for serialize_data in (True, False):
        with pytest.raises(
            UserError, match=rf'train_dataloader\.{where}: CocoDataset has no images: .*none\.json contains none'
        ):
            checked(none, serialize_data=serialize_data)


def as_lvis(content):
    for image in content['images']:
        url = f'http://images.cocodataset.org/{image["file_name"]}'
        image.update(coco_url=url, neg_category_ids=[], not_exhaustive_category_ids=[])


@pytest.mark.parametrize('kind', ['LVISV1Dataset', 'CheckedLVISV1Dataset', 'CityscapesDataset'])
def test_classes_of_other_formats(kind, data, tmp_path):
    from bucketed_losses.mmdet.engine.config_checks import check_classes

    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    path = changed(data / 'val.json', tmp_path / 'lvis.json', as_lvis)
    check_classes(Loops(data_set(kind, path)), ['train'])
    with pytest.raises(
        UserError, match=r'lvis\.json has no category for 1 of the 3 classes .*: star; it has square, dot'
    ):
        check_classes(Loops(data_set(kind, path, classes=(*CLASSES, 'star'))), ['train'])


def test_what_works_is_not_refused(data, tmp_path):
    """More categories than classes, training data without annotations, and a class without objects."""
    from bucketed_losses.mmdet.engine.config_checks import check_classes, check_not_empty

    unlabeled = changed(data / 'val.json', tmp_path / 'a.json', lambda c: c.update(annotations=[], categories=[]))
    more = changed(data / 'val.json', tmp_path / 'b.json', lambda c: c['categories'].append(dict(id=9, name='star')))
    lonely = changed(data / 'val.json', tmp_path / 'c.json', lambda c: c.update(annotations=c['annotations'][::2]))
    datasets = [data_set('CheckedCocoDataset', path) for path in (unlabeled, more, lonely)]
    loops = Loops(dict(type='ConcatDataset', datasets=datasets))
    check_not_empty(loops, ['train'])
    check_classes(loops, ['train'])


# Images and boxes


def test_an_empty_validation_set(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'none.json', lambda c: c.update(images=[], annotations=[]))
    words = (r'val_dataloader\.dataset: CheckedCocoDataset has no images: .*none\.json contains none', 'filter_cfg')
    refused('train', training(data, tmp_path, *on_file('val', path)), *words)


def test_the_empty_one_of_several_data_sets_is_named(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'none.json', lambda c: c.update(images=[], annotations=[]))
    config = tmp_path / 'two.py'
    config.write_text(
        f"_base_ = '{data}/config.py'\n"
        'train_dataloader = dict(dataset=dict(_delete_=True, type="ConcatDataset", datasets=[\n'
        f'    dict(ann_file="train.json", **_base_.common), dict(ann_file="{path}", **_base_.common)]))\n'
    )
    words = r'train_dataloader\.dataset\.datasets\.1: CheckedCocoDataset has no images: .*none\.json contains none'
    refused('train', [config, '--work-dir', tmp_path / 'run'], words)


def small_images(content):
    for image in content['images']:
        image.update(width=1, height=1)
    for annotation in content['annotations']:
        annotation['bbox'][:2] = [5, 5]


def test_all_boxes_of_a_file_are_left_out(data, tmp_path, refused):
    path = changed(data / 'train.json', tmp_path / 'bad.json', small_images)
    words = r'bad\.json: none of its boxes can be used: 8 outside the image \(annotation ids 1, 2, 3, 4, 5, …\)'
    refused('train', training(data, tmp_path, *on_file('train', path)), words)


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CheckedCityscapesDataset'])
def test_a_bad_box_does_not_hide_wrong_class_names(kind, data, tmp_path, refused):
    def change(content):
        content['annotations'][1]['bbox'][2] = 0

    path = changed(data / 'train.json', tmp_path / 'bad.json', change)
    options = [f'{loop}_dataloader.dataset.metainfo.classes=[ring,star]' for loop in ('train', 'val')]
    options.append(f'train_dataloader.dataset.type={kind}')
    words = r'bad\.json has no category for 2 of the 2 classes of the config: ring, star; it has square, dot'
    refused('train', training(data, tmp_path, *on_file('train', path), *options), words)


def test_all_boxes_are_on_other_images(data, tmp_path):
    def change(content):
        for annotation in content['annotations']:
            annotation['image_id'] = 99

    path = changed(data / 'train.json', tmp_path / 'bad.json', change)
    with pytest.raises(UserError, match=r'none of its boxes can be used: 8 on an image that the file does not have'):
        DATASETS.build(data_set('CheckedCocoDataset', path))


def relative_boxes(content):
    for annotation in content['annotations']:
        annotation['bbox'] = [value / 64 for value in annotation['bbox']]


def without_area(content):
    for annotation in content['annotations']:
        annotation['area'] = 0


@pytest.mark.parametrize(
    'change, words', [(relative_boxes, 'smaller than a pixel'), (without_area, 'of zero (or negative )?area')]
)
@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_no_box_is_large_enough_to_train_on(kind, change, words, data, tmp_path, refused):
    """Coordinates from 0 to 1, or no area, which MMDetection leaves out in silence."""
    path = changed(data / 'train.json', tmp_path / 'bad.json', change)
    options = [*on_file('train', path), f'train_dataloader.dataset.type={kind}']
    message = {
        'CheckedCocoDataset': rf'bad\.json: none of its boxes can be used: 8 {words}',
        'CocoDataset': rf'there is no object to train on in .*bad\.json.* {words}',
    }
    refused('train', training(data, tmp_path, *options), message[kind])


def lose(content):
    content['annotations'][0]['category_id'] = 7
    content['annotations'][1]['image_id'] = 99
    content['annotations'][2].update(category_id='1', bbox=[0, 0, 0, 0])


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CheckedLVISV1Dataset', 'CheckedCityscapesDataset'])
def test_lost_objects_are_counted(kind, data, tmp_path, monkeypatch):
    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    logged = []
    where = 'bucketed_losses.mmdet.datasets.checked_coco.print_log'
    monkeypatch.setattr(where, lambda message, *args: logged.append(message))
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: (as_lvis(c), lose(c)))
    built = DATASETS.build(data_set(kind, path))
    assert sum(len(built.get_data_info(index)['instances']) for index in range(len(built))) == 5
    (warning,) = logged
    assert '1 on an image that the file does not have (annotation ids 2)' in warning
    assert '2 of a category that the file does not have (annotation ids 1, 3)' in warning
    assert 'zero' not in warning  # each is counted once


TWICE = {
    'the same category id occurs more than once: 1$': lambda c: c['categories'].append(dict(id=1, name='star')),
    'the same category name occurs more than once: dot$': lambda c: c['categories'].append(dict(id=3, name='dot')),
    'the same image id occurs more than once: 2, 3$': lambda c: c['images'].extend(c['images'][1:3]),
}


@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CheckedLVISV1Dataset', 'CheckedCityscapesDataset'])
@pytest.mark.parametrize('words', TWICE)
def test_the_same_id_twice(words, kind, data, tmp_path):
    if 'LVIS' in kind:
        pytest.importorskip('lvis')
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: (as_lvis(c), TWICE[words](c)))
    with pytest.raises(UserError, match=words):
        DATASETS.build(data_set(kind, path))


@pytest.mark.parametrize('words', TWICE)
def test_the_same_id_twice_by_command_line(words, data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'bad.json', TWICE[words])
    refused('train', training(data, tmp_path, *on_file('val', path)), rf'bad\.json: {words}')


def test_an_unused_category_name_may_occur_twice(data, tmp_path):
    def twice(content):
        content['categories'] += [dict(id=8, name='star'), dict(id=9, name='star')]

    path = changed(data / 'val.json', tmp_path / 'a.json', twice)
    assert len(DATASETS.build(data_set('CheckedCocoDataset', path))) == 4


@pytest.mark.parametrize('field', ['category_id', 'bbox', 'area', 'image_id'])
def test_an_annotation_without_a_field(field, data, tmp_path, refused):
    path = changed(data / 'train.json', tmp_path / 'bad.json', lambda c: c['annotations'][2].pop(field))
    refused('train', training(data, tmp_path, *on_file('train', path)), rf'bad\.json: annotation 3 has no {field}$')


def without(field):
    return lambda content: [annotation.pop(field) for annotation in content['annotations'][2:]]


@pytest.mark.parametrize('tool', ['train', 'test'])
@pytest.mark.parametrize('kind', ['CheckedCocoDataset', 'CocoDataset'])
def test_annotations_that_cannot_be_evaluated(kind, tool, data, trained, tmp_path, refused):
    """pycocotools would raise a KeyError after the first epoch, or after all images were tested."""
    path = changed(data / 'val.json', tmp_path / 'bad.json', without('iscrowd'))
    types = [f'{loop}_dataloader.dataset.type={kind}' for loop in ('val', 'test')]
    config, *options = training(data, tmp_path, *on_file('val', path), *types)
    loop = 'val' if tool == 'train' else 'test'
    words = rf'{loop}_evaluator: .*bad\.json: annotation 3 has no iscrowd, which the evaluation needs'
    refused(tool, [config, *([trained] if tool == 'test' else []), *options], words)
    assert not list((tmp_path / 'run').glob('epoch_*.pth'))


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_annotations_of_another_data_set(tool, data, trained, tmp_path, refused):
    """MMDetection would raise an IndexError after the first epoch, or take one class for another."""
    other = changed(data / 'val.json', tmp_path / 'other.json', lambda c: c['categories'][0].update(name='nut'))
    turned = changed(data / 'val.json', tmp_path / 'turned.json', lambda c: c['categories'].reverse())
    loop = 'val' if tool == 'train' else 'test'
    for path, words in (
        (other, rf'{loop}_evaluator: .*other\.json has no category for 1 of the \d classes of the data set: '),
        (turned, rf'{loop}_evaluator: .*turned\.json: the categories have the order .*, and the classes of the data '),
    ):
        config, *options = training(data, tmp_path, f'{loop}_evaluator.ann_file={path}')
        refused(tool, [config, *([trained] if tool == 'test' else []), *options], words)


def from_zero(content):
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = number


def test_an_annotation_with_the_id_0_is_a_warning(data, trained, tmp_path, command, monkeypatch):
    """pycocotools takes it for no object."""
    logged = []
    where = 'bucketed_losses.mmdet.engine.config_checks.print_log'
    monkeypatch.setattr(where, lambda message, *args: logged.append(message))
    path = changed(data / 'val.json', tmp_path / 'zero.json', from_zero)
    config, *options = training(data, tmp_path, *on_file('val', path))
    assert command('test', config, trained, *options)[0] == 0
    (warning,) = logged
    assert f'test_evaluator: {path}: an annotation has the id 0' in warning
    assert command('test', config, trained, '--work-dir', tmp_path / 'run')[0] == 0
    assert len(logged) == 1


def named_images(content):
    for image in content['images']:
        image['id'] = f'img_{image["id"]}'
    for annotation in content['annotations']:
        annotation['image_id'] = f'img_{annotation["image_id"]}'


def named_annotations(content):
    for annotation in content['annotations']:
        annotation['id'] = f'a{annotation["id"]}'


def test_ids_that_are_strings(data, trained, tmp_path, command, refused):
    """Those of images are allowed; pycocotools needs numbers for those of annotations."""
    path = changed(data / 'val.json', tmp_path / 'images.json', named_images)
    config, *options = training(data, tmp_path, *on_file('val', path))
    assert command('test', config, trained, *options)[0] == 0
    path = changed(data / 'val.json', tmp_path / 'annotations.json', named_annotations)
    words = r"test_evaluator: .*annotations\.json: the id of an annotation is 'a1', and the evaluation needs numbers"
    refused('test', [config, trained, *training(data, tmp_path, *on_file('val', path))[1:]], words)


def test_the_second_of_two_metrics_is_named(data, tmp_path, refused):
    path = changed(data / 'val.json', tmp_path / 'bad.json', without('area'))
    config = tmp_path / 'two.py'
    good, bad = (f"dict(type='CocoMetric', ann_file={str(file)!r})" for file in (data / 'val.json', path))
    config.write_text(f"_base_ = '{data}/config.py'\nval_evaluator = [{good}, {bad}]\n")
    refused('train', [config, '--work-dir', tmp_path / 'run'], r'val_evaluator: .*bad\.json: annotation 3 has no area')


def test_fields_that_only_the_evaluation_needs(data, trained, tmp_path, command):
    """Training data need no iscrowd, and a metric without a file takes the objects from the data set."""
    path = changed(data / 'val.json', tmp_path / 'a.json', without('iscrowd'))
    assert command('train', *training(data, tmp_path, *on_file('train', path), 'train_cfg.max_epochs=1'))[0] == 0
    keys = 'img_id,ori_shape,img_shape,scale_factor,instances'
    options = [f'test_dataloader.dataset.pipeline.3.meta_keys=[{keys}]', 'test_evaluator.ann_file=None']
    options.append(f'test_dataloader.dataset.ann_file={path}')
    config, *options = training(data, tmp_path, *options)
    assert command('test', config, trained, *options)[0] == 0


def test_a_test_set_without_annotations(data, trained, tmp_path, command):
    """As COCO's test-dev: detections are written to a file for a server."""
    path = changed(data / 'val.json', tmp_path / 'a.json', lambda content: content.pop('annotations'))
    out = tmp_path / 'found'
    options = [f'test_evaluator.{key}' for key in (f'ann_file={path}', 'format_only=True', f'outfile_prefix={out}')]
    config, *options = training(data, tmp_path, *options)
    assert command('test', config, trained, *options)[0] == 0
    assert (tmp_path / 'found.bbox.json').is_file()


@pytest.mark.parametrize('kind', ['LVISV1Dataset', 'VOCDataset'])
def test_data_that_cannot_be_calibrated_on(kind, data, trained, tmp_path, refused, monkeypatch):
    """Refused before any image is tested."""
    from mmengine.runner import Runner

    monkeypatch.setattr(Runner, 'test', lambda runner: pytest.fail('images were tested'))
    if kind == 'LVISV1Dataset':
        pytest.importorskip('lvis')
        path = changed(data / 'val.json', tmp_path / 'a.json', as_lvis)
        words = 'LVISV1Dataset: LVIS does not annotate all objects'
    else:
        path, words = tmp_path / 'a.txt', r'VOCDataset needs COCO-style annotations in a \.json file, got .*a\.txt'
        path.write_text('1\n')
        (tmp_path / 'Annotations').mkdir()
        (tmp_path / 'Annotations/1.xml').write_text(
            '<annotation><size><width>64</width><height>64</height></size></annotation>'
        )
    options = [f'val_dataloader.dataset.{key}' for key in (f'type={kind}', f'ann_file={path}')]
    if kind == 'VOCDataset':
        options += [f'val_dataloader.dataset.{key}' for key in (f'data_root={tmp_path}/', 'data_prefix.sub_data_root=')]
    config, *options = training(data, tmp_path, *options)
    refused('calibrate', [config, trained, *options], rf'the maps cannot be fitted on the validation set: {words}')


@pytest.mark.parametrize('number', [0, -1])
def test_maps_of_classes_without_matches(number, data, trained, refused):
    arguments = [data / 'config.py', trained, f'--min-matches={number}']
    refused('calibrate', arguments, f'--min-matches must be at least 1, got {number}$')


def test_missing_data_say_where_to_get_them(tmp_path, refused):
    pytest.importorskip('efficientnet_lite_pytorch')
    config = ROOT / 'configs/bccd/atss_efficientnet-lite0_fpn_brs_1xb8-12e_bccd.py'
    arguments = [config, '--work-dir', tmp_path / 'run', '--cfg-options', f'data_root={tmp_path}']
    refused('train', arguments, 'annotation file .*train.json does not exist', 'BCCD_ROOT')
