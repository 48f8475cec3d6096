"""What weighs the channels of a distance: published calibrations, which ship with the package, and files.

`perceptual.names` says which of them a name means.
"""

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from perceptual.distance.saving import folders
from perceptual.features import networks
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone
from perceptual.names import (
    CALIBRATED,
    DEFAULT,
    KMEANS,
    PUBLISHED,
    RANDOM,
    UNCALIBRATED,
    Method,
    Name,
    default,
    versions,
)

FOLDER = Path(__file__).parent / "calibrations"
SEED = 0  # of the weights of `NAME-random`
# SHA-256 of the weights that the published calibrations were made on, torchvision's IMAGENET1K_V1, in float32
MADE_ON = {
    "alexnet": "da3f52f86ae746064751cde68775f0df06aded6a21ce66845d938a9749a1dfd5",
    "squeezenet1_1": "7b703d34e6ba9fc9ec990790568a79a29935c60a16df9cce45231964e996c916",
    "vgg16": "36bb442d80f49070c9b5e9a22cb5190062f161a61fc5ad70037be740b74dd933",
}
OTHER = " (not the weights that the published calibrations were made on)"


class Calibration(NamedTuple):
    """Channel weights, and the normalisation of the images they were made with."""

    name: str | None = None
    """`v0.1`, `v0.0` or a path; None: uncalibrated."""
    lin: list[Tensor] | None = None
    """One (C,) vector per level; None: ones."""
    mean: list[float] | None = None
    std: list[float] | None = None
    saved: folders.Saved | None = None
    """The saved folder that it is from."""

    def vectors(self, backbone: Backbone) -> list[Tensor]:
        """Return the channel weights for the levels of a backbone, on its device, in float32 or more.

        Raises:
            ValueError: they are of other channels, or made with another normalisation of images.
        """
        dtype = torch.promote_types(torch.float32, backbone.mean.dtype)
        like = torch.empty(0, dtype=dtype, device=backbone.mean.device)
        vectors = [like.new_ones(c) for c in backbone.channels] if self.lin is None else self.lin
        if (given := [len(vector) for vector in vectors]) != backbone.channels:
            raise ValueError(
                f"lin has levels of {given} channels, but {backbone.name} was tapped at levels of "
                f"{backbone.channels}"
            )
        for key, wanted in (("mean", self.mean), ("std", self.std)):
            has = getattr(backbone, key).flatten()
            if wanted is not None and not torch.allclose(has, has.new_tensor(wanted)):
                raise ValueError(
                    f"the calibration was made with {key}={wanted}, but the backbone normalises "
                    f"with {has.tolist()}; "
                    f"build it as Backbone({backbone.name!r}, mean={self.mean}, std={self.std})"
                )
        return [vector.to(like) for vector in vectors]


def build(
    backbone: str | Method | nn.Module, lin: str | os.PathLike[str] | Calibration | None
) -> tuple[Backbone, Calibration]:
    """Build the backbone and the calibration that the arguments of `LPIPS` name; raise what that does."""
    if isinstance(backbone, nn.Module):
        built = Backbone.of(backbone)
        calibration = _default(built) if lin == DEFAULT else load(built.name, lin)
    else:
        method = Method.parse(backbone)
        if method.fault:
            raise ValueError(method.fault)
        name, said = method.network, method.calibration
        networks.check_name(method.networks)
        if said == DEFAULT:
            lin = default(name) if lin == DEFAULT else lin
        elif lin != DEFAULT:
            raise ValueError(f"{method.text!r} says its calibration: leave out lin, got lin={str(lin)!r}")
        elif said == KMEANS:
            raise ValueError(
                f"create_metric({method.text!r}) makes it: LPIPS has no images to make weights of"
            )
        else:
            lin = None if said in (UNCALIBRATED, RANDOM) else said
        calibration = load(name, lin)
        if said == RANDOM:
            built = random_backbone(method.networks)
        else:
            built = Backbone(method.networks, mean=calibration.mean, std=calibration.std)
    if calibration.saved is not None and not isinstance(lin, Calibration):
        record, found = calibration.saved.config["backbone"], built.fingerprint()
        folders.check_backbone(record, built, found, f"lin={str(calibration.saved.folder)!r}")
    check_weights(built, calibration.name)
    return built, calibration


def check_weights(backbone: Backbone, calibration: str | None) -> None:
    """Warn of a published calibration on other weights than it was made on, and have the source say so.

    What is shown of a distance, its `repr`, results and model cards, shows the source.
    """
    state = backbone.net.state_dict()
    if calibration not in versions(backbone.name) or any(value.is_meta for value in state.values()):
        return
    plain = {weight_files.plain(key): value.float() for key, value in state.items()}
    if weight_files.fingerprint(plain) == MADE_ON[backbone.name.partition(".")[0]]:
        return
    source = backbone.source.removesuffix(OTHER)
    warnings.warn(
        f"the calibration {calibration} was made on other weights of {backbone.name} than those from "
        f"{source}: distances differ from those of the lpips package",
        stacklevel=4,
    )
    backbone.note(source + OTHER)


