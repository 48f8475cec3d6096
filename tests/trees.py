"""Small data sets on disk for the tests of `perceptual.data`."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, rng: np.random.Generator, side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (side, side + 5, 3), dtype=np.uint8)).save(path)


def write_subset(folder: Path, count: int, seed: int = 0) -> None:
    """A BAPPS subset of `count` triplets; judgment i is (i mod 3) / 2."""
    rng = np.random.default_rng(seed)
    (folder / "judge").mkdir(parents=True)
    for i in range(count):
        for role in ("ref", "p0", "p1"):
            write_image(folder / role / f"{i:06}.png", rng)
        np.save(folder / "judge" / f"{i:06}.npy", np.array([i % 3 / 2], np.float32))


def write_pair_subset(folder: Path, count: int, seed: int = 0) -> None:
    """A subset of `count` JND pairs; `same` of pair i is (i mod 4) / 3."""
    rng = np.random.default_rng(seed)
    (folder / "same").mkdir(parents=True)
    for i in range(count):
        for role in ("p0", "p1"):
            write_image(folder / role / f"{i:06}.png", rng)
        np.save(folder / "same" / f"{i:06}.npy", np.array([i % 4 / 3], np.float32))


def write_manifest(path: Path, images: int, rows: list[tuple[object, ...]], header: str) -> Path:
    """Images `img/0.png` … and a CSV whose first three cells of each row are numbers of images."""
    rng = np.random.default_rng(1)
    for i in range(images):
        write_image(path.parent / "img" / f"{i}.png", rng)
    lines = [",".join([*(f"img/{i}.png" for i in row[:3]), *(str(cell) for cell in row[3:])]) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def plain(path: str | Path, size: int) -> np.ndarray:
    """(3, S, S) float32 in [0, 1], read as the paper's loader does."""
    image = Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
