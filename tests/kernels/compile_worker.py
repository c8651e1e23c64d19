"""Compiles the kernels for NVIDIA targets on a machine without a GPU; run by test_compile.py in processes of its own.

The launchers themselves are called, on meta tensors of true sizes, with the launch replaced by a recorder: what is
compiled is what they would launch, specialised as triton would specialise it. Prints one JSON object per kernel.

    python -m tests.kernels.compile_worker SHARD SHARDS [--all] [--tables FOLDER ...]

Always: every kernel for every target, as the heuristics launch it for a generator's layers, and the largest tile of the
norms in every dtype; every configuration in the measured tables, for the table's GPU. With --all: every tile and every
candidate of the tuner, for every target. A candidate that no heuristic takes is called a rival: it may spill on one of
the targets, and then loses where the tuner measures.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from fastgan.kernels import batch_norm, instance_norm, losses, reflection_pad, reflection_pad_conv2d
from fastgan.kernels._common import accumulator_dtype, shape_of_moments
from fastgan.ops import _table

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float64: "*fp64"}
TARGETS = (80, 90, 100)
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
HEAVY = dict(affine=True, residual=True, activation="leaky_relu", halo=1)
# Input, output channels, kernel, padding: a generator's trunk, also of one image, first and last layer; sizes that fill
# no block; sizes of one, which triton turns into constants; more than 2^31 elements.
CONVOLUTIONS = {
    "trunk": ((16, 256, 64, 64), 256, (3, 3), (1, 1)),
    "trunk alone": ((1, 256, 64, 64), 256, (3, 3), (1, 1)),
    "first": ((16, 3, 256, 256), 64, (7, 7), (3, 3)),
    "last": ((16, 64, 256, 256), 3, (7, 7), (3, 3)),
    "ragged": ((2, 37, 9, 7), 11, (3, 2), (2, 0)),
    "one": ((1, 1, 1, 1), 1, (1, 1), (0, 0)),
    "huge": ((5, 256, 2048, 1024), 128, (3, 3), (1, 1)),
}
LIGHT = dict(affine=False, residual=False, activation="relu", halo=0)


def meta(shape, dtype, layout="nchw"):
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=LAYOUTS[layout])


def meta_moments(shape, dtype, layout, parts):
    if not parts:
        return None
    return meta(shape_of_moments(layout, shape[0], parts, shape[1]), accumulator_dtype(dtype))


def norm_forward(shape, dtype, layout, affine, residual, activation, halo, config=None, parts=0):
    weight = meta(shape[1:2], torch.float32) if affine else None
    inner = None
    if residual:
        wide = meta((shape[0], shape[1], shape[2] + 2, shape[3] + 2), dtype, layout)
        inner = wide[:, :, 1:-1, 1:-1]
    x, moments = meta(shape, dtype, layout), meta_moments(shape, dtype, layout, parts)
    instance_norm.forward(x, weight, weight, inner, 1e-5, activation, 0.2, halo, config, None, moments)


def norm_backward(shape, dtype, layout, affine, residual, activation, halo, config=None, inner=False):
    weight = meta(shape[1:2], torch.float32) if affine else None
    dy = meta((shape[0], shape[1], shape[2] + 2 * halo, shape[3] + 2 * halo), dtype, layout)
    mean = meta(shape[:2], torch.float64 if dtype == torch.float64 else torch.float32)
    x = meta(shape, dtype, layout)
    instance_norm.backward(
        dy, x, mean, mean, weight, weight, activation, 0.2, halo, residual, config, x if inner else None
    )


def batch(direction, shape, dtype, layout, training, affine=True, activation="leaky_relu", config=None):
    weight = meta(shape[1:2], torch.float32) if affine else None
    x, mean = meta(shape, dtype, layout), meta(shape[1:2], torch.float64 if dtype == torch.float64 else torch.float32)
    if direction == "backward":
        batch_norm.backward(x, x, mean, mean, weight, weight, activation, 0.2, training, config)
    elif training:
        batch_norm.forward(x, weight, weight, 1e-5, activation, 0.2, config)
    else:
        batch_norm.apply(x, mean, mean, weight, weight, activation, 0.2, config)


def loss(numel, dtype, kind, reduction, want_grad, label):
    x = meta((numel,), dtype)
    losses.forward(x, x if label is None else None, label or 0.0, kind, reduction, want_grad)


def pad(direction, shape, dtype, layout, padding, config=None):
    left, right, top, bottom = padding
    wide = (*shape[:2], shape[2] + top + bottom, shape[3] + left + right)
    if direction == "forward":
        reflection_pad.forward(meta(shape, dtype, layout), *padding, config)
    else:
        reflection_pad.backward(meta(wide, dtype, layout), *padding, config)


def convolution(direction, layer, dtype, layout, precision="tf32", config=None):
    shape, outputs, kernel, padding = CONVOLUTIONS[layer]
    stride = (2, 1) if layer == "ragged" else (1, 1)
    convolve(direction, dtype, layout, shape, outputs, kernel, stride, padding, (1, 1), precision, config)


def convolve(direction, dtype, layout, shape, outputs, kernel, stride, padding, dilation, precision, config):
    how = (stride, padding, dilation, precision)
    x, weight = meta(shape, dtype, layout), meta((outputs, shape[1], *kernel), dtype)
    size = reflection_pad_conv2d.geometry(shape, weight.shape, *how[:3]).size
    dy = meta((shape[0], outputs, *size), dtype, layout)
    if direction == "forward":
        reflection_pad_conv2d.forward(x, weight, meta((outputs,), dtype), *how, config)
    elif direction == "input_gradient":
        reflection_pad_conv2d.input_gradient(dy, weight, shape[2:], *how, layout == "nhwc", config)
    else:
        reflection_pad_conv2d.weight_gradient(dy, x, kernel, *how, layout == "nhwc", config)


def convolution_with_moments(batch, dtype, layout, precision="tf32", config=None):
    """Of the trunk, as the norm behind it takes them."""
    (_, *shape), outputs, kernel, padding = CONVOLUTIONS["trunk"]
    shape, how = (batch, *shape), ((1, 1), padding, (1, 1))
    weight = meta((outputs, shape[1], *kernel), dtype)
    g = reflection_pad_conv2d.geometry(shape, weight.shape, *how)
    part = reflection_pad_conv2d.part_of_moments(layout, g, dtype.itemsize, precision, config)
    if not part:
        return
    parts = g.size[0] * g.size[1] // part
    moments = meta_moments((batch, outputs, *g.size), dtype, layout, parts)
    reflection_pad_conv2d.forward(meta(shape, dtype, layout), weight, None, *how, precision, config, moments)
    norm_forward((batch, outputs, *g.size), dtype, layout, **LIGHT, parts=parts)


def convolution_candidates(direction, layer, layout, itemsize):
    """What the tuner tries, at every batch size, and whether it is a rival only, which no heuristic takes.

    Splits are no constants, so that one of each will do.
    """
    shape, outputs, kernel, padding = CONVOLUTIONS[layer]
    shapes = [(batch, *shape[1:]) for batch in (1, 4, 16)]
    how = ((1, 1), padding, (1, 1))
    geometries = [reflection_pad_conv2d.geometry(s, (outputs, shape[1], *kernel), *how) for s in shapes]
    found = [reflection_pad_conv2d.candidates(direction, layout, g, itemsize) for g in geometries]
    chosen = {configs[0]._replace(splits=1) for configs in found}
    return {
        config: config not in chosen for configs in found for config in (each._replace(splits=1) for each in configs)
    }


def convolutions(everything):
    bf16, fp16, fp32, fp64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
    for direction in reflection_pad_conv2d.DIRECTIONS:
        for layer in ("trunk", "first", "last"):
            for dtype in (bf16, fp32):
                for layout in ("nhwc", "nchw"):
                    configs = {None: False}
                    if everything:
                        configs |= convolution_candidates(direction, layer, layout, dtype.itemsize)
                    for config, rival in configs.items():
                        default = not rival and (dtype, layout) in ((bf16, "nhwc"), (fp32, "nchw"))
                        targets = TARGETS if everything or default else (90,)
                        yield targets, convolution, (direction, layer, dtype, layout), dict(config=config, rival=rival)
            targets = TARGETS if everything or layer == "trunk" else (90,)
            yield targets, convolution, (direction, layer, fp64, "nhwc"), {}
        for layer in ("trunk", "trunk alone", "first", "last"):
            yield TARGETS if layer == "trunk" else (90,), convolution, (direction, layer, fp32, "nhwc", "ieee"), {}
            yield (90,), convolution, (direction, layer, fp32, "nchw", "ieee"), {}
        yield (90,), convolution, (direction, "huge", fp16, "nhwc"), {}
        for layout in ("nhwc", "nchw"):
            yield (90,), convolution, (direction, "ragged", fp16, layout), {}
            yield (90,), convolution, (direction, "one", fp32, layout), {}


def moments(everything):
    """The trunk and its norm, at batches that get other tiles, in every dtype; candidates of the tuner on request."""
    bf16, fp32, fp64 = torch.bfloat16, torch.float32, torch.float64
    for layout in ("nhwc", "nchw"):
        for batch in (1, 16):
            yield TARGETS, convolution_with_moments, (batch, bf16, layout), {}
            yield (90,), convolution_with_moments, (batch, fp32, layout), {}
        yield (90,), convolution_with_moments, (16, fp64, layout), {}
        yield (90,), convolution_with_moments, (16, fp32, layout, "ieee"), {}
        for itemsize, dtype in ((2, bf16), (4, fp32)) if everything else ():
            for config, rival in convolution_candidates("forward", "trunk", layout, itemsize).items():
                yield TARGETS, convolution_with_moments, (16, dtype, layout), dict(config=config, rival=rival)
        for config in instance_norm.configurations("forward", layout, 2)[0 if everything else -1 :]:
            if config.splits:
                yield (90,), norm_forward, ((16, 256, 64, 64), bf16, layout), dict(HEAVY, config=config, parts=32)


def measured(folders):
    """The configurations of the tables in some folders, each for the GPU of its table."""
    for path in sorted(path for folder in folders for path in Path(folder).glob("*.json")):
        table = json.loads(path.read_text())
        target = (int(table["environment"]["capability"].replace(".", "")),)
        for entry in table["entries"]:
            dtype, numbers = getattr(torch, entry["dtype"]), [int(n) for n in re.findall(r"\d+", entry["shape"])]
            for direction, fields in entry["configurations"].items():
                if entry["op"] == "reflection_pad_conv2d":
                    shape, outputs, pairs = numbers[:4], numbers[4], [tuple(numbers[i : i + 2]) for i in (5, 7, 9, 11)]
                    config = reflection_pad_conv2d.Config(**fields)
                    args = (direction, dtype, entry["layout"], tuple(shape), outputs, *pairs, "tf32", config)
                    yield target, convolve, args, {}
                else:
                    args = (direction, tuple(numbers[:4]), dtype, entry["layout"])
                    light = dict(LIGHT, halo=numbers[4], config=instance_norm.Config(**fields))
                    yield target, norm, args, light


def norm(direction, *args, **kwargs):
    (norm_forward if direction == "forward" else norm_backward)(*args, **kwargs)


def cases(everything, folders):
    """(targets, function, arguments, options): what is compiled; launches that specialise alike only once."""
    bf16, fp16, fp32, fp64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
    tiles = TARGETS if everything else (90,)
    for direction in ("forward", "backward"):
        heavy = HEAVY if direction == "forward" else dict(HEAVY, inner=True)
        for layout in ("nchw", "nhwc"):
            shape = (16, 256, 64, 64)
            # With the flags that need most registers.
            for dtype in (bf16, fp32, fp64):
                for config in instance_norm.configurations(direction, layout, dtype.itemsize)[
                    0 if everything else -1 :
                ]:
                    yield tiles, norm, (direction, shape, dtype, layout), dict(heavy, config=config)
            # The largest tiles on the other targets.
            for split in (False, True):
                configs = [
                    config
                    for config in instance_norm.configurations(direction, layout, 2)
                    if bool(config.splits) == split
                ]
                yield TARGETS, norm, (direction, shape, bf16, layout), dict(heavy, config=configs[-1])
            # A ResNet generator's layers as they are, and more than 2^31 elements.
            for shape in ((16, 256, 64, 64), (1, 64, 256, 256)):
                yield (90,), norm, (direction, shape, bf16, layout), dict(LIGHT)
            yield (90,), norm, (direction, (1, 256, 64, 64), bf16, layout), dict(LIGHT, halo=1)
            yield (90,), norm, (direction, (4, 256, 4096, 4096), fp16, layout), dict(LIGHT)
            # Sizes of one, which triton turns into constants, and channels that fill no block.
            for config in (None, instance_norm.configurations(direction, layout, 4)[-1]):
                if layout == "nchw":
                    config = config and config._replace(rows=config.rows * config.cols, cols=1)
                    yield (90,), norm, (direction, (1, 1, 1, 1), fp32, layout), dict(LIGHT, config=config)
                yield (90,), norm, (direction, (1, 3, 2, 1), fp32, layout), dict(LIGHT, residual=True, config=config)
                yield (90,), norm, (direction, (1, 3, 1, 2), fp32, layout), dict(LIGHT, residual=True, config=config)
    for direction in ("forward", "backward"):
        for layout, training in (("nchw", True), ("nchw", False), ("nhwc", False)):
            shape = (16, 256, 64, 64)
            for dtype in (bf16, fp32, fp64):
                for config in batch_norm.configurations(direction, layout, dtype.itemsize)[0 if everything else -1 :]:
                    yield tiles, batch, (direction, shape, dtype, layout, training), dict(config=config)
            yield TARGETS, batch, (direction, shape, bf16, layout, training), {}
            # More than 2^31 elements; sizes of one, and channels that fill no block.
            yield (90,), batch, (direction, (64, 64, 1024, 1024), fp16, layout, training), dict(affine=False)
            yield (90,), batch, (direction, (1, 3, 1, 3), fp32, layout, training), dict(activation="relu")
        # With the statistics of the batch, channels_last is instance norm of one sample, and its variance.
        for shape in ((128, 64, 26, 26), (128, 1024, 1, 1), (1, 512, 8, 8)):
            yield (90,), batch, (direction, shape, bf16, "nhwc", True), {}
    for kind in ("l1", "mse", "bce"):
        yield (90,), loss, (900, fp32, kind, "mean", True, 1.0), {}
        yield (90,), loss, (1 << 22, bf16, kind, "mean", True, None), {}
        yield (90,), loss, (1 << 22, fp64, kind, "none", False, None), {}
        yield (80,), loss, ((1 << 32) + 1, fp32, kind, "sum", True, None), {}
        yield (100,), loss, (1 << 22, bf16, kind, "none", True, 0.0), {}
        yield (100,), loss, (1 << 22, fp16, kind, "mean", True, 0.9), {}
    for direction in ("forward", "backward"):
        for layout in ("nchw", "nhwc"):
            for config in reflection_pad.configurations(direction, layout)[0 if everything else -1 :]:
                yield tiles, pad, (direction, (16, 64, 256, 256), bf16, layout, (3, 3, 3, 3)), dict(config=config)
            yield (80,), pad, (direction, (1, 3, 256, 256), fp32, layout, (1, 2, 3, 4)), {}
            yield (100,), pad, (direction, (4, 512, 1024, 2048), fp16, layout, (3, 3, 3, 3)), {}
            yield (90,), pad, (direction, (1, 1, 1, 1), fp64, layout, (0, 0, 0, 0)), {}
        yield (90,), pad, (direction, (1 << 24, 2, 64, 3), fp32, "nchw", (1, 1, 1, 1)), {}
    yield from convolutions(everything)
    yield from moments(everything)
    yield from measured(folders)


def record_launches():
    """Replaces the launch of every kernel; returns the list that launches are appended to."""
    launches = []

    def run(self, *args, grid, warmup, **kwargs):
        launches.append((self, args, kwargs, grid))

    JITFunction.run = run
    return launches


def specialise(fn, args, kwargs):
    """(signature, constants, attributes, options) of a launch, as triton derives them from its arguments."""
    names = set(fn.arg_names)
    values = dict(zip(fn.arg_names, args), **{name: value for name, value in kwargs.items() if name in names})
    options = {name: value for name, value in kwargs.items() if name not in names}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(fn.params):
        value = values[parameter.name]
        aligned = False
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, float):
            signature[parameter.name] = parameter.annotation_type
        elif value == 1 and not parameter.do_not_specialize:
            signature[parameter.name], constants[parameter.name] = "constexpr", 1
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes, options


def resources(cubin):
    """Registers per thread, bytes of stack (spills) and of other local memory, as cuobjdump reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def instructions(cubin, name):
    """How often an instruction stands in the machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(CUOBJDUMP), "-sass", file.name], capture_output=True, text=True, check=True).stdout
    return len(re.findall(rf"\b{name}\b", text))


def distinct(everything, folders):
    """(target, kernel, grid, specialisation, whether of rivals only) of all cases, each specialisation once."""
    launches = record_launches()
    seen = {}
    for targets, function, args, kwargs in cases(everything, folders):
        rival = kwargs.pop("rival", False)
        function(*args, **kwargs)
        for fn, call_args, call_kwargs, grid in launches:
            special = specialise(fn, call_args, call_kwargs)
            for target in targets:
                key = repr((target, fn.__name__, special))
                before = seen.get(key)
                seen[key] = (target, fn, grid, special, rival and (before is None or before[4]))
        launches.clear()
    return list(seen.values())


def types(signature):
    return " ".join(sorted({kind for kind in signature.values() if kind.startswith("*")}))


def tensor_cores(signature, constants):
    """Whether a kernel multiplies matrices in a precision that tensor cores have."""
    if "PRECISION" not in constants or "fp64" in types(signature):
        return False
    return constants["PRECISION"] != "ieee" or "16" in types(signature)


def to_disassemble(found):
    """Numbers of the kernels to disassemble, which takes as long as compiling: of those for sm_90 that use tensor
    cores, one for each kernel, types and layout.
    """
    first = {}
    for number, (target, fn, _grid, (signature, constants, *_), _rival) in enumerate(found):
        if target == 90 and tensor_cores(signature, constants):
            first.setdefault((fn.__name__, types(signature), constants["NCHW"]), number)
    return set(first.values())


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.compile_worker")
    parser.add_argument("shard", type=int)
    parser.add_argument("shards", type=int)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--tables", nargs="*", default=[_table.FOLDER])
    asked = parser.parse_args(argv)
    found = distinct(asked.all, asked.tables)
    disassembled = to_disassemble(found)
    for number in range(asked.shard, len(found), asked.shards):
        target, fn, grid, (signature, constants, attributes, options), rival = found[number]
        began = time.perf_counter()
        source = ASTSource(fn, signature, constants, attributes)
        kernel = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
        ptx = kernel.asm["ptx"]
        row = dict(
            triton=triton.__version__,
            rival=rival,
            kernel=fn.__name__,
            capability=target,
            types=types(signature),
            constants={k: (v if isinstance(v, (int, str)) else str(v)) for k, v in constants.items()},
            warps=options["num_warps"],
            stages=options.get("num_stages"),
            programs=grid[0],
            shared=kernel.metadata.shared,
            wide_loads=len(re.findall(r"ld\.global(?:\.\w+)*\.v[24]\.", ptx)),
            wide_stores=len(re.findall(r"st\.global(?:\.\w+)*\.v[24]\.", ptx)),
            loads=len(re.findall(r"ld\.global", ptx)),
            stores=len(re.findall(r"st\.global", ptx)),
            seconds=round(time.perf_counter() - began, 2),
            tensor_cores=tensor_cores(signature, constants),
            wgmma=ptx.count("wgmma.mma_async"),
            hgmma=instructions(kernel.asm["cubin"], "HGMMA") if number in disassembled else None,
            **resources(kernel.asm["cubin"]),
        )
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
