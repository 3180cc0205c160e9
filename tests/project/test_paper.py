"""The paper's figures: the file agrees with the paper's text, and every page with the file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import report_paper
from paper_quotes import QUOTES, filled, squeezed, unquoted_numbers

from bucketed_losses.paper import figures, published, tables_of

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT.parent / 'shared/paper/paper.txt'
PAGES = ['README.md', 'configs/README.md', *(str(p.relative_to(ROOT)) for p in ROOT.glob('docs/**/*.md'))]
PAGES = [page for page in PAGES if '_build' not in page and 'model_zoo' not in page]
# Columns of the tables as they are printed: names of the row, and metrics.
SEGM = ['s/iter', 'AP', 'AP50', 'AP75']
DETR = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl']
COLUMNS = {
    'Table 1': (['', 'detector', 'backbone', 'loss'], SEGM),
    'Table 2': (['backbone', 'loss'], SEGM),
    'Table 3': (['dataset', 'loss'], SEGM),
    'Table 4': (['', 'detector', 'loss'], ['AP', 'AP50', 'AP75']),
    'Table 5': (['backbone', 'detector'], DETR),
    'Table 6': (['detector', '', 'epochs'], DETR),
    'Table 7': (['detector', 'loss'], ['s/iter', 'AP', '#H']),
    'Table 8': (['detector', 'loss'], ['s/iter', 'AP', '#H']),
}
NAMES = {'C. R-CNN': 'Cascade R-CNN', 'M. R-CNN': 'Mask R-CNN', 'ResNet50': 'R-50', 'BRS (Ours)': 'BRS'}


@pytest.fixture(scope='module')
def text():
    if not TEXT.is_file():
        pytest.skip("the paper's text is not here")
    return TEXT.read_text()


def printed_rows(text, table):
    """``(names of the row, metric -> value)`` of a table in the paper's text; an empty cell repeats the one above."""
    names, metrics = COLUMNS[table]
    lines = text[text.index(f'\n{table}:') + 1 :].splitlines()[1:]
    above = [''] * len(names)
    started = False
    for line in lines:
        if '\t' not in line:
            if started:
                return
            continue
        started = True
        cells = [cell.strip() for cell in line.split('\t')]
        values = [re.sub(r'\s.*', '', cell) for cell in cells[len(names) :]]
        if not any(re.fullmatch(r'[\d.]+', value) for value in values):
            continue
        above = [cell or before for cell, before in zip(cells, above, strict=False)]
        labels = {
            name: NAMES.get(cell, re.sub(r' \[\d+\]$', '', cell)) for name, cell in zip(names, above, strict=True)
        }
        labels.pop('', None)
        yield labels, dict(zip(metrics, values, strict=True))


@pytest.mark.parametrize('table', COLUMNS)
def test_every_figure_of_a_table_is_the_papers(table, text):
    """Both ways: every number that is printed is in the file, in its row, and nothing else is."""
    count = 0
    for labels, values in printed_rows(text, table):
        for metric, value in values.items():
            found = [f for f in figures(table=table, **labels) if re.sub('^(box|mask) ', '', f.metric) == metric]
            if table == 'Table 4':
                found = [f for f in found if f.metric.startswith('mask') == labels['detector'].startswith('Mask')]
            assert [f.value for f in found] == ([] if value == 'N/A' else [value]), (labels, metric)
            count += len(found)
    assert count == len(figures(table=table)) > 10


def test_figures_of_the_text_are_the_papers(text):
    sentences = {
        ('Sec. 6.2', 's/iter'): 'from {4.14}s per iteration to {0.69}s',
        ('S.3.1', 'learning rate'): 'initial learning rate is set to {0.012}|initial learning rate of {0.008}',
        ('S.3.3', 'learning rate'): 'learning rate to {0.0002}',
        ('Sec. 6.1', 'GPUs'): 'trained on {4} Tesla A100 GPUs',
        ('Sec. 6.1', 'images per GPU'): 'i.e., {4} images/GPU',
        ('S.3.3', 'GPUs'): 'on {8} Tesla A100 GPUs',
        ('S.3.3', 'images per GPU'): 'each GPU processing {2} images',
        ('S.3.2', 'speed-up of the loss'): r'by up to $\sim {40}\times$',
    }
    checked = 0
    for (table, metric), parts in sentences.items():
        values = []
        for part in parts.split('|'):
            assert re.sub(r'[{}](?!\))', '', part) in text, part
            values += re.findall(r'\{([\d.]+)\}', part)
        assert [f.value for f in figures(table=table, metric=metric)] == values
        checked += len(values)
    in_tables = sum(len(figures(table=table)) for table in COLUMNS)
    assert checked + in_tables == len(figures(source='paper'))


