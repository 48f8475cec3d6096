"""Folders that a distance is saved in and shared as, here or on the Hugging Face hub.

model.safetensors     lin.0, lin.1, …, and the backbone where its name alone does not give it again
adapter_*             adapters of LoRA in place of such a backbone, see `adapters`
ranking.safetensors   the ranking network, where there is one
config.json           how to build them, the SHA-256 of both, and what is known of their training
README.md             the model card, made of config.json
"""

import copy
import json
import os
import re
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Len
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from perceptual.distance.head import Head
from perceptual.distance.level import Form
from perceptual.distance.noticed import Noticed
from perceptual.distance.saving.adapters import ADAPTER_CONFIG, ADAPTERS, Adapters, read_adapter_config
from perceptual.distance.saving.card import card
from perceptual.features import weights as weight_files
from perceptual.features.backbone import Backbone, check_input
from perceptual.features.build import build_backbone, check_description
from perceptual.features.custom import BUILT, TARGET
from perceptual.files.messages import first_line
from perceptual.files.records import check_record, read_record
from perceptual.files.writing import write_text
from perceptual.names import LEVELS, members, read_names
from perceptual.version import __version__

if TYPE_CHECKING:
    from perceptual.distance.lpips import LPIPS

MODEL, RANKING, CARD = "model.safetensors", "ranking.safetensors", "README.md"
OPTIONAL = (RANKING, ADAPTER_CONFIG, ADAPTERS)
OURS, HEAD = "backbone.net.", "head."
LIBRARIES = ("torch", "torchvision", "timm")
FORMAT = 1
CONFIG = "config.json"
SEAL = "config_sha256"
SEALED = ("format", "backbone", "channels", "form", "sha256", "ranking")  # what decides about a distance
SEALED_IF_SAID = ("center", "head", "adapters")
REMEDY = "save the distance again"
Text = Annotated[str, Len(1)]
SHA256 = Annotated[str, Len(64, 64)]
Score = float | None


class Format(TypedDict):
    """What tells whether the rest can be read."""

    format: Annotated[int, Ge(1)]


class BackboneRecord(TypedDict):
    """How to build the backbone; `check_description` says which names and numbers are allowed."""

    name: Text
    source: Text
    saved: bool
    sha256: NotRequired[SHA256]  # where it is not saved
    out_indices: Annotated[list[int | str], Len(1)]
    input_size: int | None
    mean: Annotated[list[float], Len(3, 3)]
    std: Annotated[list[float], Len(3, 3)]
    spec: NotRequired[dict[str, Any]]  # of a network of the user's


class AdaptersRecord(TypedDict):
    """The adapters beside the distance: of their tensors, and of the file that describes them."""

    sha256: SHA256
    config_sha256: SHA256


class RankingRecord(TypedDict):
    """The ranking network beside the distance."""

    name: Text
    sha256: SHA256


class ScoreRow(TypedDict):
    """The score of one subset, with its 95 % interval."""

    subset: str
    items: int
    score: Score
    low: Score
    high: Score


class Scores(TypedDict):
    """The scores on one set of judgments."""

    data: str
    kind: Literal["2afc", "jnd", "opinion", "odd-one-out"]
    description: str
    fingerprint: str
    rows: list[ScoreRow]


class Training(TypedDict, total=False):
    """What is known of the training, see `perceptual.publish.record`."""

    data: str | None
    fingerprint: str | None
    epochs: int | None
    steps: int | None
    settings: dict[str, Any]
    command: str | None
    scores: list[Scores]
    noticed: Noticed


class Config(Format):
    """What `config.json` holds."""

    backbone: BackboneRecord
    channels: Annotated[list[Annotated[int, Ge(1)]], Len(1)]
    form: Form
    center: NotRequired[bool]
    head: NotRequired[Annotated[int, Ge(1)]]  # hidden units
    adapters: NotRequired[AdaptersRecord]
    calibration: NotRequired[str | None]  # see `calibration.identify`
    sha256: SHA256
    ranking: RankingRecord | None
    versions: dict[str, str]
    record: Training
    config_sha256: str


