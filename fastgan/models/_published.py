"""Loading of published network files: which keys are renamed or dropped on the way in."""

from collections.abc import Mapping

from torch import Tensor, nn

WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel / DistributedDataParallel, and by torch.compile
RUNNING_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def strip_wrappers(key: str) -> str:
    """`key` without any leading `module.` or `_orig_mod.`, in whatever order and number they were stacked."""
    while key.startswith(WRAPPER_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def plain_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under keys without wrapper prefixes."""
    return {strip_wrappers(key): value for key, value in state_dict.items()}


def norm_between(state_dict: Mapping[str, Tensor], convolution: str, norm: str) -> str:
    """The choice of `norm` that a state dict shows, by the keys of a convolution and of the norm behind it.

    RuntimeError for a norm that none of these networks has.
    """
    if f"{norm}.weight" in state_dict:
        if f"{norm}.running_mean" not in state_dict:
            raise RuntimeError(
                f"{norm}.weight without {norm}.running_mean is an instance norm with affine parameters, "
                "which these networks do not have"
            )
        return "batch"
    return "instance" if f"{convolution}.bias" in state_dict else "none"


class PublishedNetwork(nn.Module):
    """A network that loads published state dicts strictly, with no conversion by the user.

    On load, also when the network is a part of a larger module: wrapper prefixes (`module.`, `_orig_mod.`) are removed,
    and running statistics stored for an instance norm that keeps none are dropped. Everything else is as strict as
    torch makes it.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stateless = {
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats
        }
        for key in [key for key in state_dict if key.startswith(prefix)]:
            value = state_dict.pop(key)
            key = strip_wrappers(key[len(prefix) :])
            owner, _, leaf = key.rpartition(".")
            if not (owner in stateless and leaf in RUNNING_STATISTICS):
                state_dict[prefix + key] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


__all__ = ["PublishedNetwork", "norm_between", "plain_keys", "strip_wrappers"]
