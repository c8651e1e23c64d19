"""A recipe and a data set small enough to train in milliseconds, with everything that a resume can get wrong."""

import dataclasses
from dataclasses import dataclass

import torch

from fastgan._options import option
from fastgan.models import NLayerDiscriminator, ResnetGenerator
from fastgan.training import rng, settings
from fastgan.training.checkpoint import Progress
from fastgan.training.folder import RunFolder
from fastgan.training.loop import Loop, restore
from fastgan.training.train_options import TrainOptions


@dataclass(frozen=True)
class TinyOptions:
    width: int = option(4, "filters")
    lr: float = option(1e-3, "learning rate", resume=True)
    norm: str = option("instance", "norm", choices=("instance", "batch"))
    dropout: bool = option(True, "dropout")
    n_epochs: int = option(2, "epochs", resume=True)
    n_epochs_decay: int = option(1, "more epochs", resume=True)
    input_nc: int = option(3, "channels")


@dataclass(frozen=True)
class TinyDataOptions:
    dataroot: str | None = option(None, "folder", resume=True)
    batch_size: int = option(2, "items per step")
    num_threads: int = option(0, "workers", resume=True)
    load_size: int = option(286, "size")
    serial_batches: bool = option(False, "no shuffling")
    max_dataset_size: int | None = option(None, "limit")
    input_nc: int = option(3, "channels")


CLASSES = {"train": TrainOptions, "data": TinyDataOptions, "recipe": TinyOptions}


class TinyRecipe:
    """A generator with dropout against an L1 loss plus noise: it draws from torch's global generator at every step."""

    name = "tiny"
    drop_last = False

    def __init__(self, options=None):
        self.options = options or TinyOptions()
        self.networks = {
            "G_A": ResnetGenerator(3, 3, self.options.width, self.options.norm, self.options.dropout, n_blocks=1),
            "D_A": NLayerDiscriminator(3, self.options.width, 1),
        }
        parameters = [p for network in self.networks.values() for p in network.parameters() if p.requires_grad]
        self.optimizers = {"G": torch.optim.Adam(parameters, lr=self.options.lr)}
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizers["G"], 0.5)
        self.epoch_losses = []
        self.seen = []
        self.poison_at = self.poison_weights_at = None

    @property
    def epochs(self):
        return self.options.n_epochs + self.options.n_epochs_decay

    @property
    def lr(self):
        return self.options.lr

    def to(self, device, memory_format):
        for network in self.networks.values():
            network.to(device, memory_format=memory_format)
        return self

    def step(self, batch):
        self.seen.append(batch["key"].tolist())
        fake = self.networks["G_A"](batch["A"] + 0.1 * torch.randn_like(batch["A"]))
        losses = {"G_A": (fake - batch["B"]).abs().mean(), "D_A": self.networks["D_A"](fake).square().mean()}
        if self.poison_at == len(self.seen):
            losses["D_A"] = losses["D_A"] * float("nan")
        self.optimizers["G"].zero_grad()
        sum(losses.values()).backward()
        self.optimizers["G"].step()
        if self.poison_weights_at == len(self.seen):
            next(self.networks["D_A"].parameters()).data.fill_(float("inf"))
        return {name: value.detach() for name, value in losses.items()}

    def sample(self, batch):
        torch.randn(3)  # what a sample draws must not change the run
        return {"real_A": batch["A"], "real_B": batch["B"]}

    def end_epoch(self, losses):
        self.epoch_losses.append(losses)
        self.scheduler.step()

    def state_dict(self):
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizer": self.optimizers["G"].state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch_losses": self.epoch_losses,
        }

    def load_state_dict(self, state):
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        self.optimizers["G"].load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch_losses = list(state["epoch_losses"])


class TinyData(torch.utils.data.Dataset):
    """Images that depend on (epoch, index) alone."""

    fingerprint = None

    def __init__(self, length=5, size=16):
        self.length, self.size = length, size

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        a, b = torch.rand((2, 3, self.size, self.size), generator=generator) * 2 - 1
        return {"A": a, "B": b, "A_path": f"{index}.png", "B_path": f"{index}.png", "key": torch.tensor([epoch, index])}


class Silence:
    """A display that records what it is shown."""

    every_step = False

    def __init__(self):
        self.shown = []

    def advance(self, step):
        return False

    def show(self, step, epoch, lr, losses):
        self.shown.append((step, epoch, lr, losses))

    def close(self):
        pass


def make_settings(**values):
    return settings.resolve("tiny", "paper", CLASSES, values)


def new_loop(path, *, recipe=None, dataset=None, sample=None, display=None, **values):
    """A loop at the beginning of a run in the folder ``path``."""
    made = make_settings(**values)
    rng.seed_everything(made.groups["train"].seed)
    recipe = recipe or TinyRecipe(made.groups["recipe"])
    recipe.to("cpu", torch.channels_last)
    folder = RunFolder(path.parent, path.name)
    folder.check_new(False)
    folder.start()
    made.write(folder.options)
    return Loop(
        recipe, dataset or TinyData(), folder, made, torch.device("cpu"), sample=sample, display=display or Silence()
    )


def resumed_loop(path, *, dataset=None, sample=None, display=None, **given):
    """A loop that goes on with the run in the folder ``path``, in a process with other random states."""
    from fastgan.training import checkpoint

    folder = RunFolder(path.parent, path.name)
    folder.check_resume()
    content = checkpoint.load(folder.checkpoint)
    made = settings.resume(content["description"], CLASSES, given)
    torch.manual_seed(12345)
    recipe = TinyRecipe(made.groups["recipe"]).to("cpu", torch.channels_last)
    dataset = dataset or TinyData()
    progress = restore(recipe, dataset, content, made.groups["train"].accept_other_data)
    assert isinstance(progress, Progress) and dataclasses.is_dataclass(progress)
    return Loop(
        recipe,
        dataset,
        folder,
        made,
        torch.device("cpu"),
        sample=sample,
        progress=progress,
        display=display or Silence(),
    )