def test_every_line_is_a_number_and_names_a_config_that_exists():
    for figure in figures():
        float(figure.value)
        assert figure.source in ('paper', 'repository', 'log')
        assert not figure.config or (ROOT / f'configs/{figure.config}.py').is_file(), figure
    keys = Counter((f.table, f.detector, f.backbone, f.loss, f.epochs, f.dataset, f.metric) for f in figures())
    assert set(keys.values()) == {1}


def test_a_config_has_one_ap_and_one_time_in_the_paper():
    configs = {figure.config for figure in figures(source='paper')} - {''}
    assert len(configs) > 30
    for config in configs:
        assert (published(config) or published(config, 's/iter')) and tables_of(config)
    assert published('shapes/no_such_config') is None


def test_logs_of_the_rows_have_the_papers_ap():
    """One log of each row ends with the AP of the paper's table, except BRS Loss on LVIS."""
    rows = {f.config for f in figures(source='log')}
    for config in rows - {c for c in rows if c.startswith('lvis/') and '_brs_' in c}:
        paper = published(config)
        assert paper.value in [f.value for f in figures(config=config, source='log', metric=paper.metric)], config


def test_learning_rates_of_the_configs_are_the_papers():
    config_of = pytest.importorskip('mmengine.config').Config.fromfile
    rates = {f.detector: float(f.value) for f in figures(metric='learning rate')}
    groups = {'multi-stage': ('faster', 'cascade', 'mask'), 'one-stage': ('atss', 'paa'), 'BRS-DETR': ('brs_detr',)}
    for group, folders in groups.items():
        for config in sorted(
            {f.config for f in figures(dataset='COCO', source='paper') if f.config.startswith(folders)}
        ):
            if 'fpn_4xb4' not in config and '_dr_' not in config:  # stock, and DR Loss, which is not the authors'
                assert config_of(ROOT / f'configs/{config}.py').optim_wrapper.optimizer.lr == rates[group], config


@pytest.mark.parametrize('page', report_paper.PAGES)
def test_tables_of_figures_are_up_to_date(page):
    text = (ROOT / page).read_text()
    assert report_paper.PAGES[page](text) == text, 'python tools/benchmarks/report_paper.py'


def test_the_generator_finds_every_cell():
    """It mends wrong numbers, and there are as many of them as the file has configs and README rows."""
    text = (ROOT / 'configs/README.md').read_text()
    wrong = re.sub(r'\| (\d\d\.\d) ', '| 11.1 ', text)
    assert wrong != text and report_paper.configs_page(wrong) == text
    readme = (ROOT / 'README.md').read_text()
    wrong = re.sub(r'\| \d\d\.\d ', '| 11.1 ', readme)
    assert wrong.count('11.1') > 10 and report_paper.readme(wrong) == readme


@pytest.mark.parametrize('page', QUOTES)
def test_quoted_figures_are_those_of_the_file(page):
    text = squeezed((ROOT / page).read_text())
    for template in QUOTES[page]:
        assert filled(template) in text


@pytest.mark.parametrize('page', PAGES)
def test_no_figure_of_the_paper_is_typed_elsewhere(page):
    """A number of the paper in prose needs a template in tests/support/paper_quotes.py."""
    assert not unquoted_numbers(page, (ROOT / page).read_text())


def test_a_typed_number_would_be_found():
    assert unquoted_numbers('docs/faq.md', 'In the paper, ATSS has AP 39.8\nwith RS Loss.') == {'39.8'}
    assert unquoted_numbers('docs/losses/rs.md', 'In the paper: 39.8 AP against 38.1; and 40.9.') == {'40.9'}


def test_model_index_has_no_figure_of_the_paper_and_the_data_of_the_rows():
    load = pytest.importorskip('mmengine.fileio').load
    names = {'COCO': 'COCO', 'LVIS': 'LVIS v1', 'Cityscapes': 'Cityscapes'}
    for file in load(ROOT / 'model-index.yml')['Import']:
        content = load(ROOT / file)
        data = {c['Name']: c['Metadata']['Training Data'] for c in content['Collections']}
        for model in content['Models']:
            assert not re.search(r'\b[2-5]\d\.\d\b', str(model))
            figure = published(model['Config'].removeprefix('configs/').removesuffix('.py'))
            if figure is not None:
                trained_on = data[model['In Collection']]
                assert names[figure.dataset] in ([trained_on] if isinstance(trained_on, str) else trained_on)
                assert str(model['Metadata']['Epochs']) == figure.epochs
