"""The figures of the paper, and those of its authors' repository: the only place where this project keeps them.

``tables.csv`` has one figure in each line: its table and row, the config of this project that trains the row, the
metric, the value, and where the value was read. README, the pages and the tests take their numbers from it. Standard
library only; ``tests/project/test_paper.py`` compares the file with the text of the paper.

Source of a value:

==============  =======================================================================================================
``paper``       Tables 1 to 8, the text and the supplement (S) of the paper
``repository``  the README of the paper's repository
``log``         the last evaluation in a training log of that repository, and the median of its times per iteration
==============  =======================================================================================================

A log is named after its file. Three names have the wrong loss: ``bucketed_ranksort_faster_rcnn_1`` has the figures of
RS Loss in Table 1; ``ranksort_faster_rcnn_r101_3x_2`` and ``ranksort_mask_rcnn_r50_2`` have those of BRS Loss in
Tables 1 and 2. This file has the loss of the table.

Table 3 does not say whether its AP is that of boxes or of masks. It is listed as that of boxes: the repository has its
figures of Cityscapes as box AP, and the three figures of RS Loss on LVIS are the box AP, AP50 and AP75 of the log
``ranksort_mask_rcnn_r50_lvis_2``, whose mask AP is lower. The repository's own table of LVIS is headed *mask AP*.
"""

from .figures import Figure, figures, published, tables_of

__all__ = ['Figure', 'figures', 'published', 'tables_of']
