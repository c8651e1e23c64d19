"""What serves here in place of a flag of the published CycleGAN and pix2pix code that we have under another name, or
do not have.

Flags that have their published name here need no entry.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_NO_VISDOM = "there is no visdom server and no page of results here: sample grids are in the run's folder"
_NO_WANDB = "there is no wandb logging here: losses.jsonl in the run's folder holds the curves"
_BY_RECIPE = "the recipe that is named first decides: fastgan.train cyclegan, or fastgan.train pix2pix"
_NO_IDENTITY = "the identity loss is CycleGAN's: no other recipe has one"
_EPOCHS = "--n-epochs gives the epochs at the full learning rate"
_DECAY = "--n-epochs-decay gives the epochs of decay after --n-epochs"
_RESUME = "--resume goes on with the run of this name, from its latest checkpoint"
_LATEST = "a run keeps its latest networks alone, and they are the ones used"

# The first sentence all of whose flags the command has is the answer; flags are written with dashes.
_ANSWERS: dict[str, tuple[str, ...]] = {
    # run
    "gpu-ids": ("--device cuda:N takes one GPU, and --device cpu takes none",),
    "model": (_BY_RECIPE,),
    "dataset-mode": ("the recipe decides how --dataroot is read: pairs of folders, or images side by side",),
    "phase": (
        "--dataroot DIR is the folder that holds the train and test folders; training reads train, "
        "and measures on test",
        "the images are those of the paths that are named",
    ),
    "verbose": (
        "--print-freq 1 prints every step, and --debug the traceback of an error",
        "--debug shows the traceback of an error",
    ),
    "suffix": ("--name names the run's folder as it is",),
    "epoch": (_RESUME, _LATEST),
    "load-iter": (_RESUME, _LATEST),
    "continue-train": (_RESUME,),
    "epoch-count": ("--resume goes on counting where the run stopped; --n-epochs may then be another",),
    # display and saving
    "display-ncols": ("--sample-count gives the images of a sample grid",),
    "display-id": (_NO_VISDOM,),
    "display-server": (_NO_VISDOM,),
    "display-env": (_NO_VISDOM,),
    "display-port": (_NO_VISDOM,),
    "display-winsize": (_NO_VISDOM,),
    "update-html-freq": ("--sample-every gives the steps from one sample grid to the next",),
    "no-html": ("no page of results is written here; --sample-every 0 writes no sample grids",),
    "save-epoch-freq": ("--save-every gives the steps, not epochs, from one checkpoint to the next",),
    "save-by-iter": ("--save-every gives the steps from one checkpoint to the next; the latest ones are kept",),
    "use-wandb": (_NO_WANDB,),
    "wandb-project-name": (_NO_WANDB,),
    # of the published test script
    "results-dir": (
        "--output DIR is the folder of the results",
        "python -m fastgan.translate writes results; training writes into --checkpoints-dir",
    ),
    "aspect-ratio": ("results have the size of their images here",),
    "eval": ("fastgan.translate has this flag; training needs none",),
    "num-test": (
        "all images that are named are translated; name fewer",
        "--eval-pairs gives the test pairs that are measured",
    ),
    "model-suffix": (
        "--direction says which of a run's generators translates",
        "a run keeps both of its generators under their own names",
    ),
    # older names
    "niter": (_EPOCHS,),
    "niter-decay": (_DECAY,),
    "which-direction": ("--direction AtoB or BtoA",),
    "which-epoch": (_RESUME, _LATEST),
    "which-model-netG": ("--netG names the generator",),
    "which-model-netD": ("--netD names the discriminator",),
    "loadSize": ("--load-size gives the size that images are resized to",),
    "fineSize": ("--crop-size gives the size that is cut out",),
    "batchSize": ("--batch-size gives the images of a step",),
    "nThreads": ("--num-threads gives the processes that load images",),
    "no-lsgan": ("--gan-mode vanilla takes the cross-entropy in place of least squares",),
    "identity": ("--lambda-identity gives the weight of the identity loss", _NO_IDENTITY),
    "resize-or-crop": ("--preprocess says how images are resized and cropped",),
    "how-many": (
        "all images that are named are translated; name fewer",
        "--eval-pairs gives the test pairs that are measured",
    ),
    "ntest": (
        "all images that are named are translated; name fewer",
        "--eval-pairs gives the test pairs that are measured",
    ),
    "lambda-L1": ("--lambda-A and --lambda-B weigh CycleGAN's cycles; the L1 loss to a known result is pix2pix's",),
    "lambda-A": ("--lambda-L1 weighs the L1 loss; cycles are CycleGAN's",),
    "lambda-B": ("--lambda-L1 weighs the L1 loss; cycles are CycleGAN's",),
    "lambda-identity": (_NO_IDENTITY,),
    "max-dataset-size": ("all images that are named are translated; name fewer",),
}


def answer(flag: str, known: Collection[str]) -> str | None:
    """What serves in place of ``flag``, in a command whose flags are ``known``; None where we have nothing to say.

    A sentence that names a flag that the command does not have is no answer.
    """
    for sentence in _ANSWERS.get(flag.removeprefix("--"), ()):
        if all(named in known for named in re.findall(r"--[\w-]+", sentence)):
            return sentence
    return None
