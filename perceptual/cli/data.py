"""`perceptual data`: download, pack, make and look at judged images."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceptual.data.items.table import Table

app = typer.Typer(
    help="Download, pack, make and look at judged images.", no_args_is_help=True, rich_markup_mode="markdown"
)

Form = Enum("Form", {"folder": "folder", "store": "store", "unjudged": "unjudged"})
Size = Annotated[int, typer.Option(min=8, help="Side of the square patches.")]
Count = Annotated[int, typer.Option(min=1, help="Number of items to make.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random choices.")]
Photos = Annotated[str, typer.Argument(help="Folder of photographs, or `packaged`: those of scikit-image.")]
New = Annotated[
    Path,
    typer.Argument(help="The folder to write; must not exist. A store that was interrupted is continued."),
]
As = Annotated[
    Form,
    typer.Option(
        "--as",
        help="BAPPS folders, a packed store, or images and a manifest for people to fill in.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Number of processes.")]


@app.command()
def download(
    source: Annotated[str, typer.Argument(help="`bapps`.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[SUBSET]...", help="More subsets.")] = None,
    subsets: Annotated[
        list[str] | None, typer.Option(help="val (1.1 GB), jnd (0.2 GB), train (5.3 GB).")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder for the data set.")] = Path("bapps"),
) -> None:
    """Download a data set; after an interruption, run it again to continue.

    Example: `perceptual data download bapps --subsets val jnd train --root datasets/bapps`
    """
    from perceptual.data.download.bapps import download_bapps

    if source != "bapps":
        raise ValueError(f"no source {source!r}; there is bapps")
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
    skip_unusable: Annotated[
        bool,
        typer.Option(
            "--skip-unusable", help="Leave out items with images that cannot be used, and list those."
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
    from perceptual.data.readers.detect import read_origin
    from perceptual.data.writers.stores import pack as pack_table

    for half, table in read_origin(src).items():
        info = pack_table(table, dst / half, str(src), size, skip_unusable, workers)
        for problem in info.skipped:
            typer.echo(f"left out: {problem}", err=True)
        typer.echo(f"{dst / half}: {info.items:,} {info.kind}, {info.images:,} images of {size}×{size}")


@app.command("make-triplets")
def make_triplets(
    photos: Photos,
    dst: New,
    count: Count,
    seed: Seed = 0,
    size: Size = 64,
    form: As = Form.folder,
    workers: Workers = 1,
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
        bool, typer.Option("--native", help="With --outputs: whole images, no patches.")
    ] = False,
) -> None:
    """Make triplets: a patch and two of its distortions, judged by a simulated observer, not by people.

    Example: `perceptual data make-triplets packaged triplets --count 1000 --as store`

    Of your algorithms: `perceptual data make-triplets --outputs originals codec_a codec_b ask --count 500`
    """
    from perceptual.data.items.triplets import TripletTable

    if outputs:
        _make_outputs([Path(photos), dst, *(more or [])], count, seed, None if native else size)
        return
    if more or native:
        raise ValueError(f"{more[0] if more else '--native'} needs --outputs")
    _make(TripletTable, photos, dst, count, seed, size, form, workers)


@app.command("make-pairs")
def make_pairs(
    photos: Photos,
    dst: New,
    count: Count,
    seed: Seed = 0,
    size: Size = 64,
    form: As = Form.folder,
    workers: Workers = 1,
) -> None:
    """Make JND pairs: a patch and a faint distortion, judged by a simulated observer, not by people.

    Example: `perceptual data make-pairs photos pairs --count 1000`
    """
    from perceptual.data.items.pairs import PairTable

    _make(PairTable, photos, dst, count, seed, size, form, workers)


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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of items.")] = 0,
    size: Annotated[int, typer.Option(min=8, help="Side of the patches; a store has its own.")] = 64,
) -> None:
    """Draw triplets (p0 · ref · p1) or pairs with their judgments, or a gallery of the distortions.

    Example: `perceptual data show datasets/bapps64/2afc -o sheet.png`
    """
    from perceptual.data.contact_sheets import contact_sheet, gallery

    sheet = gallery(size) if src is None else contact_sheet(src, count, seed, size)
    sheet.save(output)
    typer.echo(f"{output}: {sheet.width}×{sheet.height}")


def _make_outputs(folders: list[Path], count: int, seed: int, size: int | None) -> None:
    from perceptual.data.synthetic.outputs import make_from_outputs

    if len(folders) < 4:
        raise ValueError(
            f"--outputs needs a folder of originals, two of outputs and one to write, got {len(folders)}"
        )
    originals, *algorithms, dst = folders
    made = make_from_outputs(originals, algorithms, dst, count, seed, size)
    typer.echo(f"{dst}: {made.triplets:,} triplets of {len(algorithms)} algorithms")
    if made.alike:
        typer.echo(f"{made.alike:,} of them show two equal outputs")


def _find_photos(photos: str) -> list[str]:
    from perceptual.data.synthetic.photographs import find_photos, packaged

    return packaged() if photos == "packaged" else find_photos(photos)


def _make(
    kind: "type[Table]", photos: str, dst: Path, count: int, seed: int, size: int, form: Form, workers: int
) -> None:
    from perceptual.data.synthetic.making import Making, make
    from perceptual.data.synthetic.storing import make_store
    from perceptual.data.writers.folders import refuse_existing, write_folder, write_unjudged

    making = Making(kind, _find_photos(photos), count, seed, size)
    if form is Form.store:
        source = f"made of photographs in {photos}, judged by a simulated observer"
        make_store(making, dst, source, workers)
    else:
        refuse_existing(dst)  # before all is made
        (write_folder if form is Form.folder else write_unjudged)(make(making, workers), dst)
    typer.echo(f"{dst}: {count:,} {kind.plural}")
