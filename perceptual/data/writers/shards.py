"""Split a store in shards that WebDataset reads too, here or on object storage.

The images go, in the order of the store, into tar files, as `NNNNNNNNN.npy`; `columns.npz` holds the rest,
and `shards.json`, written last, what there is. Run again after it was interrupted, it goes on with the shards
that are missing.
"""

import io
import json
import tarfile
from dataclasses import asdict

import fsspec
import numpy as np

from perceptual.data.readers.stores import (
    COLUMNS,
    SHARDS,
    StoreInfo,
    read_info,
    read_store,
)
from perceptual.data.table import Table
from perceptual.data.workers import all_done
from perceptual.files.messages import install
from perceptual.files.places import place

BEGUN = "shards.partial.json"


def write_shards(src: str, dst: str, images: int = 1000) -> StoreInfo:
    """Write the shards of a store.

    Args:
        src: the store, a folder or URL.
        dst: a folder or URL; what an interrupted run of the same left there is completed.
        images: per shard.

    Raises:
        ValueError: `src` is no store, `dst` holds something else, or webdataset is not installed.
        OSError: `dst` cannot be written.
    """
    if images < 1:
        raise ValueError(f"images per shard must be at least 1, got {images}")
    info = read_info(src)
    if info.size is None:
        raise ValueError(f"{src} holds images in their own sizes, which are not split in shards")
    table = read_store(src)
    target = place(dst)
    plan = {"store": asdict(info), "images_per_shard": images}
    if (target / SHARDS).is_file():
        there = json.loads((target / SHARDS).read_text())
        if {key: there[key] for key in plan} != json.loads(json.dumps(plan)):
            raise ValueError(f"{dst} holds shards of another store; remove it or choose another place")
        return info
    if (target / BEGUN).is_file():
        if json.loads((target / BEGUN).read_text()) != json.loads(json.dumps(plan)):
            raise ValueError(f"{dst} holds part of the shards of another store; remove it")
    elif target.exists() and any(target.iterdir()):
        raise ValueError(f"{dst} is not empty; remove it or choose another place")
    else:
        target.mkdir(parents=True, exist_ok=True)  # object storage has no empty folders
        (target / BEGUN).write_text(json.dumps(plan))
    starts = list(range(0, info.images, images))
    names = [f"images-{number:06}.tar" for number in range(len(starts))]
    rows = [range(start, min(start + images, info.images)) for start in starts]
    tasks = [(table, part, str(target / name)) for name, part in zip(names, rows, strict=True)]
    written = all_done(_write_shard, tasks, 1, "Writing shards")
    parts = [
        {"file": name, "images": len(part), **found}
        for name, part, found in zip(names, rows, written, strict=True)
    ]
    encoded = io.BytesIO()
    columns = {"items": table.items, **table.columns, "digests": np.asarray(table.images.digests)}
    np.savez(encoded, **columns)  # type: ignore[arg-type]  # takes columns by name
    (target / COLUMNS).write_bytes(encoded.getvalue())
    (target / SHARDS).write_text(json.dumps({**plan, "shards": parts}, indent=1) + "\n")
    (target / BEGUN).unlink()
    return info


def _write_shard(table: Table, rows: range, path: str) -> dict[str, int]:
    """Write a shard, unless it is there; where its images begin, and its bytes."""
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise ValueError(f"shards need: {install('remote')}") from error
    encoded = io.BytesIO()
    writer = TarWriter(encoded, encoder=False, mtime=0, compress=False)
    for row in rows:
        image = io.BytesIO()
        np.save(image, table.images.one(row).numpy())
        writer.write({"__key__": f"{row:09}", "npy": image.getvalue()})
        header = image.tell() - table.images.one(row).numel()
    writer.close()
    content = encoded.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        places = [member.offset_data + header for member in archive]
    stride = places[1] - places[0] if len(places) > 1 else 0
    if any(np.diff(places) != stride):
        raise RuntimeError(f"images in {path} are not at equal distances")
    files, inside = fsspec.core.url_to_fs(path)
    if not (
        files.exists(inside) and files.size(inside) == len(content) and files.cat_file(inside) == content
    ):
        partial = inside if "://" in path else f"{inside}.partial"  # object storage has no half files
        files.pipe_file(partial, content)
        if partial != inside:
            files.mv(partial, inside)
    return {"start": places[0], "stride": stride, "bytes": len(content)}
