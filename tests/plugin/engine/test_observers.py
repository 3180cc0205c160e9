"""What only observes a training warns once and lets the training go on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('mmdet')

import torch
from gloo import on_processes
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from small_anchor_heads import build_head, loss_of

from bucketed_losses.mmdet.engine import RankingVisualizationHook
from bucketed_losses.mmdet.engine.observers import ObserverGuard
from bucketed_losses.mmdet.evaluation import RankedBatch, precision_recall, ranking_pictures

CLASSES = ('disc', 'square')
DISK_FULL = OSError(28, 'No space left on device')


class Visualizer:
    """Keeps what it is given, or fails as a backend on a full disk does."""

    def __init__(self, full=False):
        self.full, self.images, self.scalars = full, [], {}

    def add_image(self, name, image, step=0):
        if self.full:
            raise DISK_FULL
        self.images.append(name)

    def add_scalar(self, name, value, step=0):
        if self.full:
            raise DISK_FULL
        self.scalars[name] = value


def coco_json(folder, categories=CLASSES):
    content = dict(
        images=[dict(id=1, width=64, height=64)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(categories)],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 20, 20], area=400, iscrowd=0)],
    )
    path = folder / 'val.json'
    path.write_text(json.dumps(content))
    return path


def runner_for(model=None, full=False, dataset=None):
    warnings = []
    logger = SimpleNamespace(info=lambda text: None, warning=warnings.append)
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        model=model,
        visualizer=Visualizer(full),
        logger=logger,
        warnings=warnings,
        epoch=0,
        _train_loop=None,
        val_dataloader=loader,
        test_dataloader=loader,
    )


@pytest.fixture
def warned(monkeypatch):
    messages = []
    name = 'bucketed_losses.mmdet.engine.observers.print_log'
    monkeypatch.setattr(name, lambda message, *args: messages.append(message))
    return messages


def train_epoch(hook, runner, iterations=1):
    """The calls of a training epoch around the head's losses."""
    losses = None
    for index in range(iterations):
        hook.before_train_iter(runner, index)
        losses = loss_of(runner.model)
        hook.after_train_iter(runner, index)
    hook.after_train_epoch(runner)
    return losses


def test_a_full_disk_costs_the_pictures_alone(warned):
    hook, runner = RankingVisualizationHook(interval=1), runner_for(build_head(), full=True)
    for _ in range(3):
        train_epoch(hook, runner)
    assert len(warned) == 2, 'one for the image, one for the scalars, and no repetition'
    assert 'RankingVisualizationHook could not draw the logits: OSError' in warned[0]
    assert 'No space left on device' in warned[0] and 'The run continues' in warned[0]
    runner.visualizer.full = False
    train_epoch(hook, runner)
    assert runner.visualizer.images == ['logits'] and len(warned) == 2


def test_logits_that_are_not_finite_are_left_out(warned):
    logits = torch.tensor([[1.0, torch.nan], [torch.inf, -torch.inf], [-2.0, 3.0]])
    targets = torch.tensor([[0.7, 0.0], [0.9, 0.0], [0.0, 0.0]])
    counts = ranking_pictures.count_logits(logits, targets)
    assert counts.sum(dim=1).tolist() == [2, 1]
    hook, runner = RankingVisualizationHook(), runner_for()
    error = dict(loss_rank=torch.tensor(torch.nan))
    hook._look(RankedBatch('loss_cls', logits, targets, error))
    hook._look(RankedBatch('loss_cls', logits, targets, dict(loss_rank=torch.tensor(0.25))))
    hook.after_train_epoch(runner)
    assert runner.visualizer.images == ['logits'] and runner.visualizer.scalars == {'ranking_error/loss_cls': 0.25}
    assert '6 logits of loss_cls are not finite' in runner.warnings[0] and not warned
    hook._look(RankedBatch('loss_cls', logits, targets, error))
    hook.after_train_epoch(runner)
    assert list(runner.visualizer.scalars) == ['ranking_error/loss_cls'] and not warned


def test_nan_logits_reach_the_hook_that_names_them(warned):
    """The forward pass of a network that has diverged does not end in the observer."""
    head = build_head('BucketedAPLoss')
    hook, runner = RankingVisualizationHook(interval=1), runner_for(head)
    hook.before_train_iter(runner, 0)
    entries = torch.full((4, 3), torch.nan)
    head.loss_cls(entries, torch.tensor([0, 3, 3, 3]))
    hook.after_train_iter(runner, 0)
    hook.after_train_epoch(runner)
    assert runner.visualizer.images == ['logits'] and not warned


def test_a_batch_whose_entries_are_all_ignored(warned):
    hook, runner = RankingVisualizationHook(), runner_for()
    hook._look(RankedBatch('loss_cls', torch.zeros(4, 2), torch.full((4, 2), -1.0), {}))
    hook.after_train_epoch(runner)
    assert runner.visualizer.images == ['logits'] and not warned


def test_an_error_while_looking_stays_out_of_the_forward_pass(warned, monkeypatch):
    def fail(*args):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(ranking_pictures, 'count_logits', fail)
    hook, runner = RankingVisualizationHook(interval=1), runner_for(build_head())
    losses = train_epoch(hook, runner, iterations=2)
    plain = loss_of(build_head())
    assert all(torch.equal(losses[key], plain[key]) for key in plain)
    (warning,) = warned
    assert 'could not look at a batch: RuntimeError: out of memory' in warning


def sample(image_id=1, labels=(0,)):
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0]]).repeat(len(labels), 1)
    detected = InstanceData(bboxes=boxes, labels=torch.tensor(labels), scores=torch.full((len(labels),), 0.9))
    return DetDataSample(metainfo=dict(img_id=image_id), pred_instances=detected)


