"""The known problems of environments, as tables: when there is one, why it matters, and what fixes it.

In the texts, ``{name}`` stands for the version of a distribution or of ``python``, ``{gpu}`` for the name of the GPU.
"""

from __future__ import annotations

from typing import NamedTuple

from .commands import SETUPTOOLS

HEADLESS = 'pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless'
TORCHVISION = 'torchvision torch=={torch}'  # alone, it would bring the newest torch, which mmcv does not fit
IMPORT_NAMES = {
    'cv2': 'opencv-python-headless',
    'PIL': 'pillow',
    'sklearn': 'scikit-learn',
    'torchvision': TORCHVISION,
    'yaml': 'pyyaml',
}
INSTALL_MMCV, COMPILE_MMCV = 'MMCV', 'COMPILE'
"""In :data:`CAUSES`: the commands that install or compile mmcv for this environment."""


class Trap(NamedTuple):
    """A known problem, or something good to know.

    Attributes:
        when: Conditions that must all hold (:meth:`~bucketed_losses.doctor.facts.Facts.holds`).
        what: What is wrong.
        why: Why it matters.
        commands: Commands that fix it, the best one first; each of them is enough.
    """

    when: str
    what: str
    why: str
    commands: tuple[str, ...] = ()


class Cause(NamedTuple):
    """What an error message of a check says about its cause.

    Attributes:
        error: A regular expression that is found in the message.
        what: What is wrong.
        why: Why it matters.
        command: The command that fixes it, :data:`INSTALL_MMCV` or :data:`COMPILE_MMCV`.
    """

    error: str
    what: str
    why: str
    command: str


PROBLEMS = (
    Trap(
        'python<3.10',
        'Python {python} is too old.',
        'bucketed_losses needs Python 3.10 or newer.',
        ('python3.11 -m venv .venv && . .venv/bin/activate && pip install -e .',),
    ),
    Trap(
        '!torch',
        'torch is not installed.',
        'The losses need it.',
        ('pip install "torch>=2.1"',),
    ),
    Trap(
        'torch<2.1',
        'torch {torch} is too old.',
        'bucketed_losses needs torch 2.1 or newer.',
        ('pip install -U "torch>=2.1"',),
    ),
    Trap(
        'torch<2.3 numpy>=2',
        'torch {torch} does not work with numpy {numpy}.',
        'torch 2.2 and older are compiled for numpy 1: tensors cannot be converted to arrays and back.',
        ('pip install "numpy<2"',),
    ),
    Trap(
        'openmim onedl-mim',
        'openmim and onedl-mim are both installed.',
        'Both write the files of the module mim, so neither is complete.',
        (
            'pip uninstall -y openmim onedl-mim && pip install onedl-mim',
            'pip uninstall -y openmim onedl-mim && pip install openmim',
        ),
    ),
    Trap(
        'openmim !pkg_resources',
        'openmim {openmim} needs the module pkg_resources, which is missing.',
        'The command mim does not start: setuptools 82 and newer lack that module.',
        (SETUPTOOLS,),
    ),
    Trap(
        'mmengine !pkg_resources',
        'mmengine {mmengine} needs the module pkg_resources, which is missing: setuptools 82 and newer lack it.',
        "Configs that inherit mmdet::... cannot be read, and OpenMMLab's mmcv cannot be compiled.",
        (SETUPTOOLS,),
    ),
    Trap(
        'mmengine<0.10.8 python>=3.12 !setuptools',
        'setuptools is not installed.',
        'mmengine {mmengine} imports the module distutils, which setuptools provides for Python {python}.',
        (SETUPTOOLS,),
    ),
    Trap(
        'setuptools<66.1 python>=3.12',
        'setuptools {setuptools} does not work with Python {python}.',
        'It cannot build packages, and pkg_resources cannot be imported; openmim 0.3.9 installs setuptools 60.',
        (SETUPTOOLS,),
    ),
)
"""If one of them applies, the exit code is 1."""

