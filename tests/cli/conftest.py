"""A data set of drawn squares, a very small detector, and command lines that run in this process."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from squares import CLASSES, CONFIG, VERBS, program_of

from bucketed_losses.cli.main import main as verb_main


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Four images with a square and a dot each, two files of annotations, and a config of a very small detector."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp('squares')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        images.append(dict(id=number, file_name=f'{number}.png', width=64, height=64))
        for category, size in ((1, 24), (2, 10)):
            x, y = rng.integers(0, 64 - size, 2).tolist()
            picture[y : y + size, x : x + size] = 255
            box = dict(bbox=[x, y, size, size], area=size * size, iscrowd=0)
            annotations.append(dict(box, id=len(annotations) + 1, image_id=number, category_id=category))
        cv2.imwrite(str(folder / f'{number}.png'), picture)
    categories = [dict(id=index, name=name) for index, name in enumerate(CLASSES, 1)]
    content = json.dumps(dict(images=images, annotations=annotations, categories=categories))
    for split in ('train', 'val'):
        (folder / f'{split}.json').write_text(content)
    (folder / 'config.py').write_text(CONFIG.replace('FOLDER', f'{folder}/'))
    return folder


@pytest.fixture
def command(monkeypatch):
    """Run the ``main`` of a command line; returns its exit status and what it has written to stderr."""

    def run(tool, *arguments):
        program, given = program_of(tool), [*VERBS.get(tool, []), *map(str, arguments)]
        main = verb_main if tool in VERBS else importlib.import_module(tool).main
        monkeypatch.setattr(sys, 'argv', [program])
        # MMEngine's loggers keep the stream of their first message, which pytest's own would close.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            try:
                main(given)
            except SystemExit as end:
                return end.code, err.getvalue()
        return 0, err.getvalue()

    return run


@pytest.fixture
def refused(command):
    """Run a command line that must refuse its input in one line with some words (regular expressions)."""

    def run(tool, arguments, *words):
        code, err = command(tool, *arguments)
        assert code == 2 and 'Traceback' not in err, err
        (line,) = [line for line in err.splitlines() if line.startswith(f'{program_of(tool)}: error: ')]
        for word in words:
            assert re.search(word, line), line

    return run


@pytest.fixture(scope='module')
def trained(data):
    """A checkpoint of the config's model."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from bucketed_losses.mmdet.engine.config_checks import read_config

    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(read_config(data / 'config.py').model)
    path = data / 'trained.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)
    return path
