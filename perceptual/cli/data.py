"""`perceptual data`: download, pack, make and look at judged images."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceptual.data.kinds import Kind

app = typer.Typer(
    help="Download, pack, make and look at judged images.", no_args_is_help=True, rich_markup_mode="markdown"
)


Design = Enum("Design", {"paper": "paper", "severity": "severity", "cnn": "cnn", "mix": "mix"})
Form = Enum("Form", {"folder": "folder", "store": "store", "unjudged": "unjudged"})
Size = Annotated[int, typer.Option(min=8, help="Side of the square patches.")]
Count = Annotated[int, typer.Option(min=1, help="Number of items to make.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random choices.")]
Photos = Annotated[str, typer.Argument(help="Folder of photographs, or `packaged`: those of scikit-image.")]
New = Annotated[
    Path,
    typer.Argument(help="The folder to write; must not exist. An interrupted store is continued."),
]
As = Annotated[
    Form,
    typer.Option(
        "--as",
        help="BAPPS folders, a packed store, or images and a manifest for people to fill in.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]
How = Annotated[
    Design,
    typer.Option(
        "--design",
        help="`paper`: each patch has its own traditional distortions; `severity`: one at two severities; "
        "`cnn`: outputs of networks; `mix`: either.",
    ),
]
Distorters = Annotated[
    Path | None,
    typer.Option(help="For `cnn` and `mix`: a folder of `train-distorters`; default: a small cached one."),
]


@app.command()
def download(
    source: Annotated[str, typer.Argument(help="`bapps`, or `nights`, which has no subsets.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[SUBSET]...", help="More subsets.")] = None,
    subsets: Annotated[
        list[str] | None, typer.Option(help="val (1.1 GB), jnd (0.2 GB), train (5.3 GB).")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder for the data set; default: its name.", show_default=False)
    ] = None,
) -> None:
    """Download a data set; after an interruption, run it again to continue.

    Example: `perceptual data download bapps --subsets val jnd train --root datasets/bapps`

    Example: `perceptual data download nights`
    """
    from perceptual.data.download.bapps import download_bapps
    from perceptual.data.download.nights import download_nights

    root = root or Path(source)
    if source == "nights":
        if subsets or more:
            raise ValueError("nights is one archive: leave out the subsets")
        return typer.echo(download_nights(root))
    if source != "bapps":
        raise ValueError(f"no source {source!r}; there are bapps and nights")
    chosen = [*(subsets or []), *(more or [])] or ["val", "jnd"]
    for line in download_bapps(root, chosen):  # type: ignore[arg-type]  # which checks the words
        typer.echo(line)


@app.command()
def pack(
    src: Annotated[Path, typer.Argument(help="BAPPS folder, manifest (CSV) or folder of NIGHTS.")],
    dst: Annotated[
        Path,
        typer.Argument(help="The store; for BAPPS a folder with one store for `2afc` and one for `jnd`."),
    ],
    size: Size = 64,
    native: Annotated[
        bool, typer.Option("--native", help="Keep the sizes of the images instead of making squares.")
    ] = False,
    shorter_side: Annotated[
        int | None,
        typer.Option(min=8, help="Resize the shorter side to this many pixels, keeping the shape."),
    ] = None,
    skip_unusable: Annotated[
        bool,
        typer.Option(
            "--skip-unusable", help="Leave out items with images that cannot be used, and list them."
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; default: one per core.")
    ] = None,
) -> None:
    """Decode and resize all images once, into memory-mapped arrays that training reads fast.

    After an interruption, run it again to continue.

    Example: `perceptual data pack datasets/bapps datasets/bapps64 --size 64`
    """
    from perceptual.data.readers.folders import read_origin
    from perceptual.data.writers.stores import pack as pack_table

    shown = f"{size}×{size}"
    if native or shorter_side:
        shown = "their own sizes" if shorter_side is None else f"shorter side {shorter_side}"
    for half, table in read_origin(src).items():
        side = None if native or shorter_side else size
        info = pack_table(table, dst / half, str(src), side, skip_unusable, workers, shorter_side)
        for problem in info.skipped:
            typer.echo(f"left out: {problem}", err=True)
        typer.echo(f"{dst / half}: {info.items:,} {info.kind}, {info.images:,} images of {shown}")


@app.command()
def shard(
    src: Annotated[str, typer.Argument(help="A store: a folder, or a URL such as s3://bucket/store.")],
    dst: Annotated[str, typer.Argument(help="Folder or URL for the shards.")],
    images: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
) -> None:
    """Split a store into shards, tar files that WebDataset can read too, on this disk or object storage.

    After an interruption, run it again to continue. Shards are accepted wherever a store is.

    Example: `perceptual data shard bapps64/2afc s3://bucket/bapps64 --images 1000`
    """
    from perceptual.data.writers.shards import write_shards

    info = write_shards(src, dst, images)
    typer.echo(f"{dst}: {info.items:,} {info.kind}, {-(-info.images // images):,} shards")


@app.command()
def check(
    src: Annotated[str, typer.Argument(help="A store: a folder, or a URL such as s3://bucket/store.")],
) -> None:
    """Check every pixel of a store against what was packed.

    Everything else in a store is checked whenever it is opened.

    Example: `perceptual data check bapps64/2afc`
    """
    from perceptual.data.readers.stores import check_pixels

    info = check_pixels(src)
    typer.echo(f"{src}: {info.items:,} {info.kind}, {info.images:,} images, all as they were packed")


@app.command()
def make_triplets(
    photos: Photos,
    dst: New,
    count: Count,
    seed: Seed = 0,
    size: Size = 64,
    form: As = Form.folder,
    workers: Workers = 1,
    design: How = Design.paper,
    distorters: Distorters = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="With --outputs: more folders.")
    ] = None,
    outputs: Annotated[
        bool,
        typer.Option(
            "--outputs",
            help="The arguments are a folder of originals, two or more of what algorithms made of them, and "
            "the folder to write: images and a manifest for people to fill in.",
        ),
    ] = False,
    native: Annotated[
        bool, typer.Option("--native", help="With --outputs: whole images instead of patches.")
    ] = False,
) -> None:
    """Make triplets: a patch and two of its distortions, judged by a simulated observer, not by people.

    Example: `perceptual data make-triplets packaged triplets --count 1000 --as store`

    From your algorithms: `perceptual data make-triplets --outputs originals codec_a codec_b ask --count 500`
    """
    from perceptual.data.kinds import TWO_AFC

    if outputs:
        _make_outputs([Path(photos), dst, *(more or [])], count, seed, None if native else size)
        return
    if more or native:
        raise ValueError(f"{more[0] if more else '--native'} needs --outputs")
    _make(TWO_AFC, photos, dst, count, seed, size, form, workers, design, distorters)


@app.command()
def make_pairs(
    photos: Photos,
    dst: New,
    count: Count,
    seed: Seed = 0,
    size: Size = 64,
    form: As = Form.folder,
    workers: Workers = 1,
    design: How = Design.paper,
    distorters: Distorters = None,
) -> None:
    """Make JND pairs: a patch and a faint distortion, judged by a simulated observer, not by people.

    Example: `perceptual data make-pairs photos pairs --count 1000`
    """
    from perceptual.data.kinds import JND

    _make(JND, photos, dst, count, seed, size, form, workers, design, distorters)


@app.command()
def train_distorters(
    photos: Photos,
    dst: New,
    count: Annotated[int, typer.Option(min=2, help="Number of networks to train.")] = 96,
    seed: Seed = 0,
    workers: Workers = 1,
) -> None:
    """Train small denoising autoencoders, whose outputs are distortions, and draw a gallery of them.

    After an interruption, run it again to continue. It uses a GPU if there is one.

    Example: `perceptual data train-distorters packaged distorters --count 12 --workers 2`
    """
    from perceptual.data.contact_sheets import distorter_gallery
    from perceptual.data.synthetic.distorters.population import train_population

    train_population(_find_photos(photos), dst, count, seed, workers)
    distorter_gallery(dst).save(dst / "gallery.png")
    typer.echo(f"{dst}: {count:,} distorters, drawn in {dst / 'gallery.png'}")


@app.command()
def show(
    src: Annotated[
        Path | None,
        typer.Argument(
            help="Folder, manifest or store; without it, every distortion at five severities is drawn."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The image file to write.")] = Path(
        "sheet.png"
    ),
    count: Annotated[int, typer.Option(min=1, help="Number of items to draw.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed for choosing the items.")] = 0,
    size: Annotated[int, typer.Option(min=8, help="Side of the patches; a store has its own.")] = 64,
    made: Annotated[
        bool, typer.Option("--made", help="Print what was done to the patches of each item drawn.")
    ] = False,
) -> None:
    """Draw triplets (p0 · ref · p1) or pairs with their judgments, or a gallery of the distortions.

    Example: `perceptual data show datasets/bapps64/2afc -o sheet.png`
    """
    from perceptual.cli.output import refuse_inputs
    from perceptual.data.contact_sheets import contact_sheet, gallery, made_lines
    from perceptual.files.writing import save_picture

    if made and src is None:
        raise ValueError("--made needs a folder, manifest or store")
    refuse_inputs(output, *([src] if src else []))
    sheet = gallery(size) if src is None else contact_sheet(src, count, seed, size)
    save_picture(sheet, output)
    for line in made_lines(src, count, seed) if made and src is not None else []:
        typer.echo(line)
    typer.echo(f"{output}: {sheet.width}×{sheet.height}")


def _make_outputs(folders: list[Path], count: int, seed: int, size: int | None) -> None:
    from perceptual.data.synthetic.outputs import make_from_outputs

    if len(folders) < 4:
        raise ValueError(
            f"--outputs needs a folder of originals, two of outputs and one to write, got {len(folders)}"
        )
    originals, *algorithms, dst = folders
    alike = make_from_outputs(originals, algorithms, dst, count, seed, size)
    typer.echo(f"{dst}: {count:,} triplets of {len(algorithms)} algorithms")
    if alike:
        typer.echo(f"{alike:,} of them show two equal outputs")


def _find_photos(photos: str) -> list[str]:
    from perceptual.data.synthetic.photographs import find_photos, packaged

    return packaged() if photos == "packaged" else find_photos(photos)


def _make(
    kind: "Kind",
    photos: str,
    dst: Path,
    count: int,
    seed: int,
    size: int,
    form: Form,
    workers: int,
    design: Design,
    distorters: Path | None,
) -> None:
    from perceptual.data.synthetic.making import Making, make_files, make_store
    from perceptual.files.writing import refuse_existing

    if form is not Form.store:
        refuse_existing(dst)  # before networks are trained
    place = None if distorters is None else str(distorters)
    making = Making(kind, _find_photos(photos), count, seed, size, design.name, place)
    source = f"design {design.name} on photographs in {photos}, judged by a simulated observer"
    if form is Form.store:
        make_store(making, dst, source, workers)
    else:
        make_files(making, dst, source, form.name, workers)
    typer.echo(f"{dst}: {count:,} {kind.plural}")
