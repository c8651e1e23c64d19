"""The measure of a translation, against values worked out by hand and by brute force."""

import json

import pytest
import torch

from fastgan.evaluation import translation_error as evaluation
from fastgan.evaluation.translation_error import ColourFit, evaluate


def image(*levels):
    """A 1 x 1 x n picture in [-1, 1] from levels in [0, 1]."""
    return torch.tensor(levels, dtype=torch.float32).reshape(1, 1, -1) * 2 - 1


def test_by_hand():
    # Truth is 1 - x, but for one pixel of four.
    pairs = [{"A": image(0.0, 0.2), "B": image(1.0, 0.8)}, {"A": image(0.4, 1.0), "B": image(0.6, 1.0)}]
    result = evaluate(lambda images, direction: images * 0, pairs)
    assert result["pairs"] == 2 and result["scale"] == "mean absolute error, image values in [0, 1]"
    forward = result["AtoB"]
    assert forward["translation"] == pytest.approx((0.5 + 0.3 + 0.1 + 0.5) / 4)
    assert forward["identity"] == pytest.approx((1.0 + 0.6 + 0.2 + 0.0) / 4)
    # The line of least squares: means 0.4 and 0.85, covariance 0.01, variance 0.14.
    slope, offset = 1 / 14, 0.85 - 0.4 / 14
    mapped = [slope * x + offset for x in (0.0, 0.2, 0.4, 1.0)]
    assert forward["affine"] == pytest.approx(sum(abs(a - b) for a, b in zip(mapped, (1.0, 0.8, 0.6, 1.0))) / 4)
    assert result["BtoA"]["translation"] == pytest.approx((0.5 + 0.3 + 0.1 + 0.5) / 4)


def test_a_colour_map_is_found_exactly():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 128, (3, 8, 8), generator=generator) / 255
    slope, offset = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 10 / 255, 100 / 255])
    b = a * slope[:, None, None] + offset[:, None, None]
    fit = ColourFit()
    fit.add(a, b)
    torch.testing.assert_close(fit.lines(), torch.stack([slope, offset], 1).double(), atol=1e-6, rtol=0)


def test_least_squares_is_the_least():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 9, 9, generator=generator, dtype=torch.float64)
    fit = ColourFit()
    fit.add(x[:, :4], y[:, :4])
    fit.add(x[:, 4:], y[:, 4:])
    for channel, line in enumerate(fit.lines()):
        columns = torch.stack([x[channel].flatten(), torch.ones(81, dtype=torch.float64)], 1)
        expected = torch.linalg.lstsq(columns, y[channel].flatten()[:, None]).solution[:, 0]
        torch.testing.assert_close(line, expected, rtol=1e-9, atol=1e-12)


def test_a_constant_source_has_the_mean():
    fit = ColourFit()
    fit.add(torch.full((1, 1, 3), 0.2), torch.tensor([[[0.0, 0.2, 1.0]]]))
    assert fit.lines()[0].tolist() == pytest.approx([0.0, 0.4])
    with pytest.raises(ValueError, match="at least one pair"):
        ColourFit().lines()


def test_colour_maps_are_clamped():
    """The line is x + 1/6, which leaves [0, 1] before x = 1."""
    pairs = [{"A": image(0.0, 0.5, 1.0), "B": image(0.0, 1.0, 1.0)}]
    errors = (1 / 6, 1 / 3, 0.0)
    assert evaluate(lambda images, direction: images, pairs)["AtoB"]["affine"] == pytest.approx(sum(errors) / 3)


def test_domains_of_other_channels_have_no_identity():
    pairs = [{"A": torch.zeros(3, 2, 2), "B": torch.ones(1, 2, 2)}]
    channels = {"AtoB": 1, "BtoA": 3}
    result = evaluate(lambda images, direction: images[:, :1].expand(-1, channels[direction], -1, -1), pairs)
    assert result["AtoB"] == {"translation": 0.5, "identity": None, "affine": None}
    assert "-" in evaluation.report(result)


def test_a_limit_spreads_over_the_pairs():
    seen = []

    class Pairs(list):
        def __getitem__(self, index):
            seen.append(index)
            return {"A": image(0.0), "B": image(0.0)}

    assert evaluate(lambda images, direction: images, Pairs(range(10)), directions=["AtoB"], limit=5)["pairs"] == 5
    assert set(seen) == {0, 2, 4, 6, 8}
    with pytest.raises(ValueError, match="at least one pair"):
        evaluate(lambda images, direction: images, [])


def test_report_and_file(tmp_path):
    result = evaluate(lambda images, direction: images, [{"A": image(0.0, 1.0), "B": image(1.0, 0.0)}])
    text = evaluation.report(result)
    assert "over 1 held-out pairs (mean absolute error, image values in [0, 1])" in text
    assert text.splitlines()[1].split() == ["translation", "identity", "colour", "map"]
    assert text.splitlines()[2].split() == ["AtoB", "1.0000", "1.0000", "0.0000"]
    evaluation.write_metrics(tmp_path / "metrics.json", result)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
