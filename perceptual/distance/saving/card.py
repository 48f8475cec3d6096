"""Model card: what a saved distance is, what it was trained on and how it scores, for people to read.

Sections and fields are those of the Hugging Face hub, https://huggingface.co/docs/hub/model-cards.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perceptual.distance.noticed import Noticed
from perceptual.distance.saving.markdown import code, escaped
from perceptual.names import UNCALIBRATED

TEXT = """---
{header}
---

# Perceptual distance on {title}

How different two images look: [LPIPS](https://arxiv.org/abs/1801.03924) (Zhang et al. 2018) on the features
of {name}. Made with `perceptual` {version}.

## Use

```python
from perceptual import LPIPS

metric = LPIPS.from_pretrained("path/to/this/folder")  # or owner/name on the hub
metric(x, y)  # (N,) distances of images (N, 3, H, W) in [0, 1]; larger = more different
```

## What it is

| | |
|---|---|
{facts}
{calibration}
## Training

{training}

## Scores

{scores}
"""

CALIBRATION = """
## Calibration

The channel weights are the calibration {version} of Zhang et al., as the
[`lpips`](https://github.com/richzhang/PerceptualSimilarity) package has it, under its licence (BSD-2-Clause):

```text
{licence}
```
"""
LICENCE = Path(__file__).parents[1] / "calibrations" / "LICENSE"
OURS = {UNCALIBRATED: "none: all weights 1", None: "made by whoever saved this"}

KINDS = {
    "2afc": "2AFC (agreement with people's choices, in %)",
    "jnd": "JND mAP (in %)",
    "odd-one-out": "odd one out (agreement with people's choices among three, in %)",
    "opinion": "Spearman's correlation with opinion scores (× 100)",
}


def card(config: Mapping[str, Any]) -> str:
    """Write the card, in Markdown, of the config.json that `folders.save` writes."""
    from huggingface_hub import ModelCardData

    name = config["backbone"]["name"]
    tags = ["lpips", "perceptual-metric", "image-quality-assessment", "pytorch"]
    known = config["calibration"]
    theirs = known not in OURS
    # the licence of weights that are stored beside them is not known
    licence = "bsd-2-clause" if theirs and not config["backbone"]["saved"] else None
    header = ModelCardData(library_name="perceptual", license=licence, tags=tags).to_yaml()
    record = config["record"]
    text = CALIBRATION.format(version=known, licence=LICENCE.read_text("utf-8").strip()) if theirs else ""
    return TEXT.format(
        header=header,
        title=escaped(name),
        name=code(name),
        version=escaped(config["versions"]["perceptual"]),
        facts="\n".join(f"| {key} | {value} |" for key, value in _facts(config).items()),
        calibration=text,
        training=_training(record, theirs),
        scores=_scores(record.get("scores", [])),
    )


def _facts(config: Mapping[str, Any]) -> dict[str, str]:
    backbone, ranking = config["backbone"], config["ranking"]
    kept = (
        "in `model.safetensors`"
        if backbone["saved"]
        else f"not stored; SHA-256 {code(backbone['sha256'][:16] + '…')}"
    )
    adapted = ", with LoRA adapters in `adapter_model.safetensors`" if "adapters" in config else ""
    levels = zip(backbone["out_indices"], config["channels"], strict=True)
    side = backbone["input_size"]
    versions = config["versions"].items()
    return {
        "backbone": f"{code(backbone['name'])}, weights from {code(backbone['source'])} ({kept}){adapted}",
        "levels (channels)": ", ".join(f"{level} ({channels})" for level, channels in levels),
        "images are resized to": f"{side}×{side}" if side else "nothing: seen as they are",
        "form": code(config["form"])
        + (", centred" if config.get("center") else "")
        + (f", after a head of {config['head']} hidden units" if "head" in config else ""),
        "calibration": OURS.get(config["calibration"])
        or f"{config['calibration']} of Zhang et al., see below",
        "ranking network": code(ranking["name"]) if ranking else "none",
        "SHA-256 of the tensors": code(config["sha256"]),
        "versions": ", ".join(f"{escaped(library)} {escaped(number)}" for library, number in versions),
    }


def _training(record: Mapping[str, Any], published: bool) -> str:
    if not record:
        return (
            "Its calibration was published; nothing else was trained."
            if published
            else "Nothing is recorded."
        )
    titles = {
        "data": "data",
        "fingerprint": "SHA-256 of the training data",
        "epochs": "epochs",
        "steps": "steps",
    }
    lines = [
        f"* {title}: {escaped(record[key])}" for key, title in titles.items() if record.get(key) is not None
    ]
    if noticed := record.get("noticed"):
        curve = Noticed(**noticed)
        lines.append(f"* a distance of {curve.threshold:.4g}: {escaped(curve.sentence(curve.threshold))}")
    if settings := record.get("settings"):
        lines.append("* settings: " + ", ".join(code(f"{key}={value}") for key, value in settings.items()))
    if command := record.get("command"):
        lines += ["", "```bash", " ".join(str(command).split()), "```"]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(low: float | None, high: float | None) -> str:
    """It is not known where too few references were judged."""
    return "too few" if low is None else f"{_percent(low)} – {_percent(high)}"


def _scores(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return "None are recorded."
    lines = []
    for score in scores:
        lines += [
            f"{KINDS[score['kind']]}, on {code(score['data'])}: {escaped(score['description'])} "
            f"(fingerprint {code(score['fingerprint'][:16] + '…')}).",
            "",
            "| subset | items | score | 95 % interval |",
            "|---|--:|--:|---|",
            *(
                f"| {escaped(row['subset'])} | {row['items']:,} | {_percent(row['score'])} "
                f"| {_interval(row['low'], row['high'])} |"
                for row in score["rows"]
            ),
            "",
        ]
    return "\n".join(
        [
            *lines,
            "`mean` is the plain mean of the subsets, `micro` that of all items; intervals are bootstrapped.",
        ]
    )
