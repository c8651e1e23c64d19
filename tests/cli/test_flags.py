"""How option dataclasses become flags, and which value wins."""

import json
from dataclasses import dataclass, field, fields

import pytest

from fastgan import recipes
from fastgan._errors import UserError
from fastgan.cli.flags import Parser, add_options, normalise
from fastgan.data import DataOptions
from fastgan.training import settings
from fastgan.training.train_options import TrainOptions
from tests.training.tiny_recipe import CLASSES, TinyDataOptions, TinyOptions


def parse(*argv):
    parser = Parser("fastgan")
    for title, options in CLASSES.items():
        add_options(parser, options, title)
    return vars(parser.parse(argv))


def test_only_what_was_given():
    assert parse() == {}
    assert parse("--max-steps", "5", "--lr=0.1", "--norm", "batch") == {"max_steps": 5, "lr": 0.1, "norm": "batch"}


@pytest.mark.parametrize("flag", ["--load_size", "--load-size"])
@pytest.mark.parametrize("form", ["apart", "together"])
def test_dashes_and_underscores(flag, form):
    argv = [flag, "143"] if form == "apart" else [f"{flag}=143"]
    assert parse(*argv) == {"load_size": 143}


def test_normalise_leaves_values_alone():
    assert normalise(["--a_b=c_d", "e_f", "-g_h", "--", "--i_j"]) == ["--a-b=c_d", "e_f", "-g_h", "--", "--i_j"]


def test_an_option_of_two_numbers():
    parser = Parser("fastgan")
    add_options(parser, DataOptions, "data")
    given = vars(parser.parse(["--range", "-1024", "3071.5"]))
    assert given == {"range": [-1024, 3071.5]}
    stored = json.loads(json.dumps(settings.resolve("x", "small", {"data": DataOptions}, given).to_json()))
    assert settings.resume(stored, {"data": DataOptions}, given).groups["data"].range == [-1024, 3071.5]
    with pytest.raises(UserError, match="--range: expected 2 arguments"):
        parser.parse(["--range", "3"])


def test_switches():
    assert parse("--no_dropout", "--resume") == {"dropout": False, "resume": True}
    assert parse("--dropout", "--no-resume") == {"dropout": True, "resume": False}


def test_none_for_optional_numbers():
    assert parse("--max-dataset-size", "none") == {"max_dataset_size": None}
    assert parse("--dataroot", "none") == {"dataroot": "none"}


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--lr", "fast"], "--lr: 'fast' is not a number"),
        (["--lr", "nan"], "--lr: 'nan' is not a number"),
        (["--lr=-inf"], "--lr: '-inf' is not a number"),
        (["--max-steps", "1.5"], "--max-steps: '1.5' is not a whole number or none"),
        (["--norm", "group"], "--norm: invalid choice: 'group'"),
        (["--batchsize", "4"], "unknown argument '--batchsize': did you mean --batch-size?"),
        (["--load_sise=4"], "unknown argument '--load-sise=4': did you mean --load-size?"),
        (["horse"], "unknown argument 'horse': fastgan --help lists what there is"),
        (["--load"], "unknown argument '--load': did you mean"),
        (["--lr"], "--lr: expected one argument"),
    ],
)
def test_errors_are_sentences(argv, sentence):
    with pytest.raises(UserError) as raised:
        parse(*argv)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


def test_help_is_grouped_and_tells_defaults():
    parser = Parser("fastgan")
    add_options(parser, TinyDataOptions, "data", leave_out=["serial_batches"])
    add_options(parser, TinyOptions, "the recipe tiny")
    text = " ".join(parser.format_help().split())
    assert "data:" in text and "the recipe tiny:" in text
    assert "learning rate (default: 0.001)" in text and "size (default: 286)" in text and "--serial" not in text
    assert "--dropout, --no-dropout dropout (default: yes)" in text
    assert text.count("--input-nc") == 2  # usage and data; the recipe's field of that name is the same flag


