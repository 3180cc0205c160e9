"""The tool that counts operations of the losses of a query head."""

from __future__ import annotations

import pytest
from launching import ROOT

pytest.importorskip('mmdet')

from count_query_losses import main

from bucketed_losses.errors import UserError

pytestmark = pytest.mark.medium


def test_one_call_launches_less_and_waits_for_nothing(capsys):
    main(['--images', '1', '--size', '64', '64', '--objects', '2'])
    first, _, *table = capsys.readouterr().out.splitlines()
    assert first.startswith('19 sets') and first.endswith('in a step: 4, or 22 with a call for each set')
    separate, together = ([int(cell) for cell in row.strip('| ').split(' | ')[1:3]] for row in table[2:])
    assert separate[1] == 19 and together[1] == 0
    assert together[0] < separate[0] / 10


def test_a_config_without_ranked_queries_is_named():
    with pytest.raises(UserError, match='has no query head with a ranking loss'):
        main.__wrapped__([str(ROOT / 'configs/co_detr/co-deformable-detr_r50_8xb2-12e_coco.py')])
