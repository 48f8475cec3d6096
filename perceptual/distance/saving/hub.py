"""Saved distances: read from a folder or the Hugging Face hub, and written to them."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from perceptual.distance.calibration import Calibration, identify
from perceptual.distance.level import Outside
from perceptual.distance.saving import folders
from perceptual.distance.saving.adapters import Adapters
from perceptual.names import DEFAULT, UNCALIBRATED, Method


class HubMixin:
    """Loading, saving and sharing, for `LPIPS`."""

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        backbone: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        spatial: bool = False,
        value_range: tuple[float, float] = (0, 1),
        check_range: bool = True,
        outside: Outside = "see",
    ) -> Self:
        """Load a distance: published (`alexnet-v0.1`), a folder, or the hub's (`owner/name`).

        Args:
            source: name or folder; a folder is looked for before the hub.
            backbone: the network of the user's that a folder was saved with; no folder holds its code.
            revision, token, cache_dir, local_files_only: as `huggingface_hub.snapshot_download` takes them.
            spatial, value_range, check_range, outside: as `LPIPS` takes them; a folder does not hold them.

        Raises:
            FileNotFoundError: no such folder, or the hub did not give it or its weights.
            ValueError: naming the file that was damaged or changed, or does not fit the backbone.
        """
        make: Any = cls
        how: dict[str, Any] = {"spatial": spatial, "value_range": value_range}
        how |= {"check_range": check_range, "outside": outside}
        is_folder = Path(source).expanduser().is_dir()
        if not is_folder and (method := Method.parse(str(source))).calibration != DEFAULT:
            named: Self = make(method, **how)
            return named
        folder = folders.find(
            source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        saved = folders.read(folder)
        built = saved.backbone(backbone)
        known = identify(built.name, saved.lin) or str(source)
        calibration = Calibration(None if known == UNCALIBRATED else known, saved.lin, saved=saved)
        how |= {"form": saved.config["form"], "center": saved.config.get("center", False), "head": saved.head}
        restored: Self = make(built, calibration, **how)
        return restored

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        ranking: nn.Module | None = None,
        record: Mapping[str, Any] | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Save the distance as a folder: safetensors, config.json and a model card; see `folders.save`.

        A backbone that its name alone gives again is not stored, but recorded with its weights' SHA-256.

        Args:
            folder: made if it does not exist; an earlier save in it is replaced.
            ranking: the ranking network that was trained with it, to be saved beside it.
            record: what the card says of the training and the scores, see `perceptual.publish.record`.
            adapters: of `training.lora.adapters`, saved in place of a backbone that was tuned by them.
        """
        metric: Any = self
        known = identify(metric.backbone.name, list(metric.lin))
        folders.save(Path(folder), metric, known, ranking, record, adapters)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        ranking: nn.Module | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> str:
        """Save to `owner/name` on the Hugging Face hub, as `save_pretrained` does to a folder; its URL."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, ranking=ranking, record=record)
            return folders.push(Path(folder), repo_id, private, token)
