"""Every solver of the suite in LibMTL: as a weighting of its trainer, or in a trainer with full view.

Both versions of LibMTL fit: PyPI's 1.1.5, where weightings and architectures are given as classes, and the
git version, where they are given by name. Importing this module makes 1.1.5 run on current packages, in
memory; a warning says what was repaired.
"""

from ._libmtl_trainer import Trainer
from ._libmtl_weighting import weighting

__all__ = ["Trainer", "weighting"]
