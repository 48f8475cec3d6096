"""Cluster the images of a folder by how they look: all pairs, a tree, and a picture with a row a cluster.

    python examples/cluster_folder.py path/to/images --clusters 6 -o clusters.png

Without a folder it takes patches of packaged photographs.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor

from perceptual import LPIPS

PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "brick", "grass", "gravel", "text")


def read_folder(folder: Path, size: int) -> tuple[list[str], Tensor]:
    """Names and images (N, 3, S, S) of all files in a folder that Pillow reads."""
    known = Image.registered_extensions()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)
    if len(paths) < 2:
        raise SystemExit(f"{folder} holds {len(paths)} images; clusters need two or more")
    images = [to_tensor(Image.open(path).convert("RGB").resize((size, size))) for path in paths]
    return [path.name for path in paths], torch.stack(images)


def packaged(count: int, size: int) -> tuple[list[str], Tensor]:
    """Names and patches (N, 3, S, S) of photographs that scikit-image brings."""
    rng = np.random.default_rng(0)
    names, images = [], []
    for photo in PHOTOS:
        image = to_pil_image(getattr(skimage.data, photo)()).convert("RGB")
        for i in range(count):
            left, top = rng.integers(image.width - 160), rng.integers(max(1, image.height - 160))
            crop = image.crop((left, top, left + 160, top + 160)).resize((size, size))
            names.append(f"{photo} {i}")
            images.append(to_tensor(crop))
    return names, torch.stack(images)


def cluster(distances: Tensor, clusters: int) -> np.ndarray:
    """Number of the cluster, from 1, of each of N images, from their distances (N, N): average linkage."""
    tree = linkage(squareform(distances.numpy(), checks=False), method="average", optimal_ordering=True)
    return fcluster(tree, clusters, criterion="maxclust")


def draw(images: Tensor, label: np.ndarray) -> Image.Image:
    """A row a cluster."""
    size, columns = images.shape[-1], np.bincount(label).max()
    sheet = Image.new("RGB", (columns * (size + 2), len(set(label)) * (size + 2)), "white")
    for row, one in enumerate(sorted(set(label))):
        for column, index in enumerate(np.flatnonzero(label == one)):
            sheet.paste(to_pil_image(images[index]), (column * (size + 2), row * (size + 2)))
    return sheet


def main() -> tuple[list[str], np.ndarray]:
    """Run it; returns the names of the images and the cluster of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--count", type=int, default=8, help="patches a packaged photograph")
    parser.add_argument("--size", type=int, default=96, help="side that images are resized to")
    parser.add_argument("-o", "--output", default="clusters.png")
    arguments = parser.parse_args()

    if arguments.folder:
        names, images = read_folder(arguments.folder, arguments.size)
    else:
        names, images = packaged(arguments.count, arguments.size)
    # each image goes through the backbone once, in memory that does not grow with their number; `pooled`
    # compares what is in the images, wherever it is
    metric = LPIPS("tf_efficientnet_lite0", lin=None, form="pooled")
    label = cluster(metric.pairwise(images), arguments.clusters)
    for one in sorted(set(label)):
        print(f"{one}: {', '.join(name for name, other in zip(names, label, strict=True) if other == one)}")
    draw(images, label).save(arguments.output)
    print(arguments.output)
    return names, label


if __name__ == "__main__":
    main()
