"""Polar factors against the singular value decomposition and the scalar quintic."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor

from mtlsuite.core.errors import UsageError
from mtlsuite.linalg import polar, polar_factor, polar_factors
from mtlsuite.models import SegNet

SHAPES = [
    (6, 6),
    (24, 30),
    (24, 37),
    (8, 200),
    (40, 8),
    (300, 4),
    (1, 50),
    (50, 1),
    (3, 5, 12),
    (2, 3, 12, 4),
]


def sample(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scalar_route(matrix: Tensor, steps: int) -> Tensor:
    """U p(...p(sigma / ||sigma||)...) V^T."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values[..., None, :]) @ right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_newton_schulz_is_the_quintic_of_the_singular_values(shape: tuple[int, ...], steps: int) -> None:
    matrix = sample(*shape)
    assert torch.allclose(polar_factor(matrix, steps=steps), scalar_route(matrix, steps), atol=1e-8)


@pytest.mark.parametrize("shape", [(24, 37), (64, 576), (512, 64), (3, 5, 12)])
def test_float32_agrees_with_float64(shape: tuple[int, ...]) -> None:
    matrix = sample(*shape)
    assert torch.allclose(polar_factor(matrix.float()).double(), polar_factor(matrix), atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 33), (64, 576), (300, 40), (1, 9), (4, 16, 64)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_singular_values_end_near_one(shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    values = torch.linalg.svdvals(polar_factor(sample(*shape, dtype=torch.float32), dtype=dtype))
    slack = 0.0 if dtype is None else 0.05
    assert 0.68 - slack <= values.min()
    assert values.max() <= 1.20 + slack


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
def test_a_single_row_or_column_has_the_norm_of_the_quintic_at_one(shape: tuple[int, int]) -> None:
    assert polar_factor(sample(*shape)).norm().item() == pytest.approx(0.6964, abs=5e-5)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_gram_side_is_the_same_map(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sample(2, 10, 90)
    gram = polar_factor(matrix, steps=steps)
    monkeypatch.setattr(polar, "_gram_side_is_stable", lambda *_: False)
    plain = polar_factor(matrix, steps=steps)
    assert torch.allclose(gram, plain, atol=1e-10)
    assert not torch.equal(gram, plain)  # or both took the same side


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [5, 12])
def test_wide_matrices_of_low_rank_stay_bounded(dtype: torch.dtype, steps: int) -> None:
    matrix = sample(64, 3, dtype=torch.float32) @ sample(3, 600, dtype=torch.float32, seed=1)
    factor = polar_factor(matrix, steps=steps, dtype=dtype)
    assert torch.linalg.matrix_norm(factor, 2) < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_is_the_polar_factor(shape: tuple[int, ...]) -> None:
    matrix = sample(*shape)
    factor = polar_factor(matrix, method="exact")
    small = factor if shape[-2] <= shape[-1] else factor.mT
    assert torch.allclose(
        small @ small.mT,
        torch.eye(small.shape[-2], dtype=torch.float64).expand(*small.shape[:-1], -1),
        atol=1e-10,
    )
    stretch = factor.mT @ matrix  # V S V^T: symmetric, with the nuclear norm as its trace
    assert torch.allclose(stretch, stretch.mT, atol=1e-9)
    assert torch.allclose(stretch.diagonal(dim1=-2, dim2=-1).sum(-1), torch.linalg.svdvals(matrix).sum(-1))


def test_exact_of_low_rank_is_the_partial_isometry() -> None:
    left, right = sample(9, 2), sample(2, 14, seed=1)
    factor = polar_factor(left @ right, method="exact")
    assert torch.allclose(
        torch.linalg.svdvals(factor), torch.tensor([1.0, 1.0] + 7 * [0.0]).double(), atol=1e-10
    )
    assert torch.allclose(factor @ torch.linalg.pinv(right) @ right, factor, atol=1e-10)


@pytest.mark.parametrize("method", ["newton_schulz", "exact"])
def test_zero_matrices_give_zeros(method: polar.Method) -> None:
    batch = sample(3, 4, 9)
    batch[1] = 0
    factors = polar_factor(batch, method)
    assert torch.equal(factors[1], torch.zeros(4, 9, dtype=torch.float64))
    assert torch.allclose(factors[2], polar_factor(batch[2], method), atol=1e-12)


@pytest.mark.parametrize("method", ["newton_schulz", "exact"])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_scale_does_not_matter(method: polar.Method, scale: float) -> None:
    matrix = sample(5, 12, dtype=torch.float32)
    assert torch.allclose(polar_factor(scale * matrix, method), polar_factor(matrix, method), atol=1e-5)


@pytest.mark.parametrize("method", ["newton_schulz", "exact"])
def test_orthogonal_equivariance_and_transposition(method: polar.Method) -> None:
    matrix = sample(6, 11)
    rotation = torch.linalg.qr(sample(6, 6, seed=2)).Q
    assert torch.allclose(
        polar_factor(rotation @ matrix, method), rotation @ polar_factor(matrix, method), atol=1e-10
    )
    assert torch.allclose(polar_factor(matrix.mT, method), polar_factor(matrix, method).mT, atol=1e-12)


@pytest.mark.parametrize("method", ["newton_schulz", "exact"])
def test_many_at_once_are_each_one_by_one(method: polar.Method) -> None:
    shapes = [(4, 9), (9, 4), (5, 5), (4, 9), (1, 7), (2, 4, 9), (5, 5)]
    matrices = [sample(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    matrices.append(sample(4, 9, dtype=torch.float32))
    for matrix, factor in zip(matrices, polar_factors(matrices, method), strict=True):
        assert factor.dtype == matrix.dtype
        assert factor.shape == matrix.shape
        assert torch.allclose(factor, polar_factor(matrix, method), atol=1e-6)
    assert polar_factors([], method) == []


def test_many_at_once_run_as_one_batch_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    original = polar._newton_schulz
    monkeypatch.setattr(
        polar, "_newton_schulz", lambda wide, steps: batches.append(wide.shape) or original(wide, steps)
    )
    polar_factors([sample(4, 9), sample(5, 5), sample(9, 4), sample(4, 9)])
    assert sorted(batches) == [(1, 5, 5), (3, 4, 9)]


@pytest.mark.parametrize(
    ("model", "n_shapes"),
    [
        pytest.param(torchvision.models.resnet18, 12, id="resnet18"),
        pytest.param(lambda: SegNet({"segmentation": 13, "depth": 1, "normals": 3}), 14, id="segnet"),
    ],
)
def test_real_layers_are_batched_and_take_the_cheaper_side(model, n_shapes, monkeypatch) -> None:
    """Flops by hand: with n <= 1.5 m the iteration on the matrix costs less, else that on the Gram matrix."""
    batches, on_gram_side = [], []
    iterate = polar._newton_schulz
    monkeypatch.setattr(polar, "_newton_schulz", lambda w, s: batches.append(w.shape) or iterate(w, s))
    monkeypatch.setattr(polar, "_gram_side", lambda w, _: on_gram_side.append(w.shape) or w)
    with torch.device("meta"):
        shapes = [p.flatten(1).shape for p in model().parameters() if p.dim() >= 2]
    matrices = [torch.zeros(shape) for shape in shapes]
    factors = polar_factors(matrices)
    assert [f.shape for f in factors] == [m.shape for m in matrices]
    assert len(batches) == len(set(batches)) == n_shapes
    assert sum(shape[0] for shape in batches) == len(matrices)
    cost = lambda m, n, steps=5: (  # noqa: E731
        steps * (4 * m * m * n + 2 * m**3),
        4 * m * m * n + (8 * steps - 6) * m**3,
    )
    assert on_gram_side == [shape for shape in batches if cost(*shape[1:])[1] < cost(*shape[1:])[0]]


def test_millions_of_float32_entries_are_summed_without_loss() -> None:
    unit = polar._to_unit_(sample(2, 512, 4608, dtype=torch.float32))
    assert unit.double().norm(dim=(1, 2)).sub(1).abs().max() < 5e-7


def test_an_empty_matrix_is_its_own_factor() -> None:
    assert polar_factor(torch.empty(0, 4)).shape == (0, 4)


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """Nothing is compiled yet, as in a new process."""
    polar._compiled.cache_clear()
    yield
    polar._compiled.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_is_the_same_to_rounding(dtype: torch.dtype) -> None:
    shapes = [(4, 9), (9, 4), (5, 5), (1, 7), (64, 576), (40, 50), (64, 576), (2, 4, 9)]
    matrices = [sample(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile does not work here")
        compiled = polar_factors(matrices, compile=True)
    assert polar._compiled("cpu") is not polar._newton_schulz
    for found, expected in zip(compiled, polar_factors(matrices), strict=True):
        assert torch.allclose(found, expected, atol={torch.float32: 1e-5, torch.float64: 1e-13}[dtype])


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("\nno C++ compiler found")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("compile_", [refuse, lambda *_, **__: refuse], ids=["at once", "at the first call"])
def test_where_nothing_can_be_compiled_one_warning_says_so(compile_, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", compile_)
    matrix = sample(4, 9)
    with pytest.warns(
        UserWarning, match=r"torch.compile does not work here on cpu \(no C\+\+ compiler found\)"
    ):
        first = polar_factor(matrix, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = polar_factor(matrix, compile=True)
    assert torch.equal(first, polar_factor(matrix))
    assert torch.equal(second, first)


def test_the_result_has_the_dtype_of_the_matrix_and_the_matrix_stays() -> None:
    matrix = sample(4, 8, dtype=torch.float32)
    before = matrix.clone()
    for method in ("newton_schulz", "exact"):
        assert polar_factor(matrix, method, dtype=torch.bfloat16).dtype == torch.float32
        assert polar_factor(matrix.bfloat16(), method).dtype == torch.bfloat16
    assert torch.equal(matrix, before)


def test_autocast_does_not_lower_the_precision() -> None:
    matrix = sample(6, 40, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = polar_factor(matrix)
    assert torch.equal(inside, polar_factor(matrix))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton"}, "did you mean 'newton_schulz'"),
        ({"steps": 0}, "at least 1 step"),
        ({"matrix": torch.ones(4)}, r"\(4,\)"),
        ({"matrix": torch.eye(4).long()}, "int64"),
        ({"dtype": torch.int32}, "int32"),
        ({"method": "exact", "compile": True}, "compile=True is for .*'newton_schulz'"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: dict[str, object], message: str) -> None:
    options = {key: value for key, value in arguments.items() if key != "matrix"}
    matrix = arguments.get("matrix", torch.eye(4))
    with pytest.raises(UsageError, match=message):
        polar_factor(matrix, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        polar_factors([matrix], **options)  # type: ignore[list-item, arg-type]


@pytest.mark.parametrize("shape", [(3, 4), (2, 7), (2, 3, 3)])
def test_newton_schulz_can_be_differentiated(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(polar_factor, matrix.requires_grad_())
