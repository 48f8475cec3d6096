"""`perceptual data make-triplets`, `make-pairs` and `train-distorters`: judged images made of photographs."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perceptual.data.kinds import Kind

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
    from perceptual.data.synthetic.making import Making
    from perceptual.data.synthetic.storing import make_files, make_store
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
