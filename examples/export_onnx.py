"""Train a tiny CycleGAN, write it as ONNX and run it by onnxruntime: python examples/export_onnx.py

It needs onnx, onnxruntime and onnxscript.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import fastgan

TINY = "--load-size 16 --crop-size 16 --netG resnet_6blocks --ngf 2 --ndf 2 --netD n_layers --n-layers-D 1".split()


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def main(folder: Path) -> float:
    """The largest difference between what onnxruntime and fastgan make of an image."""
    flags = [*TINY, "--max-steps", 2, "--eval-pairs", 0, "--device", "cpu", "--checkpoints-dir", folder]
    command("fastgan.train", "cyclegan", *flags)
    command("fastgan.export", folder / "cyclegan", "--to", "onnx", "--network", "AtoB", "--output", folder / "G_A.onnx")

    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 24, 40)).astype(np.float32)  # any multiple of 4 will do
    session = onnxruntime.InferenceSession(folder / "G_A.onnx")
    (translated,) = session.run(None, {"images": image})

    with torch.no_grad():
        ours = fastgan.load_generator(folder / "cyclegan", "AtoB")(torch.from_numpy(image))
    return float(np.abs(translated - ours.numpy()).max())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(f"onnxruntime and fastgan differ by {main(Path(name)):.1e}")
