"""The classes of the data sets in the layout of the MTAN code: their published names, or those of a file."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UsageError

LABEL_FOLDERS = {"label_7": 7, "label_19": 19, "label_2": 2, "label": 7}  # of Cityscapes; `label` is LibMTL's
NYU13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv",
    "wall", "window",
)  # fmt: skip
CITYSCAPES7 = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
CITYSCAPES19 = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


def class_names(
    root: Path, labels: str, n_classes: int | None, published: int | None, names: tuple[str, ...]
) -> tuple[tuple[str, ...], int]:
    """The names of the classes, where they are known, and their number.

    Args:
        labels: name of the label folder.
        n_classes: their number as an option says it.
        published: their number where nothing says it, and their published ``names``.

    Raises:
        UsageError: nothing says how many classes there are, or two things say different numbers.
    """
    file = root / f"{labels}.txt"
    if file.is_file():
        names = tuple(
            line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip()
        )
        if n_classes not in (None, len(names)) or not names:
            message = f"{file} names {len(names)} classes, found {n_classes}"
            raise UsageError(message if names else f"{file}: no class names in it", ("n_classes",))
        return names, len(names)
    count = n_classes or published
    if count is None:
        raise UsageError(
            f"how many classes? give n_classes, or name the classes in {file}, one a line", ("n_classes",)
        )
    return names if len(names) == count else (), count
