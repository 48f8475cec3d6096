"""Triplets of outputs of algorithms, such as codecs: patches at one place of an original and of two outputs.

As the "real algorithm" sets of Zhang et al. 2018 (https://arxiv.org/abs/1801.03924) were made.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from perceptual.data.decode import checked_rgb
from perceptual.data.kinds import ALGORITHMS, TWO_AFC
from perceptual.data.readers.folders import join_stems
from perceptual.data.synthetic.photographs import find_photos
from perceptual.files import csv_cells
from perceptual.files.places import nfc
from perceptual.files.writing import refuse_existing, whole_folder

TRIES = 20  # places, until the two outputs differ and the patch is not uniform
UNIFORM = 4.0  # standard deviation of pixels


def make_from_outputs(
    originals: Path, outputs: Sequence[Path], dst: Path, count: int, seed: int = 0, size: int | None = 64
) -> int:
    """Write `<dst>/{ref,p0,p1}/NNNNNN.png` and `<dst>/manifest.csv` for people to judge.

    The manifest has the names of the folders as `algorithm0` and `algorithm1`. Originals, pairs of algorithms
    and places are drawn at random, each original and each pair about as often as the others.

    Args:
        originals: folder of images.
        outputs: two folders or more, each with a file of the same stem and size for every original.
        dst: folder to make.
        count: number of triplets.
        seed: of all choices.
        size: side of the square patches, in pixels of the originals; None: whole images.

    Returns:
        number of triplets whose outputs are equal at every place that was tried.

    Raises:
        ValueError: folders of one name, stems that are not in all folders, images of different size or too
            small, or `dst` exists.
        FileNotFoundError: there is no such folder, or it holds no image.
    """
    refuse_existing(dst)
    names = [folder.name or folder.resolve().name for folder in outputs]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"outputs must be two folders or more whose names differ, got {', '.join(names)}")
    files = _join([originals, *outputs])
    rng = np.random.default_rng(seed)
    pairs = list(combinations(range(1, len(files[0])), 2))
    alike = 0
    with whole_folder(dst) as partial:
        for role in TWO_AFC.roles:
            (partial / role).mkdir(parents=True)
        rows = []
        stems, chosen = _in_turn(len(files), count, rng), _in_turn(len(pairs), count, rng)
        for number in range(count):
            pair = rng.permutation(pairs[chosen[number]])
            patches = _patches([files[stems[number]][i] for i in (0, *pair)], size, rng)
            alike += bool(np.array_equal(patches[1], patches[2]))
            images = [f"{role}/{number:06}.png" for role in TWO_AFC.roles]
            for image, patch in zip(images, patches, strict=True):
                Image.fromarray(patch).save(partial / image)
            rows.append([*images, "", *(names[i - 1] for i in pair)])
        columns = [*TWO_AFC.roles, TWO_AFC.on_disk, *ALGORITHMS]
        csv_cells.write_file(partial / "manifest.csv", columns, rows)
    return alike


def _in_turn(kinds: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers 0 … kinds − 1, (count,): each as often as the others, in random order."""
    rounds = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return np.concatenate(rounds)[:count]


def _join(folders: Sequence[Path]) -> list[list[str]]:
    """For each stem the file of every folder."""
    files = {str(folder): {nfc(Path(path).stem): path for path in find_photos(folder)} for folder in folders}
    return list(join_stems(files, folders[0]).values())


def _patches(paths: Sequence[str], size: int | None, rng: np.random.Generator) -> list[np.ndarray]:
    images = [checked_rgb(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.size != images[0].size:
            raise ValueError(
                f"{path} is {image.width}×{image.height}, {paths[0]} {images[0].width}×{images[0].height}"
            )
    width, height = images[0].size
    if size is None:
        return [np.asarray(image) for image in images]
    if min(width, height) < size:
        raise ValueError(f"{paths[0]} is {width}×{height}, patches need {size} on the smaller side")
    for _ in range(TRIES):
        left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
        patches = [np.asarray(image.crop((left, top, left + size, top + size))) for image in images]
        if patches[0].std() > UNIFORM and not np.array_equal(patches[1], patches[2]):
            break
    return patches
