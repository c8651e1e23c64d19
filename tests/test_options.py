"""What an option says of itself is what every way to give it a value holds it to."""

import dataclasses
import math
from dataclasses import dataclass

import pytest

from fastgan import recipes
from fastgan._errors import UserError
from fastgan._options import Option, check_options, option, options_of, read_options, with_default
from fastgan.data import DataOptions
from fastgan.training.train_options import TrainOptions

GROUPS = {name: recipes.get(name).Options for name in recipes.RECIPES} | {"train": TrainOptions, "data": DataOptions}
FREE = {"name", "checkpoints_dir", "preset", "device", "backend", "dataroot"}  # any text, which others look at
FREE |= {"save_every", "sample_every"}  # whose form tests/training/test_interval.py tests


def outside(each: Option) -> list[tuple[object, str]]:
    """(a value that the option does not take, the bound that a message names) for each of its bounds."""
    found: list[tuple[object, str]] = []
    if each.choices:
        other = "none of them" if each.kind is str else max(each.choices) + 1
        found.append((other, f"choose from {', '.join(map(str, each.choices))}"))
    if each.least is not None:
        found.append((each.kind(each.least - 1), f"it must be {each.least} or more"))
    if each.most is not None:
        found.append((each.kind(each.most + 1), f"it must be {each.most} or less"))
    if each.below is not None:
        found.append((each.kind(each.below), f"it must be less than {each.below}"))
    if each.kind is float:
        found += [(value, "it must be a finite number") for value in (math.nan, math.inf, -math.inf)]
    if each.kind is list:
        found += [([5.0, 5.0], "the lower one first"), ([1.0], "the lower one first")]
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_no_option_takes_a_value_out_of_its_bounds(group):
    """Each number has a bound, each word its choices; a message names flag, value and bound."""
    options = GROUPS[group]
    for name, each in options_of(options).items():
        wrong = outside(each)
        assert wrong or each.kind is bool or name in FREE, f"{name} has no bound"
        assert not (each.kind in (int, float) and not each.choices and each.least is None), f"{name} has no least value"
        for value, bound in wrong:
            for make in (lambda given: options(**given), lambda given: read_options(options, given)):
                with pytest.raises(ValueError) as caught:
                    make({name: value})
                said = str(caught.value)
                shown = " ".join(f"{number:g}" for number in value) if isinstance(value, list) else repr(value)
                assert said.startswith(f"{each.flag} is {shown}") and "\n" not in said, said
                assert bound in said or "must be a finite number" in said, said


@pytest.mark.parametrize("group", GROUPS)
def test_no_option_takes_a_value_of_another_kind_from_a_file(group):
    options = GROUPS[group]
    for name, each in options_of(options).items():
        for value in (each.kind, {}, "text", 1.5, True, 7, [1, "2"], 2**65):
            kinds = (each.kind, int) if each.kind is float else (each.kind,)
            if type(value) in kinds and value != 2**65 and not isinstance(value, list):
                continue
            with pytest.raises(UserError, match=f"^{each.flag} is "):
                read_options(options, {name: value})


@pytest.mark.parametrize("group", GROUPS)
def test_defaults_are_values_that_can_be(group):
    options = GROUPS[group]
    assert all(each.help for each in options_of(options).values())
    check_options(options())
    assert read_options(options, dataclasses.asdict(options())) == options()


def test_what_a_resumed_run_may_change_is_said_by_the_options():
    may = {group: {n for n, each in options_of(GROUPS[group]).items() if each.resume} for group in GROUPS}
    assert may["data"] == {"dataroot", "num_threads", "cache", "follow_links"}
    assert may["cyclegan"] == may["pix2pix"] == {"lr", "n_epochs", "n_epochs_decay"}
    latent = GROUPS.keys() - {"train", "data", "cyclegan", "pix2pix"}
    assert all(may[name] == {"lr", "n_epochs"} for name in latent)
    assert GROUPS["train"].__dataclass_fields__.keys() - may["train"] == {"preset", "seed"}


def test_another_default_changes_nothing_else():
    @dataclass(frozen=True)
    class One:
        size: int = option(3, "a size", least=2, resume=True)

    @dataclass(frozen=True)
    class Other(One):
        size: int = with_default(One, "size", 5)

    one, other = options_of(One)["size"], options_of(Other)["size"]
    assert other == dataclasses.replace(one, default=5) and Other() == Other(5)
    with pytest.raises(UserError, match="^--size is 1: it must be 2 or more$"):
        check_options(Other(1))


def test_none_is_said_where_it_is_allowed():
    with pytest.raises(UserError, match="^--max-dataset-size is 0: it must be 1 or more, or none$"):
        DataOptions(max_dataset_size=0)
    assert DataOptions(max_dataset_size=None).max_dataset_size is None
    with pytest.raises(UserError, match="^--lr is None, which is not of the kind float or int$"):
        read_options(GROUPS["gan"], {"lr": None})
