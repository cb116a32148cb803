"""The benchmark's sharpness by hand, and what is true of each method."""

import pytest
import scale_invariance as benchmark
import torch
from rich.console import Console
from torch import nn

import mtlsuite as mtl


@pytest.fixture(scope="module", params=[False, True], ids=["without biases", "with biases"])
def measured(request):
    return benchmark.measure(request.param, 1, 30, (0.1, 1.0, 10.0), Console())


@pytest.fixture(scope="module")
def network():
    return benchmark.trained_network(1, True, 5, benchmark.digits())


@pytest.mark.parametrize(
    ("method", "rho", "eta"), [("SAM", 0.05, None), ("ASAM", 0.5, 0.0), (None, 0.5, 0.01)]
)
def test_sharpness_is_the_rise_of_the_loss_along_the_papers_ascent(network, method, rho, eta):
    method = method or next(name for name in benchmark.ASCENTS if "0.01" in name)
    pixels, labels = data = benchmark.digits()
    parameters = dict(network.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}

    def loss(values):
        return nn.functional.cross_entropy(torch.func.functional_call(network, values, (pixels,)), labels)

    gradients = dict(zip(parameters, torch.autograd.grad(loss(parameters), parameters.values()), strict=True))
    scales = {name: 1.0 if eta is None else p.detach().abs() + eta for name, p in parameters.items()}
    norm = torch.cat([(scales[name] * g).flatten() for name, g in gradients.items()]).norm()
    there = {name: p + rho * scales[name] ** 2 * gradients[name] / norm for name, p in before.items()}
    expected = float(loss(there) - loss(before))
    assert benchmark.sharpness(network, benchmark.ASCENTS[method], data) == pytest.approx(expected, rel=1e-9)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_without_an_offset_the_offset_wrapper_is_asam(network):
    data = benchmark.digits()
    found = [
        benchmark.sharpness(network, ascent, data)
        for ascent in (
            lambda inner: benchmark.OffsetASAM(inner, rho=0.5, eta=0.0),
            lambda inner: mtl.SAM(inner, rho=0.5, adaptive=True),
        )
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-10)


@pytest.mark.parametrize("factor", [0.01, 3.0, 100.0])
def test_a_rescaled_network_is_the_same_function_of_other_weights(network, factor):
    pixels, _ = benchmark.digits()
    rescaled = benchmark.rescale(network, factor)
    torch.testing.assert_close(rescaled(pixels), network(pixels), rtol=1e-10, atol=1e-10)
    scales = [factor, factor, 1 / factor, 1.0]
    for before, after, scale in zip(network.parameters(), rescaled.parameters(), scales, strict=True):
        torch.testing.assert_close(after, scale * before)


def test_asam_is_constant_and_sam_is_not(measured):
    assert measured.change("ASAM") < 1e-9
    assert measured.ratios("SAM")[0, [0, 2]].min() > 2
    assert measured.change("SAGE, scale none") > 1
    assert measured.change("ASAM, T = |theta| + 0.01") > 1e-3


def test_sage_is_constant_where_there_are_no_biases(measured):
    assert (measured.change("SAGE") < 1e-9) == (not measured.biases)


def test_ratios_are_taken_seed_by_seed_to_factor_1():
    values = torch.tensor([[2.0, 4.0, 1.0], [30.0, 10.0, 5.0]]).numpy()
    made = benchmark.Measurement(False, (0.1, 1.0, 10.0), {"SAM": values})
    assert made.ratios("SAM").tolist() == [[0.5, 1.0, 0.25], [3.0, 1.0, 0.5]]
    assert made.change("SAM") == 2.0


def test_training_learns_the_digits():
    pixels, labels = data = benchmark.digits()
    trained = benchmark.trained_network(0, False, 60, data)
    assert (trained(pixels).argmax(1) == labels).double().mean() > 0.9
    assert [p.dtype for p in trained.parameters()] == [torch.float64] * 2


def test_the_benchmark_writes_tables_and_a_figure(tmp_path, capsys):
    options = ["--seeds", "1", "--steps", "2", "--factors", "0.5", "--out", str(tmp_path)]
    assert benchmark.main(options) == 0
    for name in ("results.csv", "results.md", "sharpness.png", "sharpness.svg"):
        assert (tmp_path / name).stat().st_size > 100
    printed = capsys.readouterr().out
    assert "ASAM: constant" in printed
    assert "SAM: changes" in printed
