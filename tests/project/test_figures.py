"""Figures: one style, alternative texts and captions, and the tables that they are drawn from."""

from __future__ import annotations

import ast
import csv
import re
from itertools import combinations
from pathlib import Path

import pytest

pytest.importorskip('matplotlib')
pytest.importorskip('pandas')

import benchmark_figures
import draw_figures
import numpy as np
import pandas as pd
import report_benchmark
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from page_blocks import block_of

from bucketed_losses import figure_style
from bucketed_losses.figure_style import figure_style as styled
from bucketed_losses.figure_style import label_lines, look_of, looks_of, name_of_place, new_figure, save
from bucketed_losses.study.figures import draw_gradients
from bucketed_losses.study.report import _gradients

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
STYLE = ROOT / 'bucketed_losses/figure_style.py'
PAGES = [ROOT / 'README.md', *sorted(p for p in DOCS.rglob('*.md') if '_build' not in p.parts)]
IMAGE = re.compile(r'!\[(.*?)\]\((.*?)\)')


# One place for the style


def colours_named_in(code):
    """What names a colour, a colour map or pyplot in Python code."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and re.fullmatch(r'#[0-9a-fA-F]{6}|tab:\w+|C\d', str(node.value)):
            found.append(node.value)
        if isinstance(node, ast.keyword) and re.fullmatch(r'c|cmap|\w*colou?rs?', node.arg or ''):
            found += [leaf.value for leaf in ast.walk(node.value) if isinstance(getattr(leaf, 'value', None), str)]
        if isinstance(node, (ast.Import, ast.ImportFrom)) and 'matplotlib' in ast.unparse(node):
            found.append(ast.unparse(node))
    return found


def test_a_named_colour_is_found():
    code = "import matplotlib.pyplot as plt\naxis.plot(x, color='red')\naxis.bar(x, c=C['a'] if x else '#aabbcc')"
    assert set(colours_named_in(code)) == {'import matplotlib.pyplot as plt', 'red', 'a', '#aabbcc'}
    assert not colours_named_in("axis.plot(x, color=look.color, label='red')")


@pytest.mark.parametrize(
    'path',
    [p for folder in ('bucketed_losses', 'tools') for p in sorted((ROOT / folder).rglob('*.py')) if p != STYLE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_module_names_a_colour(path):
    assert not colours_named_in(path.read_text())


# What is left of red, green and blue for people without one kind of cones: Machado et al., IEEE Transactions on
# Visualization and Computer Graphics 15(6), 2009.
EYES = {
    'usual': np.eye(3),
    'protanopia': np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    'deuteranopia': np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def test_every_loss_has_a_look_of_its_own():
    names = ['stock', 'AP', 'DR', 'aLRP', 'BAP', 'RS', 'BRS', 'RS by loop', 'BRS by matrices']
    looks = looks_of(names)
    assert len({(look.color, look.linestyle) for look in looks.values()}) == len(names)
    ranking = [looks[name].color for name in names[1:7]]
    for eyes in EYES.values():
        for one, other in combinations(ranking, 2):
            assert np.abs(eyes @ to_rgb(one) - eyes @ to_rgb(other)).max() > 0.15, (one, other)
    assert max(looks, key=lambda name: looks[name].linewidth) == 'BRS'
    assert max(looks, key=lambda name: looks[name].zorder) == 'BRS'


@pytest.mark.parametrize(
    ('name', 'same_as'),
    [
        ('brs', 'BRS'), ('BRS+GIoU', 'BRS'), ('BRS-DETR', 'BRS'), ('BRS, time of RS by loop', 'BRS'),
        ('BucketedRS', 'BRS'), ('Focal+GIoU', 'stock'), ('cross-entropy', 'CE'), ('AP by loop', 'RS by loop'),
    ],
)  # fmt: skip
def test_a_loss_is_found_in_a_name(name, same_as):
    assert look_of(name) == look_of(same_as)


def test_names_without_a_loss_and_names_of_one_loss_differ():
    assert look_of('Co-DETR') is None and look_of('ranking') is None
    looks = list(looks_of(['mine', 'yours', 'BRS', 'BRS for longer', 'brs']).values())
    assert len({(look.color, look.linestyle) for look in looks}) == 5
    assert looks[2].color == looks[3].color == looks[4].color


@pytest.mark.parametrize(
    ('path', 'name'),
    [
        ('bbox_head.loss_cls', 'dense head'), ('rpn_head.loss_cls', 'RPN'), ('roi_head.bbox_head.loss_cls', 'R-CNN'),
        ('roi_head.bbox_head.2.loss_cls', 'R-CNN, stage 3'), ('query_head.loss_cls', 'queries'),
        ('my_own_part.loss_cls', 'my own part'),
    ],
)  # fmt: skip
def test_no_internal_names(path, name):
    assert name_of_place(path) == name


@styled()
def test_labels_do_not_overlap_and_keep_their_order():
    figure, axes = new_figure()
    axis = axes[0, 0]
    ends = [(1.0, 0.5), (1.0, 0.501), (1.0, 0.499), (1.0, 0.9), (0.8, 0.502)]
    axis.plot([0, *(x for x, _ in ends)], [0, *(y for _, y in ends)])
    names = ['a', 'b', 'c', 'd', 'a name that reaches to those of the later lines']
    label_lines(axis, names, list(looks_of(names).values()), ends)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert boxes['c'].y0 < boxes['a'].y0 < boxes['b'].y0 < boxes['d'].y0
    assert all(not one.overlaps(other) for one, other in combinations(boxes.values(), 2))


@styled()
def test_figures_are_opaque_and_white_at_their_edges(tmp_path):
    figure, _ = new_figure()
    save(figure, tmp_path / 'figure.png')
    pixels = imread(tmp_path / 'figure.png')
    assert pixels.shape[2] == 3 or (pixels[..., 3] == 1).all()
    for edge in (pixels[:10], pixels[-10:], pixels[:, :10], pixels[:, -10:]):
        assert (edge[..., :3] == 1).all()


def test_the_style_changes_nothing_outside():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with styled():
        assert matplotlib.rcParams['axes.spines.top'] is False
    assert dict(matplotlib.rcParams) == before


# The docs


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_images_have_alternative_texts_and_captions(page):
    """More than three words that describe the image; then a line in italics, directly or after an empty line."""
    text = page.read_text()
    for match in IMAGE.finditer(text):
        alternative, source = match.groups()
        assert len(alternative.split()) > 3, f'{source}: the alternative text is too short: {alternative!r}'
        after = re.sub(r'\A.*\n(\|.*\n)*', '', text[match.start() :])  # images may be in a table
        assert re.match(r'\n?\*[^*\n]', after), f'{source}: no caption after the image'


def test_every_figure_is_in_a_page():
    used = {
        (page.parent / source).resolve()
        for page in PAGES
        for _, source in IMAGE.findall(page.read_text())
        if '://' not in source
    }
    drawn = {DOCS / path for path, _ in draw_figures.FIGURES.values()} - {DOCS / 'figures/headline.png'}
    assert drawn <= used
    assert {path.resolve() for path in DOCS.rglob('*.png') if '_build' not in path.parts} - used <= {
        DOCS / 'figures/headline.png'
    }


def rows_of_section(page, heading):
    """The tables under a heading: for each row of values, the values by the name of the column."""
    section = re.split(r'^## ', page.split(f'\n## {heading}\n')[1], flags=re.MULTILINE)[0]
    for table in re.findall(r'(?:^\|.*\n)+', section, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines())
        yield from (dict(zip(head, row, strict=True)) for row in rows)


@pytest.mark.parametrize(
    'pair', draw_figures.read_pairs(DOCS / 'figures/small_data_ap.csv'), ids=lambda p: p['detector']
)
def test_the_table_of_small_data_is_what_the_page_says(pair):
    rows = list(rows_of_section((DOCS / 'results.md').read_text(), pair['section']))
    for which in ('stock', 'BRS'):
        start = [cell.strip() for cell in pair[f'{which}_row'].split('|')]
        (row,) = (
            row for row in rows if [*row.values()][: len(start)] == start and pair['column'] in row
        )  # a row of exactly one table
        assert row[pair['column']].split(' ± ')[0] == pair[f'{which}_AP']
        assert row['seeds'] == pair[f'{which}_seeds']


def test_the_differences_on_bccd_are_those_of_the_figure():
    """By the smaller number of seeds; within each cell, the largest gain first."""
    pairs = [pair for pair in draw_figures.read_pairs(DOCS / 'figures/small_data_ap.csv') if pair['data'] == 'BCCD']
    expected = {}
    for pair in pairs:
        gain, seeds = draw_figures.gain_of(pair), min(pair['stock_seeds'], pair['BRS_seeds'])
        place = 1 if gain > draw_figures.LEVEL else 2 if gain >= -draw_figures.LEVEL else 3
        name = pair['detector'].replace('SABL Cascade', 'SABL')
        text = name if place == 2 else f'{name} {gain:+.3f}'.replace('-0', '\N{MINUS SIGN}0')
        expected.setdefault(seeds, [seeds, [], [], []])[place].append(text)
    page = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', (DOCS / 'results.md').read_text())
    for seeds in '321':
        (line,) = re.findall(rf'^  \| {seeds} \|(.*)\|$', page, re.MULTILINE)
        cells = [[name.strip() for name in cell.split(',') if name.strip()] for cell in line.split('|')]
        for found, names in zip(cells, expected[seeds][1:], strict=True):
            assert sorted(found) == sorted(names)
            gains = [float(name.split()[-1].replace('\N{MINUS SIGN}', '-')) for name in found if '0.' in name]
            assert gains == sorted(gains, reverse=True)


def test_the_table_of_both_data_sets_is_that_of_the_sections():
    page = (DOCS / 'results.md').read_text()
    of_bccd = [*rows_of_section(page, 'Other detectors'), *rows_of_section(page, 'Heads beyond the paper')]
    of_cards = list(rows_of_section(page, 'Playing cards'))

    def found(section, detector):
        rows = [row for row in section if row.get('detector') == detector and 'AP' in row]
        own, brs = [row for row in rows if row['loss'] != 'RS'][:2]
        assert brs['loss'].startswith('BRS') and not own['loss'].startswith('BRS')
        return [own['AP'], brs['AP']]

    of_atss = {row['loss']: row['AP'] for row in rows_of_section(page, 'ATSS on BCCD') if 'RBC' in row}
    lines = block_of(DOCS / 'results.md', 'both sets').splitlines()[2:]
    on_cards = [row['detector'] for row in of_cards if row['loss'].startswith('BRS')]
    assert [line.split('|')[1].strip() for line in lines] == on_cards
    for line in lines:
        detector, *cells = (cell.strip() for cell in line.strip('|').split('|'))
        on_bccd = [of_atss['focal'], of_atss['brs']] if detector == 'ATSS' else found(of_bccd, detector)
        assert cells == on_bccd + found(of_cards, detector)


def test_the_table_of_gradients_is_what_the_page_says():
    page = (DOCS / 'study/study.md').read_text()
    assert '\n\n'.join(_gradients(pd.read_csv(DOCS / 'study/gradients.csv'))) in page


@pytest.mark.parametrize('name', draw_figures.FIGURES)
def test_figures_of_the_docs_can_be_drawn_again(name, tmp_path, capsys):
    draw_figures.main([name, '--docs', str(DOCS), '--out', str(tmp_path)])
    path = tmp_path / draw_figures.FIGURES[name][0]
    assert str(path) in capsys.readouterr().out
    assert imread(path).std() > 0.02
    assert (DOCS / draw_figures.FIGURES[name][0]).is_file()


def test_an_unknown_figure(capsys):
    with pytest.raises(SystemExit):
        draw_figures.main(['nonsense'])
    assert 'unknown figure nonsense; choose from headline' in capsys.readouterr().err


@styled()
def test_arrows_go_from_the_own_loss_to_brs():
    pairs = draw_figures.read_pairs(DOCS / 'figures/small_data_ap.csv')
    assert [pair['data'] for pair in pairs] == sorted(pair['data'] for pair in pairs)
    _, axes = new_figure()
    draw_figures.draw_pairs(axes[0, 0], pairs)
    texts = [text.get_text() for text in axes[0, 0].texts if text.get_text()]
    assert texts == [f'{draw_figures.gain_of(pair):+.3f}'.replace('-', '\N{MINUS SIGN}') for pair in pairs]
    bold = [text.get_text() for text in axes[0, 0].texts if text.get_text() and text.get_fontweight() == 'bold']
    assert bold == [f'{gain:+.3f}' for gain in map(draw_figures.gain_of, pairs) if gain > 0.005]
    arrows = [text for text in axes[0, 0].texts if text.arrow_patch]
    drawn = [pair for pair in pairs if abs(draw_figures.gain_of(pair)) >= draw_figures.SHORTEST_ARROW]
    assert [(arrow.xyann[0], arrow.xy[0]) for arrow in arrows] == [
        (float(pair['stock_AP']), float(pair['BRS_AP'])) for pair in drawn
    ]
    assert 'not COCO' in axes[0, 0].get_xlabel()


def test_the_headline_prefers_the_scaling_run(tmp_path):
    """With figures/scaling.csv, its sizes are drawn, and what was not run is hollow."""
    (tmp_path / 'figures').mkdir()
    for name in ('benchmark.csv', 'small_data_ap.csv'):
        (tmp_path / 'figures' / name).write_text((DOCS / 'figures' / name).read_text())
    rows, share = draw_figures._cost_rows(tmp_path)
    assert share == 0.01 and {row['logits'] for row in rows} == {'10000', '100000', '1000000'}
    machine = dict(device='a machine', threads='1', torch='2')
    with (tmp_path / 'figures/scaling.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, report_benchmark.COLUMNS, restval='')
        writer.writeheader()
        for number in (10**4, 10**6, 10**8):
            for loss in draw_figures.COST_LOSSES:
                row = dict(machine, data='synthetic', logits=number, positives=number // 1000, loss=loss)
                if number == 10**8 and loss == 'RS by loop':
                    row.update(note='would take long', estimated_milliseconds=4e7, peak_bytes=3e9)
                elif number == 10**8 and loss == 'BRS by matrices':
                    row.update(note='needs 240 GB', needed_bytes=2.4e11)
                else:
                    row.update(milliseconds=number / 1e4, peak_bytes=16 * number)
                writer.writerow(row)
    rows, share = draw_figures._cost_rows(tmp_path)
    assert share == 0.001 and {row['logits'] for row in rows} == {'10000', '1000000', '100000000'}
    _, axes = new_figure(1, 2)
    for axis, quantity in zip(axes[0], benchmark_figures.QUANTITIES, strict=True):
        draw_figures.draw_cost(axis, rows, quantity)
    texts = [[text.get_text() for text in axis.texts] for axis in axes[0]]
    assert 'loop over positives: 11 h' in texts[0] and 'loop over positives: 3 GB' in texts[1]
    assert 'P\N{MULTIPLICATION SIGN}B matrices: 240 GB' in texts[1] and 'BRS: 1.6 GB' in texts[1]
    hollow = [line for line in axes[0, 0].lines if line.get_markerfacecolor() == figure_style.BACKGROUND]
    assert [line.get_xdata().tolist() for line in hollow] == [[10**6, 10**8]]
    draw_figures.main(['headline', '--docs', str(tmp_path)])
    assert (tmp_path / 'figures/headline.png').stat().st_size > 10_000


def test_gradients_of_one_source_only(tmp_path):
    table = pd.read_csv(DOCS / 'study/gradients.csv')
    draw_gradients(table[table.source == 'brs'], tmp_path / 'gradients.png')
    assert imread(tmp_path / 'gradients.png').std() > 0.02
    draw_gradients(table.iloc[:0], tmp_path / 'none.png')
    assert not (tmp_path / 'none.png').exists()


def test_the_table_of_detectors_with_queries_is_that_of_the_figure():
    table = pd.read_csv(DOCS / 'figures/query_detectors.csv')
    expected = []
    for key, runs in table.groupby(['data', 'detector', 'loss'], sort=False):
        ap = runs.pivot(index='epoch', columns='seed', values='AP')
        *earlier, last = (f'{mean:.3f}' for mean in ap.mean(axis='columns'))
        spread = f' ± {ap.iloc[-1].std():.3f}' if ap.columns.size > 1 else ''
        expected.append(f'| {" | ".join(key)} | {ap.columns.size} | {" | ".join(earlier)} | {last}{spread} |')
    assert block_of(DOCS / 'results.md', 'detectors with queries').splitlines()[2:] == expected
