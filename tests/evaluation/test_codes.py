import pytest
import torch

from fastgan.evaluation import codes as codes_file
from fastgan.evaluation.codes import check_class, decode, mixtures, nearest, parse_classes, path


def test_a_path_is_straight_even_and_ends_where_it_should():
    start, end = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    for steps in (1, 3, 10):
        codes = path(start, end, steps)
        assert codes.shape == (steps + 1, 7)
        assert torch.equal(codes[0], start) and torch.equal(codes[-1], end)
        torch.testing.assert_close(codes.diff(dim=0), ((end - start) / steps).expand(steps, -1))


def test_mixtures_of_classes():
    assert mixtures(2, 2, 4, 3).tolist() == [2, 2, 2, 2] and mixtures(2, 2, 4, 3).dtype == torch.int64
    mixed = mixtures(1, 3, 4, 4)
    assert mixed[0].tolist() == [0, 1, 0, 0] and mixed[-1].tolist() == [0, 0, 0, 1]
    assert mixed[1].tolist() == [0, 0.75, 0, 0.25] and torch.equal(mixed.sum(1), torch.ones(5))


def test_nearest_codes_come_in_order():
    gallery = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    distances, indices = nearest(torch.zeros(2), gallery, 3)
    assert indices.tolist() == [3, 1, 2] and distances.tolist() == [0, 1, 1]
    distances, indices = nearest(torch.zeros(2), gallery, 9)
    assert indices.tolist() == [3, 1, 2, 0] and distances[-1] == 5


@pytest.mark.parametrize("text, classes", [("3", [3]), ("3,1,4,1", [3, 1, 4]), ("0-2, 9", [0, 1, 2, 9]), ("5-5", [5])])
def test_classes_are_read(text, classes):
    assert parse_classes(text, 10) == classes


@pytest.mark.parametrize("text", ["", "three", "3-", "-3", "5-3", "1,,2", "1.5"])
def test_what_names_no_classes_is_an_error(text):
    with pytest.raises(ValueError, match="names no classes: write them as 3, as 0,2,4 or as 0-4"):
        parse_classes(text, 10)


def test_classes_that_are_not_there_are_errors():
    for text in ("8-12", "0-12,3", f"{10**15}-{10**16},12"):  # told at once, however many are asked for
        with pytest.raises(ValueError, match="there is no class 1(2|0{15}): classes run from 0 to 9"):
            parse_classes(text, 10)
    with pytest.raises(ValueError, match="there is no class -1: classes run from 0 to 9"):
        check_class(-1, 10)
    assert check_class(9, 10) == 9


def test_codes_are_decoded_a_few_at_a_time(monkeypatch):
    class Recipe:
        seen = []  # noqa: RUF012

        def decode(self, z, labels):
            self.seen.append((len(z), None if labels is None else labels.tolist()))
            return z[:, None, None] * 2

    monkeypatch.setattr(codes_file, "AT_ONCE", 2)
    codes = torch.arange(10.0).view(5, 2)
    images = decode(Recipe(), codes, torch.arange(5))
    assert not Recipe.seen and torch.equal(next(images), 2 * codes[0][None, None]) and Recipe.seen == [(2, [0, 1])]
    assert torch.equal(torch.cat(list(images)), 2 * codes[1:, None]) and Recipe.seen[1:] == [(2, [2, 3]), (1, [4])]
    Recipe.seen.clear()
    assert len(list(decode(Recipe(), codes))) == 5 and Recipe.seen == [(2, None), (2, None), (1, None)]