def random_backbone(names: Sequence[Name]) -> Backbone:
    """Build a backbone with random weights, always the same, whatever was drawn before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # another draws other numbers, and so does another device
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(SEED)
            backbone = Backbone(names, weights=None)
    finally:
        torch.set_default_dtype(before)
    backbone.note(f"random (seed {SEED})")
    return backbone


def _default(backbone: Backbone) -> Calibration:
    """Load the published calibration if it is of this network: its levels, its input, no random weights."""
    version = None if backbone.source.startswith("random") else default(backbone.name)
    calibration = load(backbone.name, version)
    try:
        calibration.vectors(backbone)
    except ValueError:  # of another network of that name
        return Calibration()
    return calibration


def identify(backbone: str, lin: Sequence[Tensor]) -> str | None:
    """Return the version of the published calibration that channel weights are, or `uncalibrated`, or None.

    Args:
        backbone: name of the network.
        lin: (C,) a level, wherever they are from.
    """
    if all(bool((vector == 1).all()) for vector in lin):
        return UNCALIBRATED
    for version in versions(backbone):
        published = load(backbone, version).lin or []
        if len(published) == len(lin) and all(map(torch.equal, published, (v.detach().cpu() for v in lin))):
            return version
    return None


def load(backbone: str, lin: str | os.PathLike[str] | Calibration | None) -> Calibration:
    """Load the calibration `lin` of a backbone: a published version (`v0.1`), a file, or None for ones.

    A file is a safetensors file of vectors `lin.0`, `lin.1`, …, or a `.pth` file of the `lpips` package; a
    folder that `LPIPS.save_pretrained` wrote has such vectors too.

    Raises:
        ValueError: a version that was not published for the backbone, or a file that holds no calibration,
            or a folder that brings another backbone.
        FileNotFoundError: no such file.
    """
    if lin is None or isinstance(lin, Calibration):
        return lin or Calibration()
    if re.fullmatch(r"v\d+\.\d+", str(lin)):
        if lin not in versions(backbone):
            there = ", ".join(sorted(path.stem for path in FOLDER.glob("*.safetensors")))
            raise ValueError(
                f"no calibration {lin!r} was published for {backbone!r}; published are {there}; "
                "lin=None gives the uncalibrated distance"
            )
        published = read(FOLDER / f"{backbone.partition('.')[0]}-{lin}.safetensors")
        return published._replace(name=str(lin))
    path = Path(lin).expanduser()
    return _read_folder(path, backbone) if path.is_dir() else read(path)


def read(path: Path) -> Calibration:
    """Read a calibration from a file, with the normalisation that its metadata names.

    Raises:
        ValueError: the file holds no calibration.
        FileNotFoundError: no such file.
    """
    lin = _vectors(weight_files.read(path), path)
    metadata: dict[str, str] = {}
    with suppress(SafetensorError), safe_open(path, "pt") as file:  # a .pth file has none
        metadata = file.metadata() or {}
    mean, std = (json.loads(metadata[key]) if key in metadata else None for key in ("mean", "std"))
    return Calibration(str(path), lin, mean, std)


def _vectors(whole: Mapping[str, Tensor], path: Path) -> list[Tensor]:
    """Channel weights (C,) of each level among the tensors of a file; raises as `read`."""
    state = whole
    if any(key.startswith("features.") for key in state):  # a distance that the `lpips` package trained
        state = {key: value for key, value in state.items() if _level(key) >= 0}
    vectors = {_level(key): value.flatten() for key, value in state.items()}
    if not vectors or len(vectors) < len(state) or sorted(vectors) != list(range(len(vectors))):
        raise ValueError(
            f"{str(path)!r} is not a calibration: expected vectors lin.0, lin.1, …, "
            f"got {', '.join(list(whole)[:3])}"
        )
    return [vectors[level].float() for level in sorted(vectors)]


def of_lpips(path: Path) -> tuple[Backbone, Calibration]:
    """Read a distance that the `lpips` package trained: lin, and the network where the file has it.

    Its Trainer writes `latest_net_.pth`; the network is known by the channels of its levels.

    Raises:
        ValueError: the file holds no such distance.
        FileNotFoundError: no such file.
    """
    state = weight_files.read(path)
    lin = _vectors(state, path)
    channels = [len(vector) for vector in lin]
    known = {name: [len(v) for v in load(name, PUBLISHED).lin or []] for name in CALIBRATED}
    name = next((name for name, theirs in known.items() if theirs == channels), None)
    if name is None:
        raise ValueError(f"{str(path)!r} has levels of {channels} channels, which no network of lpips has")
    held = any(key.startswith("features.") for key in state)
    return Backbone(name, weights=str(path) if held else "default"), Calibration(str(path), lin)


def to_lpips(backbone: Backbone, lin: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return channel weights as the `lpips` package names them, for `lpips.LPIPS(net=…, model_path=…)`.

    Raises:
        ValueError: the package does not have the network, or not at these levels.
    """
    name = backbone.name.partition(".")[0]
    if name not in CALIBRATED or [len(v) for v in lin] != [len(v) for v in load(name, PUBLISHED).lin or []]:
        raise ValueError(
            f"the lpips package has {', '.join(CALIBRATED)} at all their levels, got {backbone.name} at "
            f"{', '.join(map(str, backbone.out_indices))}"
        )
    return {f"lin{level}.model.1.weight": v.detach().cpu().view(1, -1, 1, 1) for level, v in enumerate(lin)}


def _read_folder(folder: Path, backbone: str) -> Calibration:
    saved = folders.read(folder)
    record = saved.config["backbone"]
    own = record["saved"] or saved.adapters is not None
    if own or record["name"] != backbone:
        raise ValueError(
            f"lin={str(folder)!r} was calibrated on "
            + ("a backbone that it holds itself" if own else f"{record['name']}, not {backbone}")
            + f"; LPIPS.from_pretrained({str(folder)!r}) takes both"
        )
    return Calibration(str(folder), saved.lin, record["mean"], record["std"], saved)


def _level(key: str) -> int:
    """Level of a key `lin.2`, or `lin2.model.1.weight` as the `lpips` package has it; −1 for another key."""
    match = re.fullmatch(r"lin\.(\d+)|lin(\d+)\.model\.1\.weight", key)
    return int(match[1] or match[2]) if match else -1