def test_all_kinds_of_annotation():
    @dataclass
    class Kinds:
        percent: float = field(default=0.5, metadata={"help": "50 % of it"})
        number: int | float = field(default=1, metadata={"help": "any number"})

    parser = Parser("fastgan")
    add_options(parser, Kinds, "kinds")
    assert "50 % of it (default: 0.5)" in parser.format_help()
    assert vars(parser.parse(["--percent", "0.25", "--number", "2.5"])) == {"percent": 0.25, "number": 2.5}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_option_of_a_recipe_can_be_typed(name):
    """As it is shown in the help: its default, and each of its choices."""
    options = recipes.get(name).Options
    parser = Parser(name)
    add_options(parser, options, name)
    for each in fields(options):
        if each.default is None or each.metadata.get("from_data") or isinstance(each.default, bool):
            continue
        for value in {each.default, *each.metadata.get("choices", ())}:
            typed = vars(parser.parse([f"--{each.name}", str(value)]))
            assert typed == {each.name: value} and type(typed[each.name]) is type(value)


def test_later_layers_win_and_shared_names_reach_all():
    made = settings.resolve("tiny", "small", CLASSES, {"lr": 0.1, "width": 8}, {"lr": 0.2, "input_nc": 1})
    assert made.groups["recipe"] == TinyOptions(width=8, lr=0.2, input_nc=1)
    assert made.groups["data"].input_nc == 1
    assert made.groups["train"] == TrainOptions()


def test_unknown_and_impossible_values():
    with pytest.raises(UserError, match="tiny has no option 'depth'"):
        settings.resolve("tiny", "small", CLASSES, {"depth": 3})
    with pytest.raises(UserError, match="norm is 'group': choose from instance, batch"):
        settings.resolve("tiny", "small", CLASSES, {"norm": "group"})
    with pytest.raises(ValueError, match="--max-steps is 0: it must be 1 or more"):
        TrainOptions(max_steps=0)
    with pytest.raises(ValueError, match="--resume goes on .* give one of them"):
        TrainOptions(resume=True, overwrite=True)


def test_settings_survive_json():
    made = settings.resolve("tiny", "small", CLASSES, {"lr": 0.1, "max_steps": 7, "name": "here", "dataroot": "/d"})
    description = json.loads(json.dumps(made.to_json()))
    assert settings.is_run_description(description)
    assert "name" not in description["options"]["train"]
    again = settings.resume(description, CLASSES, {})
    assert again.groups["recipe"] == made.groups["recipe"] and again.groups["data"] == made.groups["data"]
    assert again.groups["train"].max_steps == 7 and again.preset == "small"


def test_resume_takes_what_may_change_and_refuses_the_rest():
    description = settings.resolve("tiny", "small", CLASSES, {"max_steps": 7}).to_json()
    given = {"max_steps": 9, "n_epochs": 5, "width": 4, "resume": True, "name": "x"}
    made = settings.resume(description, CLASSES, given)
    assert made.groups["train"].max_steps == 9 and made.groups["recipe"].n_epochs == 5
    with pytest.raises(UserError, match="--width 8: the run was started with 4, which is fixed"):
        settings.resume(description, CLASSES, {"width": 8})
    with pytest.raises(UserError, match="--seed 1: the run was started with 0"):
        settings.resume(description, CLASSES, {"seed": 1})


def test_preset_is_chosen_by_data_and_device():
    presets = {"paper": {}, "laptop": {}, "gpu": {}}
    assert settings.choose_preset(presets, None, "somewhere", "cuda") == ("paper", "--dataroot is given")
    assert settings.choose_preset(presets, None, None, "cuda")[0] == "gpu"
    assert settings.choose_preset(presets, None, None, "cpu")[0] == "laptop"
    assert settings.choose_preset(presets, "gpu", None, "cpu") == ("gpu", "asked for")
    with pytest.raises(UserError, match="unknown preset 'huge': choose from paper, laptop, gpu"):
        settings.choose_preset(presets, "huge", None, "cpu")
