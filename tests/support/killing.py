"""Trains small runs in child processes that are forked after all imports, and kills them.

python tests/support/killing.py FOLDER KILLS SEED: an uninterrupted run in FOLDER/whole; the same run in FOLDER/killed,
killed KILLS times (SIGKILL, in turn while a checkpoint is being written and at a random moment) and resumed each time.
Prints one line of JSON: how often a write was hit, and the iterations that starts went on from.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools'))

import train

CONFIG = Path(__file__).resolve().parents[2] / 'configs/shapes/atss_efficientnet-lite0_fpn_brs_1xb8-10e_shapes.py'
EPOCHS = 8
OPTIONS = ['train_dataloader.batch_size=2', f'train_cfg.max_epochs={EPOCHS}', 'train_cfg.val_interval=2']


def start(work_dir: Path, log: Path) -> int:
    """The process id of a child that trains; it does what ``tools/train.py --resume`` does."""
    child = os.fork()
    if child:
        return child
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        arguments = [str(CONFIG), '--work-dir', str(work_dir), '--resume', '--cfg-options', *OPTIONS]
        train.build_runner(train.parse_args(arguments)).train()
        os._exit(0)
    finally:  # an exception, or the child would go on as a second parent
        traceback.print_exc()
        os._exit(1)


def is_alive(child: int) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid and status:
        raise RuntimeError(f'the run failed by itself with status {status}')
    return not pid


def main(folder: Path, kills: int, seed: int) -> None:
    choose = random.Random(seed)
    log = folder / 'log'
    began = time.monotonic()
    _, status = os.waitpid(start(folder / 'whole', log), 0)
    assert status == 0, log.read_text()[-3000:]
    duration = time.monotonic() - began

    work_dir = folder / 'killed'
    hits, resumed = 0, []
    for kill in range(kills + 1):
        child = start(work_dir, log)
        num_writes, was_writing = choose.randint(1, 3), False
        moment = time.monotonic() + choose.uniform(0.2, 1.0) * duration / EPOCHS * 3
        alive = True
        while kill < kills and (alive := is_alive(child)):
            writing = any(work_dir.glob('.*.writing'))
            num_writes -= writing and not was_writing
            was_writing = writing
            if num_writes == 0 if kill % 2 == 0 else time.monotonic() > moment:
                hits += writing
                os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.0005)
        if alive:
            _, status = os.waitpid(child, 0)
            assert kill < kills or status == 0, log.read_text()[-3000:]
        found = re.search(r'resumed epoch: \d+, iter: (\d+)', log.read_text())
        if found:  # else it was killed while it started, or began at the beginning
            resumed.append(int(found.group(1)))
    sys.stdout.write(json.dumps({'hits': hits, 'resumed': resumed}) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
