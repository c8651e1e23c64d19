"""Flags of the published CycleGAN and pix2pix code: taken, or answered by what serves instead."""

import re

import pytest

from fastgan import recipes, translate
from fastgan._errors import UserError
from fastgan.cli.flags import ALMOST, Parser
from fastgan.train import parser_of

# Options of the published code (options/*.py, models/*_model.py, util of 2017 to 2025), with a value where they take one.
BASE = """--dataroot DIR|--name x|--gpu_ids 0|--checkpoints_dir DIR|--model cycle_gan|--input_nc 3|--output_nc 3|--ngf 64|--ndf 64|
--netD basic|--netG resnet_9blocks|--n_layers_D 3|--norm instance|--init_type normal|--init_gain 0.02|--no_dropout|
--dataset_mode unaligned|--direction AtoB|--serial_batches|--num_threads 4|--batch_size 1|--load_size 286|--crop_size 256|
--max_dataset_size 100|--preprocess resize_and_crop|--no_flip|--display_winsize 256|--epoch latest|--load_iter 0|--verbose|
--suffix x|--use_wandb|--wandb_project_name x"""
TRAIN = """--display_freq 400|--display_ncols 4|--display_id 1|--display_server x|--display_env main|--display_port 8097|
--update_html_freq 1000|--print_freq 100|--no_html|--save_latest_freq 5000|--save_epoch_freq 5|--save_by_iter|
--continue_train|--epoch_count 1|--phase train|--n_epochs 100|--n_epochs_decay 100|--beta1 0.5|--lr 0.0002|--gan_mode lsgan|
--pool_size 50|--lr_policy linear|--lr_decay_iters 50|--lambda_A 10|--lambda_B 10|--lambda_identity 0.5|--lambda_L1 100"""
TEST = "--results_dir DIR|--aspect_ratio 1|--phase test|--eval|--num_test 50|--model_suffix _A"
OLDER = """--niter 100|--niter_decay 100|--which_direction AtoB|--which_epoch latest|--which_model_netG x|--which_model_netD x|
--loadSize 286|--fineSize 256|--batchSize 1|--nThreads 2|--no_lsgan|--identity 0.5|--resize_or_crop none|--how_many 50|--ntest 5"""
FLAGS = [flag.strip() for group in (BASE, TRAIN, TEST, OLDER) for flag in group.replace("\n", "").split("|")]
PARSERS = {
    **{name: lambda name=name: parser_of(recipes.get(name)) for name in ("cyclegan", "pix2pix")},
    "translate": translate._parser,
}


def outcome(parser, flag):
    """None where the flag is taken, or what is said."""
    try:
        parser.parse(flag.split())
    except UserError as error:
        return str(error)
    return None


def own(parser):
    return [each for action in parser._actions for each in action.option_strings]


@pytest.mark.parametrize("program", ["cyclegan", "pix2pix"])
@pytest.mark.parametrize("flag", FLAGS)
def test_training_takes_or_answers_each_flag(program, flag):
    parser = PARSERS[program]()
    message = outcome(parser, flag)
    if message is None:
        return
    name = flag.split()[0].replace("_", "-")
    assert message.startswith(f"unknown argument {name!r}")
    assert "did you mean" not in message and "--help" not in message
    named = re.findall(r"--[\w-]+", message.split(": ", 1)[1])
    assert set(named) <= set(own(parser)), "a hint names flags that there are"


def test_there_are_65_and_more():
    assert len(FLAGS) > 65 and len(set(FLAGS)) == len(FLAGS)


@pytest.mark.parametrize(
    "flag", [f.strip() for f in TEST.split("|")] + ["--gpu_ids 0", "--epoch latest", "--direction AtoB"]
)
def test_translate_takes_or_answers_flags_of_the_test_script(flag):
    parser = PARSERS["translate"]()
    message = outcome(parser, f"NETWORKS IMAGES {flag}")
    assert message is None or "--help" not in message and "did you mean" not in message
    assert message is None or set(re.findall(r"--[\w-]+", message.split(": ", 1)[1])) <= set(own(parser))


def test_hints_are_almost_the_same_word():
    parser = Parser("p")
    for flag in ("--n-epochs", "--batch-size", "--lr"):
        parser.add_argument(flag)
    assert 0.8 <= ALMOST < 1
    for typed, meant in (("--n-epoch", "--n-epochs"), ("--batchsize", "--batch-size"), ("--batch", "--batch-size")):
        assert outcome(parser, f"{typed} 1").endswith(f"did you mean {meant}?")
    for typed in ("--seeds", "--epochs-of-decay", "--gpus", "--rl"):
        assert "did you mean" not in outcome(parser, f"{typed} 1")