class Saved(NamedTuple):
    """A folder that was read and checked."""

    folder: Path
    config: dict[str, Any]
    state: dict[str, Tensor]
    ranking_state: dict[str, Tensor] | None
    adapters: Adapters | None = None

    @property
    def lin(self) -> list[Tensor]:
        """Channel weights, (C,) a level."""
        return [self.state[f"lin.{level}"] for level in range(len(self.config["channels"]))]

    @property
    def head(self) -> Head | None:
        """The head on its embedding, if it has one."""
        if "head" not in self.config:
            return None
        head = Head(sum(self.config["channels"]), self.config["head"])
        head.load_state_dict(
            {key.removeprefix(HEAD): v for key, v in self.state.items() if key.startswith(HEAD)}
        )
        return head.eval().requires_grad_(False)

    def backbone(self, network: nn.Module | None = None) -> Backbone:
        """Build the backbone from the folder, or by its name if that still gives the same weights.

        Args:
            network: that of the user's which the folder was saved with, if it is not known by a name.

        Raises:
            ValueError: there are other weights under the name, or the folder's do not fit the network.
            FileNotFoundError: weights that are neither here nor on the hub.
        """
        record = self.config["backbone"]
        backbone = self._build(record, network)
        if not record["saved"]:
            check_backbone(record, backbone, backbone.fingerprint(), str(self.folder))
            if self.adapters is not None:
                backbone = copy.deepcopy(backbone)  # it may be the caller's
                self.adapters.merge(backbone.net, str(self.folder / ADAPTERS))
                backbone.note(f"adapters on {record['source']}")
            return backbone
        if backbone.name != record["name"]:
            raise ValueError(f"{self.folder} was saved with {record['name']}, got {backbone.name}")
        state = {key.removeprefix(OURS): value for key, value in self.state.items() if key.startswith(OURS)}
        weight_files.check_names(backbone.net, state, f"{record['name']} in {self.folder / MODEL}")
        weight_files.check_shapes(backbone.net, state, f"{record['name']} in {self.folder / MODEL}")
        if more := sorted(state.keys() - backbone.net.state_dict().keys()):
            raise ValueError(f"{self.folder / MODEL} holds {more[0]}, which {record['name']} does not have")
        backbone.net.load_state_dict(state)
        backbone.note(record["source"])
        return backbone

    def _build(self, record: Mapping[str, Any], network: nn.Module | None) -> Backbone:
        if network is not None:
            return Backbone.of(network)
        if spec := record.get("spec"):  # of a network of the user's
            return build_backbone(spec, trusted=False)
        arguments = {key: record[key] for key in ("name", "out_indices", "input_size", "mean", "std")}
        if len(members(record["name"])) > 1:
            arguments = {"name": record["name"]}
        elif LEVELS in read_names(record["name"])[0].options:
            del arguments[LEVELS]
        return Backbone(**arguments, weights=None if record["saved"] else "default")


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of this package and of others, by the names that pip gives them."""
    return {"perceptual": __version__} | {name: version(name) for name in libraries}


def describe_backbone(backbone: Backbone, left_out: str | None) -> dict[str, Any]:
    """Describe the backbone of a file; `left_out` is the SHA-256 of weights that are not in it."""
    record = {"name": backbone.name, "source": backbone.source, "saved": left_out is None}
    return record | ({"sha256": left_out} if left_out else {})


def check_backbone(record: Mapping[str, Any], backbone: Backbone, found: str, what: str) -> None:
    """Refuse a backbone whose weights, of SHA-256 `found`, are not those of the file that left them out.

    Raises:
        ValueError: naming the file, and where both weights are from.
    """
    if record["sha256"] != found:
        raise ValueError(
            f"{what} was calibrated on weights of {record['name']} from {record['source']} "
            f"(sha256 {record['sha256'][:12]}…), but {backbone.source} holds others ({found[:12]}…)"
        )


def save(
    folder: Path,
    metric: "LPIPS",
    calibration: str | None,
    ranking: nn.Module | None,
    record: Mapping[str, Any] | None,
    adapters: Adapters | None = None,
) -> None:
    """Write the folder; files of an earlier save in it are replaced.

    Args:
        folder: made if it does not exist.
        metric: the distance. Weights of its backbone are saved unless its name alone gives them again. The
            ranking network and the record of the folder that it was read from are kept, if its weights still
            are those.
        calibration: what `calibration.identify` says of its lin, for the card.
        ranking: a network with a `name`, as those of `perceptual.ranking` have.
        record: what is known of the training and the scores, see `perceptual.publish.record`.
        adapters: what makes the backbone of its base, saved in its place: whoever reads them has the base.
    """
    backbone, origin = metric.backbone, metric.saved
    base = adapters.config["revision"] if adapters is not None else None
    stored, spec = base is None and not _obtainable(backbone), dict(backbone.info.spec)
    described = describe_backbone(backbone, None if stored else base or backbone.fingerprint())
    described["source"] = re.sub(r"^file:.*/", "file:", described["source"])  # folders here say nothing
    described |= {
        "out_indices": list(backbone.out_indices),
        "input_size": spec.get("input_size"),
        "mean": backbone.mean.flatten().tolist(),
        "std": backbone.std.flatten().tolist(),
    }
    if TARGET in spec or BUILT in spec:
        described["spec"] = spec
    network = {f"{OURS}{key}": value for key, value in backbone.net.state_dict().items()} if stored else {}
    vectors = {f"lin.{level}": vector for level, vector in enumerate(metric.lin)}
    head = {} if metric.head is None else {f"{HEAD}{k}": v for k, v in metric.head.state_dict().items()}
    state = _portable(vectors | head | network)
    check_state(state, "the distance cannot be saved")
    config = {
        "format": FORMAT,
        "backbone": described,
        "channels": list(backbone.channels),
        "form": metric.form,
        "calibration": calibration,
        "sha256": weight_files.fingerprint(state),
        "ranking": None,
        "versions": versions(*LIBRARIES),
        "record": dict(record or {}),
    }
    if metric.center:
        config["center"] = True
    if metric.head is not None:
        config["head"] = len(head[f"{HEAD}0.bias"])
    if adapters is not None:
        check_state(adapters.state, "the adapters cannot be saved")
        hashes = weight_files.fingerprint(adapters.state), sha256(adapters.text().encode()).hexdigest()
        config["adapters"] = dict(zip(("sha256", "config_sha256"), hashes, strict=True))
    ranking_state = _portable(ranking.state_dict()) if ranking is not None else None
    check_state(ranking_state or {}, "the ranking network cannot be saved")
    if ranking is not None and ranking_state is not None:
        config["ranking"] = {"name": ranking.name, "sha256": weight_files.fingerprint(ranking_state)}
    elif origin is not None and origin.config["sha256"] == config["sha256"]:
        config["ranking"], ranking_state = origin.config["ranking"], origin.ranking_state
        config["record"] = config["record"] or origin.config["record"]
    config = seal(config)
    check(json.dumps(config), "the distance cannot be saved")
    _write(folder, config, state, ranking_state, adapters)


def note(folder: Path, **record: Any) -> None:
    """Record more about a saved distance, and write its card anew; raises what `read` and writing do."""
    config = read(folder).config
    config["record"] = config["record"] | record
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    check(text, "what is known of the distance cannot be recorded")
    write_text(folder / CARD, card(config))
    write_text(folder / CONFIG, text)


def find(source: str | os.PathLike[str], **how: Any) -> Path:
    """Find the folder `source`, or download that of the hub's repository `owner/name`.

    Args:
        source: name or path.
        how: arguments of `huggingface_hub.snapshot_download`.

    Raises:
        FileNotFoundError: there is no such folder, and the hub gave none.
        NotADirectoryError: a file.
    """
    path = Path(source).expanduser()
    if os.path.isdir(path):
        return path
    if os.path.isfile(path):
        raise NotADirectoryError(
            f"{str(path)!r} is a file; a distance is saved as a folder, which `perceptual export` makes of a "
            "checkpoint"
        )
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise FileNotFoundError(f"folder {str(path)!r} does not exist, and owner/name on the hub it is not")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, MODEL, CARD, *OPTIONAL], **how))
    except Exception as error:  # the hub's own, httpx's, and those of the operating system
        raise FileNotFoundError(
            f"folder {str(source)!r} does not exist, and the hub did not give it ({first_line(error)})"
        ) from error


def read(folder: Path) -> Saved:
    """Read and check a saved folder: config.json is whole, and the files are those that it describes.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: naming the file that is damaged, was changed, or was written by a later version.
    """
    config = read_config(folder / CONFIG)
    state = _read_state(folder / MODEL, config["sha256"])
    ranking = config["ranking"]
    ranking_state = _read_state(folder / RANKING, ranking["sha256"]) if ranking else None
    given = {key: tuple(value.shape) for key, value in state.items() if not key.startswith(OURS)}
    expected: dict[str, tuple[int, ...]] = {f"lin.{i}": (c,) for i, c in enumerate(config["channels"])}
    if "head" in config:
        size, hidden = sum(config["channels"]), config["head"]
        expected |= {f"{HEAD}0.weight": (hidden, size), f"{HEAD}0.bias": (hidden,)}
        expected |= {f"{HEAD}2.weight": (size, hidden), f"{HEAD}2.bias": (size,)}
    if given != expected:
        raise ValueError(f"{folder / MODEL} holds {given}, but {CONFIG} says levels of {config['channels']}")
    return Saved(folder, config, state, ranking_state, _read_adapters(folder, config.get("adapters")))


def check_state(
    state: Mapping[str, Tensor], what: str, lin: str = "lin.", *, any_precision: bool = False
) -> None:
    """Refuse weights that make distances which are not finite, or negative.

    Args:
        state: the weights of a distance, of a ranking network, or of both.
        what: the file that they are from, for the error.
        lin: what the names of channel weights begin with.
        any_precision: allow channel weights in another precision than float32.

    Raises:
        ValueError: naming the file and the tensor.
    """
    kind = "floating-point" if any_precision else "float32"
    for name, value in state.items():
        finite = not value.is_floating_point() or bool(value.isfinite().all())
        if name.startswith(lin):
            typed = value.is_floating_point() if any_precision else value.dtype == torch.float32
            if not (typed and finite and value.ndim == 1 and (value >= 0).all()):
                raise ValueError(f"{what}: {name} must be a {kind} vector of numbers of at least 0")
        elif not finite:
            raise ValueError(f"{what}: {name} has values that are not finite")


def push(folder: Path, repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Upload a saved folder to `owner/name` on the Hugging Face hub, which is made if need be; its URL."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message="Upload a perceptual distance")
    return str(repo)


def seal(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the SHA-256 of what in a config decides about the distance."""
    return {**config, SEAL: _digest(config)}


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a saved folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: naming the file and the field: it is no JSON, of a later format, lacks a field or has one
            of another type or range, or was changed since it was saved.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path.parent)!r} holds no saved distance: {CONFIG} is missing")
    if (number := read_record(path, Format, "it describes no saved distance")["format"]) > FORMAT:
        raise ValueError(
            f"{str(path)!r} was written by a later version of perceptual (format {number}, this "
            f"one reads {FORMAT})"
        )
    content = path.read_text("utf-8")
    check(content, str(path))
    config: dict[str, Any] = json.loads(content)  # with what is not in the schema
    if config[SEAL] != _digest(config):
        raise ValueError(f"{str(path)!r} was damaged or changed: {SEAL} is that of another config")
    return config


