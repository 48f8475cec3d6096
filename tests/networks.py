"""The `lpips` package with random weights, and the same weights as files for our backbones."""

import re
from copy import deepcopy
from functools import cache

import lpips
import torch
from safetensors.torch import save_file
from torch import nn

NETS = {"alexnet": "alex", "squeezenet1_1": "squeeze", "vgg16": "vgg"}
BUILDERS = {
    "alexnet": lpips.pretrained_networks.alexnet,
    "squeezenet1_1": lpips.pretrained_networks.squeezenet,
    "vgg16": lpips.pretrained_networks.vgg16,
}


@cache
def trunk(name):
    """The package's network `name` with random weights, always the same ones; not to be changed."""
    with torch.device("meta"):  # classifiers are thrown away, but would be filled first
        net = BUILDERS[name](pretrained=False).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, generator=generator)
        else:
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)
    return net


def torchvision_state(net):
    """State dict of a network of the package under torchvision's names."""
    return {
        re.sub(r"^slice\d+\.", "features.", key): value.clone() for key, value in net.state_dict().items()
    }


def write_weights(folder, name, state=None):
    """Write the weights of `trunk(name)`, or others, as a folder for PERCEPTUAL_WEIGHTS holds them."""
    path = folder / f"{name}.safetensors"
    save_file(torchvision_state(trunk(name)) if state is None else state, path)
    return path


def patch_trunk(name, monkeypatch):
    """Have the package build its network `name` as a copy of `trunk(name)`."""
    weights = trunk(name)

    def build(requires_grad, **_):
        return deepcopy(weights).requires_grad_(requires_grad)

    monkeypatch.setattr(lpips.pretrained_networks, BUILDERS[name].__name__, build)


def reference_lpips(name, monkeypatch, **arguments):
    """`lpips.LPIPS` on a copy of `trunk(name)`, with the package's own calibrations no download."""
    patch_trunk(name, monkeypatch)
    return lpips.LPIPS(net=NETS[name], pnet_rand=True, verbose=False, **arguments)
