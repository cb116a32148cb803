"""Two parties with unequal shares of the batches agree with one that saw them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric

from mtlsuite.metrics import Accuracy, Depth, Normals, Segmentation, TaskMetric


def metrics() -> list[TaskMetric]:
    return [Accuracy(), Segmentation(4), Depth(), Depth("pixel"), Normals(), Normals("pixel")]


def update(metric: TaskMetric, index: int) -> None:
    generator = torch.Generator().manual_seed(index)
    size = index + 1
    prediction = torch.randn(size, 4, 6, 6, generator=generator)
    mask = torch.rand(size, 1, 6, 6, generator=generator) < 0.5
    target = torch.nn.functional.normalize(torch.randn(size, 3, 6, 6, generator=generator), dim=1) * mask
    labels = torch.randint(0, 4, (size, 6, 6), generator=generator)
    match metric:
        case Accuracy():
            metric.update(prediction[:, :, 0, 0], labels[:, 0, 0])
        case Segmentation():
            metric.update(prediction, labels.where(mask[:, 0], -1))
        case Depth():
            metric.update(prediction[:, :1], target[:, :1].abs())
        case _:
            metric.update(prediction[:, :3], target)


def values(shares: list[int]) -> list[dict[str, Tensor]]:
    results = []
    for metric in metrics():
        for index in shares:
            update(metric, index)
        results.append(metric.compute())
    return results


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=0)


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(values([[0, 1, 2], [3]][rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(Metric, "merge_state"), reason="torchmetrics is older than merge_state")
def test_states_merge_by_their_reductions() -> None:
    for metric, other, expected in zip(metrics(), metrics(), values([0, 1, 2, 3]), strict=True):
        for index in (0, 1, 2):
            update(metric, index)
        update(other, 3)
        metric.merge_state(other)
        assert_same(metric.compute(), expected)


@pytest.mark.slow
def test_states_are_synchronised(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        for found, expected in zip(torch.load(tmp_path / f"{rank}.pt"), values([0, 1, 2, 3]), strict=True):
            assert_same(found, expected)