WORKED_AROUND = (
    'Nothing to do: importing bucketed_losses.mmdet works around it. Without that import, MMDetection fails.'
)
NOTES = (
    Trap(
        '!MMDetection',
        'MMDetection is not installed.',
        'The losses work without it. To train detectors, install mmcv first and MMDetection second: '
        'docs/getting_started.md, "Install".',
    ),
    Trap(
        'python>=3.14',
        'Python {python} is newer than the tested versions.',
        'The tested versions are Python 3.10 to 3.13.',
    ),
    Trap('lvis numpy>=1.24', 'lvis {lvis} uses np.float, which numpy {numpy} does not have.', WORKED_AROUND),
    Trap(
        'cityscapesscripts numpy>=2.4',
        'cityscapesscripts {cityscapesscripts} uses np.in1d, which numpy {numpy} does not have.',
        WORKED_AROUND,
    ),
    Trap(
        'mmengine<0.10.8 torch>=2.6',
        'mmengine {mmengine} cannot load its checkpoints with torch {torch}.',
        WORKED_AROUND,
    ),
    Trap(
        'MMDetection torch<2.4',
        'torch {torch} cannot load the checkpoints of MMEngine safely.',
        'Nothing to do: bucketed_losses.mmdet loads them with its own restricted unpickler.',
    ),
    Trap(
        'MMDetection !torchvision',
        'torchvision is not installed.',
        'Configs whose backbone starts from torchvision://resnet50, or from another network of torchvision, need it.',
        (f'pip install {TORCHVISION}',),
    ),
    Trap(
        'opencv-python opencv-python-headless',
        'opencv-python and opencv-python-headless are both installed.',
        'They write the same files; the one installed last is in use.',
        (HEADLESS,),
    ),
    Trap(
        'openmim click>=8.3',
        'The Slurm launcher of openmim {openmim} breaks with click {click}.',
        'mim train and mim test fail with --launcher slurm.',
        ('pip install "click<8.3"',),
    ),
    Trap(
        'onedl-mim click<8.3',
        'onedl-mim {onedl-mim} requires click 8.3 or newer, but click {click} is installed.',
        'The command mim may fail.',
        ('pip install "click>=8.3"',),
    ),
    Trap(
        'setuptools<77',
        'setuptools {setuptools} cannot build bucketed_losses without build isolation.',
        'pyproject.toml requires setuptools 77; openmim 0.3.9 installs setuptools 60.',
        (SETUPTOOLS,),
    ),
)
"""They do not change the exit code."""

CAUSES = (
    Cause(
        r"mmcv\._ext'",
        'mmcv has no compiled operators.',
        'pip builds mmcv in an environment without torch, and so without operators.',
        INSTALL_MMCV,
    ),
    Cause(
        r'undefined symbol|[Ss]ymbol not found|DLL load failed|lib(c10|torch|cudart)\S*: cannot open shared',
        'The operators of mmcv do not fit torch {torch}.',
        'They are compiled for another torch.',
        INSTALL_MMCV,
    ),
    Cause(
        'implementation for device cuda|not compiled with (GPU support|CUDA)',
        'mmcv is compiled without CUDA.',
        'Detectors cannot run on the GPU.',
        INSTALL_MMCV,
    ),
    Cause(
        'no kernel image',
        'mmcv is not compiled for the GPU {gpu}.',
        'Detectors cannot run on it.',
        COMPILE_MMCV,
    ),
    Cause(
        'torchvision::nms does not exist',
        'torchvision {torchvision} does not fit torch {torch}.',
        'It cannot be imported.',
        f'pip uninstall -y torchvision && pip install {TORCHVISION}',
    ),
    Cause(
        r'compiled using NumPy 1|numpy\.dtype size changed|numpy\.core\.multiarray failed|_ARRAY_API not found',
        'A package is compiled for another numpy.',
        'It cannot be imported.',
        'pip install "numpy<2"',
    ),
    Cause(
        r'lib(GL|gthread|glib|xcb|SM)\b\S*: cannot open',
        'OpenCV needs graphics libraries that this system lacks.',
        'MMDetection imports OpenCV.',
        HEADLESS,
    ),
)
