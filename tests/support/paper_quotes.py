"""Every sentence that quotes a figure of the paper, as a template, and what finds figures that no template has."""

from __future__ import annotations

import re

from bucketed_losses.paper import figures, published

# Page -> sentences. {CONFIG METRIC} stands for the paper's figure, {CONFIG METRIC repository} for its repository's.
# CONFIG is the name of a config up to the GPUs, on COCO or on another data set: NAME@DATASET.
QUOTES = {
    'docs/detectors/atss.md': [
        'AP {atss_r50_fpn AP} with focal loss, {atss_r50_fpn_rs AP} with RS and BRS; '
        '{atss_r50_fpn_ap AP} with AP, {atss_r50_fpn_bap AP} with BAP, '
        '{atss_r50_fpn_dr AP} with DR, {atss_r50_fpn_alrp AP} with aLRP Loss.',
    ],
    'docs/detectors/cascade_rcnn.md': [
        '{cascade-rcnn_r50_fpn_rs s/iter} s per iteration with RS Loss, and BRS {cascade-rcnn_r50_fpn_brs s/iter} s',
        'AP {cascade-rcnn_r50_fpn_brs AP} with RS and with BRS.',
    ],
    'docs/detectors/faster_rcnn.md': [
        'AP {faster-rcnn_r50_fpn AP}, {faster-rcnn_r50_fpn_rs AP}, '
        '{faster-rcnn_r50_fpn_brs AP}; {faster-rcnn_r50_fpn s/iter}, '
        '{faster-rcnn_r50_fpn_rs s/iter} and '
        '{faster-rcnn_r50_fpn_brs s/iter} s per iteration.',
    ],
    'docs/detectors/mask_rcnn.md': [
        'mask AP {mask-rcnn_r50_fpn_rs mask AP} with RS, {mask-rcnn_r50_fpn_brs mask AP} with BRS.',
    ],
    'docs/detectors/paa.md': [
        'AP {paa_r50_fpn_rs AP} with RS and {paa_r50_fpn_brs AP} with BRS, '
        '{paa_r50_fpn_ap AP} with AP Loss and {paa_r50_fpn_bap AP} with BAP (Table 1).',
    ],
    'docs/detectors/retinanet.md': [
        'AP {retinanet_r50_fpn_brs AP} with BRS, {retinanet_r50_fpn_dr AP} with DR Loss.',
    ],
    'docs/brs_detr.md': [
        'AP {co-deformable-detr_r50 AP} → {brs-detr_r50 AP}, seconds per step '
        '{rs-detr_r50 s/iter} with RS Loss → {brs-detr_r50 s/iter};',
    ],
    'docs/losses.md': [
        'RS and BRS Loss {atss_r50_fpn_rs AP}, AP Loss {atss_r50_fpn_ap AP}, BAP Loss {atss_r50_fpn_bap AP};',
    ],
    'docs/losses/alrp.md': [
        '{atss_r50_fpn_rs AP} AP against {atss_r50_fpn_alrp AP}; Faster R-CNN '
        '{faster-rcnn_r50_fpn_rs AP} against {faster-rcnn_r50_fpn_alrp AP};',
    ],
    'docs/losses/brs.md': [
        '{faster-rcnn_r50_fpn_brs s/iter} s per iteration for Faster R-CNN against '
        '{faster-rcnn_r50_fpn_rs s/iter} s with the published RS Loss.',
    ],
    'docs/losses/dr.md': [
        '{atss_r50_fpn_dr AP} AP against {atss_r50_fpn_rs AP} with RS Loss;',
    ],
    'docs/losses/rs.md': [
        '{atss_r50_fpn_rs AP} AP against {atss_r50_fpn_ap AP};',
    ],
    'docs/results.md': [
        'the paper reports {cascade-rcnn_r50_fpn_rs s/iter} s per iteration for RS and '
        '{cascade-rcnn_r50_fpn_brs s/iter} s for BRS (Table 1).',
        'the paper reports {rs-detr_r50 s/iter} s per iteration for RS and {brs-detr_r50 s/iter} s for BRS.',
    ],
    'docs/reproduce.md': [
        'They end at {log bucketed_ranksort_atss box AP}, {log bucketed_ranksort_atss_2 box AP} and '
        '{log bucketed_ranksort_atss_3 box AP}.',
        '{log bucketed_ranksort_atss s/iter} against {atss_r50_fpn_brs s/iter} s for that row.',
    ],
    'docs/compare.md': [
        'ATSS {atss_r50_fpn_ap AP} with AP Loss, {atss_r50_fpn_dr AP} with DR, {atss_r50_fpn_alrp AP} with aLRP and '
        '{atss_r50_fpn_brs AP} with BRS; Faster R-CNN {faster-rcnn_r50_fpn_alrp AP} with aLRP and '
        '{faster-rcnn_r50_fpn_brs AP} with BRS; RetinaNet {retinanet_r50_fpn_dr AP} with DR and '
        '{retinanet_r50_fpn_brs AP} with BRS)',
        "The paper's times, {atss_r50_fpn_ap s/iter} s for AP and aLRP against {atss_r50_fpn_brs s/iter} s for BRS,",
    ],
    'configs/README.md': [
        'gives {mask-rcnn_r50_fpn_rs@Cityscapes box AP repository} (RS) and '
        '{mask-rcnn_r50_fpn_brs@Cityscapes box AP repository} (BRS) as box AP on Cityscapes, and '
        '{mask-rcnn_r50_fpn_rs@Cityscapes mask AP repository} and '
        '{mask-rcnn_r50_fpn_brs@Cityscapes mask AP repository} as mask AP;',
        'whose mask AP is {log ranksort_mask_rcnn_r50_lvis_2 mask AP}.',
    ],
}