class Dataset:
    def __init__(self, path, classes=CLASSES):
        self.ann_file, self.metainfo = str(path), dict(classes=classes)

    def __len__(self):
        return 1


def evaluate(hook, runner, outputs, stage='val'):
    getattr(hook, f'after_{stage}_iter')(runner, 0, outputs=outputs)
    getattr(hook, f'after_{stage}_epoch')(runner)


@pytest.mark.parametrize('stage', ['val', 'test'])
@pytest.mark.parametrize(
    'categories, outputs, reason',
    [
        (('disc', 'ring'), [sample()], "classes ['square'] are not among the categories"),
        (CLASSES, [sample(image_id=7)], 'image ids 7'),
        (CLASSES, [sample(labels=())], 'no detections'),
        (CLASSES, [object()], 'could not collect the detections'),
        (CLASSES, [sample(labels=(5,))], 'labels [5], but 2 classes'),
        (None, [sample()], 'FileNotFoundError'),
    ],
)
def test_what_prevents_curves_is_a_warning(categories, outputs, reason, stage, tmp_path, warned):
    path = tmp_path / 'nowhere.json' if categories is None else coco_json(tmp_path, categories)
    hook, runner = RankingVisualizationHook(), runner_for(dataset=Dataset(path))
    for _ in range(2):
        evaluate(hook, runner, outputs, stage)
    (warning,) = warned
    assert reason in warning and not runner.visualizer.images
    runner.val_dataloader.dataset.ann_file = runner.test_dataloader.dataset.ann_file = str(coco_json(tmp_path))
    evaluate(hook, runner, [sample()], stage)
    assert runner.visualizer.images == ['precision_recall'] and len(warned) == 1


def test_curves_have_the_names_of_the_labels(tmp_path, monkeypatch):
    """The file has its categories in another order than the config, and labels follow the file."""
    dataset = Dataset(coco_json(tmp_path), classes=('square', 'disc'))
    dataset.cat_ids = [1, 2]
    given = []
    monkeypatch.setattr(ranking_pictures, 'draw_precision_recall', lambda *arguments: given.append(arguments))
    evaluate(RankingVisualizationHook(), runner_for(dataset=dataset), [sample()])
    ((_, precision, names, _),) = given
    assert names == ['disc', 'square'] and precision[:, :, 0].mean() == pytest.approx(1)


def test_an_annotation_file_of_another_format(tmp_path, warned):
    hook, runner = RankingVisualizationHook(), runner_for(dataset=Dataset(tmp_path / 'val.xml'))
    evaluate(hook, runner, [sample()])
    assert 'needs COCO-style annotations' in warned[0]


def collect_on_two(folder):
    """The second process cannot collect; both go on, and nobody waits for it."""
    import torch.distributed as dist

    from bucketed_losses.mmdet.engine import observers

    warnings = []
    observers.print_log = lambda message, *args: warnings.append(message)
    hook, runner = RankingVisualizationHook(), runner_for(dataset=Dataset(f'{folder}/val.json'))
    evaluate(hook, runner, [object()] if dist.get_rank() == 1 else [sample()])
    first = list(runner.visualizer.images)
    evaluate(hook, runner, [sample()])
    return [len(warnings), first, runner.visualizer.images]


def test_processes_do_not_wait_for_one_that_cannot_collect(tmp_path):
    coco_json(tmp_path)
    assert on_processes(2, collect_on_two, str(tmp_path)) == [[0, [], ['precision_recall']], [1, [], []]]


def test_the_guard_lets_a_stop_through():
    guard = ObserverGuard('hook')
    with pytest.raises(SystemExit), guard('draw'):
        raise SystemExit(0)
    with pytest.raises(KeyboardInterrupt), guard('draw'):
        raise KeyboardInterrupt


def test_classes_without_objects_do_not_count(tmp_path, monkeypatch):
    """As in COCO's AP: of four classes one has objects, and it is found."""
    classes = ('disc', 'square', 'ring', 'star')
    annotations = COCO(str(coco_json(tmp_path, classes)))
    detections = [dict(image_id=1, label=0, bbox=[10, 10, 20, 20], score=0.9)]
    detections += [dict(image_id=1, label=2, bbox=[10, 10, 20, 20], score=0.9)]  # wrong, but not in COCO's AP
    recall, precision = precision_recall(annotations, detections, classes, (0.5, 0.75))
    assert np.nanmean(precision) == pytest.approx(1) and np.isnan(precision[:, :, 1:]).all()
    figure = drawn(monkeypatch, recall, precision, classes)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ['disc 1.000', 'mean 1.000']
    figure = drawn(monkeypatch, recall, np.full_like(precision, np.nan), classes)
    assert [text.get_text() for text in figure.axes[0].texts] == ['no objects']


def test_the_curves_with_lowest_ap_are_of_classes_with_objects(monkeypatch):
    precision = np.full((1, 101, 40), np.nan)
    precision[:, :, ::2] = np.linspace(0.2, 0.9, 20)
    names = [f'class {i}' for i in range(40)]
    figure = drawn(monkeypatch, np.linspace(0, 1, 101), precision, names, (0.5,))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.split()[1] for label in labels[:-1]] == [str(2 * i) for i in range(12)]
    assert labels[-1] == 'mean 0.550'


def drawn(monkeypatch, recall, precision, classes, iou_thrs=(0.5, 0.75)):
    """The figure instead of its pixels."""
    with monkeypatch.context() as patch:
        patch.setattr(ranking_pictures, '_pixels', lambda figure: figure)
        return ranking_pictures.draw_precision_recall(recall, precision, classes, iou_thrs)