def check(content: str, what: str) -> None:
    """Refuse the text of a `config.json`, of the file `what`, with a field of another type or range.

    Raises:
        ValueError: naming the file and the field.
    """
    backbone = check_record(content, Config, what, REMEDY)["backbone"]
    if not backbone["saved"] and "sha256" not in backbone:
        raise ValueError(f"{what}: backbone.sha256 is missing; {REMEDY}")
    try:
        check_input(backbone["input_size"], backbone["mean"], backbone["std"])
        check_description(backbone.get("spec") or backbone["name"])
    except ValueError as error:
        raise ValueError(f"{what}: backbone: {error}") from None


def _digest(config: Mapping[str, Any]) -> str:
    sealed = {key: config.get(key) for key in SEALED} | {k: config[k] for k in SEALED_IF_SAID if k in config}
    text = json.dumps(sealed, sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _obtainable(backbone: Backbone) -> bool:
    """Say if the name of a backbone alone gives the same weights again, on any machine."""
    if backbone.trainable or backbone.info.spec["weights"] != "default":
        return False
    return Backbone(**backbone.info.spec).fingerprint() == backbone.fingerprint()


def _portable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # each its own copy: what layers share, as in CoaT, would be refused
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _write(
    folder: Path,
    config: dict[str, Any],
    state: dict[str, Tensor],
    ranking: dict[str, Tensor] | None,
    adapters: Adapters | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as temporary:
        try:
            save_file(state, Path(temporary, MODEL))
            if ranking is not None:
                save_file(ranking, Path(temporary, RANKING))
            if adapters is not None:
                save_file(_portable(adapters.state), Path(temporary, ADAPTERS), {"format": "pt"})
                Path(temporary, ADAPTER_CONFIG).write_text(adapters.text(), "utf-8")
        except SafetensorError as error:  # whatever the operating system said, such as a full disk
            raise OSError(f"{folder / MODEL} cannot be written: {error}") from None
        Path(temporary, CARD).write_text(card(config), "utf-8")
        Path(temporary, CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")
        for name in OPTIONAL:
            if not Path(temporary, name).exists():
                (folder / name).unlink(missing_ok=True)
        for path in sorted(Path(temporary).iterdir()):
            path.replace(folder / path.name)


def _read_adapters(folder: Path, record: Mapping[str, str] | None) -> Adapters | None:
    if record is None:
        return None
    config = read_adapter_config(folder, REMEDY)
    state = _read_state(folder / ADAPTERS, record["sha256"])
    if weight_files.digest(folder / ADAPTER_CONFIG) != record["config_sha256"]:
        raise ValueError(
            f"{str(folder / ADAPTER_CONFIG)!r} is not the file that {CONFIG} describes: it was changed"
        )
    return Adapters(config, state)


def _read_state(path: Path, sha256: str) -> dict[str, Tensor]:
    state = weight_files.read(path)
    found = weight_files.fingerprint(state)
    if found != sha256:
        raise ValueError(
            f"{str(path)!r} is not the file that {CONFIG} describes: the SHA-256 of its tensors is "
            f"{found[:12]}…, not {sha256[:12]}…; it was damaged or changed"
        )
    check_state(state, str(path))
    return state