NUMBER = re.compile(r'(?<![\d.,])(?:[2-5]\d\.\d|\d\.\d\d)(?!\.?\d)')
# Figures that a paragraph with the word paper has, and that are measured here.
OURS = {
    'docs/compare.md': {'0.51', '0.08', '0.86', '0.69', '0.82', '0.52', '0.55'},
    'docs/results.md': set(),
}


def squeezed(text: str) -> str:
    """The text with every run of spaces and line breaks as one space."""
    return ' '.join(text.split())


def _config(name: str) -> str:
    """The config of 12 epochs whose file is called NAME_4xb4-..., on COCO or on the data set after an @."""
    name, _, dataset = name.partition('@')
    found = {
        figure.config
        for figure in figures(dataset=dataset or 'COCO', epochs='12')
        if re.match(rf'\w+/{name}_\dxb\d-', figure.config)
    }
    assert len(found) == 1, (name, found)
    return found.pop()


def _value(match: re.Match) -> str:
    where, metric, source = match['where'], match['metric'], match['source']
    if where.startswith('log '):
        (figure,) = figures(table=where, metric=metric)
    elif source:
        (figure,) = figures(config=_config(where), metric=metric, source=source)
    else:
        figure = published(_config(where), metric)
    assert figure is not None, match[0]
    return figure.value


def filled(template: str) -> str:
    """A template with the figures of the file in it."""
    placeholder = r'\{(?P<where>(?:log )?\S+) (?P<metric>(?:box |mask )?AP|s/iter)(?: (?P<source>repository))?\}'
    return re.sub(placeholder, _value, template)


def unquoted_numbers(page: str, text: str) -> set[str]:
    """Numbers in paragraphs about the paper, tables aside, that look like its figures and that no template has."""
    found = set()
    for paragraph in re.split(r'\n\s*\n|\n(?=\* )', text):
        prose = squeezed('\n'.join(line for line in paragraph.splitlines() if not line.startswith('|')))
        if not re.search(r'\bpaper|\bpublished', prose):
            continue
        for template in QUOTES.get(page, []):
            prose = prose.replace(filled(template), '')
        found |= set(NUMBER.findall(prose))
    return {number for number in found - OURS.get(page, set()) if number in {figure.value for figure in figures()}}
