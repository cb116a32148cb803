"""A folder of results belongs to one config, whose sweep may grow."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UsageError
from .config_file import ConfigFile, read
from .files import atomic_write
from .hparams import keys_set
from .labels import flat
from .messages import shown
from .results import CONFIG
from .sweep import COSMETIC, expand
from .yaml_file import dump


def check_folder(out: Path, file: ConfigFile, write: bool = True) -> None:
    """Refuse a folder that holds the results of another config; otherwise write ``out/config.yaml``.

    A sweep may have changed since, for every run has a folder of its own; and where no run has begun,
    there are no results.

    Args:
        out: the folder of the results; made if missing.
        file: the config at hand.
        write: whether to write; otherwise the folder is only looked at.

    Raises:
        UsageError: the folder holds another config (the message lists what differs), or nothing can be
            written there.
    """
    for folder in (out / "runs", out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"cannot write results to {out}: {folder} is not a folder; choose another --out")
    path = out / CONFIG
    begun = any(out.glob("runs/*")) or any(out.glob("*/runs/*"))
    if begun and path.exists():
        _compare(out, read(path, plugins=False), file)  # its plugins may have moved; ours are here
    try:
        if write:
            atomic_write(path, dump({"name": file.name, **file.document.data}))
    except OSError as error:
        raise UsageError(f"cannot write results to {out}: {error.strerror}; choose another --out") from None


def _compare(out: Path, old: ConfigFile, new: ConfigFile) -> None:
    there, wanted = ({e.name: e for e in expand(file)} for file in (old, new))
    shared = [name for name in wanted if name in there]
    lines = []
    if not shared:
        before, after = (", ".join(filter(None, names)) or "one without a name" for names in (there, wanted))
        lines = [f"  experiments: {before} there, {after} wanted"]
    for name in shared:
        was, now = (flat(experiments[name].runs[0].config.resolved()) for experiments in (there, wanted))
        swept = [*_swept_keys(old, name), *_swept_keys(new, name), *COSMETIC]
        for key in dict.fromkeys([*was, *now]):
            ignored = any(key == other or key.startswith(f"{other}.") for other in swept)
            if not ignored and was.get(key) != now.get(key):
                title = f"{name}: {key}" if name else key
                lines.append(f"  {title}: {shown(was.get(key))} there, {shown(now.get(key))} wanted")
    if lines:
        text = "\n".join(lines)
        raise UsageError(f"{out} holds the results of another config; choose another --out\n{text}")


def _swept_keys(file: ConfigFile, name: str) -> list[str]:
    """The keys whose value in the first run says nothing about the others, followers included."""
    keys = [key.removesuffix(".name") for key in keys_set(file.experiment(name).get("sweep"))]
    if "seed" in keys:
        keys.append("solver.seed")
    if any(key.startswith("train") for key in keys):
        keys.append("evaluation.every")
    return keys
