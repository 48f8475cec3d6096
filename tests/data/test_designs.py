import json

import numpy as np
import pytest
import torch
from judged import pixels

from perceptual.data import JND, TWO_AFC
from perceptual.data.synthetic import observer
from perceptual.data.synthetic.designs import DESIGNS
from perceptual.data.synthetic.distorters.population import load_population
from perceptual.data.synthetic.distortions import FAMILIES, RANGES
from perceptual.data.synthetic.making import make_items
from perceptual.data.synthetic.photographs import packaged
from perceptual.data.synthetic.steps import apply, record, recorded


@pytest.fixture(params=DESIGNS)
def design(request):
    return request.param


def table(design, distorters, count=20, kind=TWO_AFC, size=32):
    return make_items(kind, packaged(), count, 3, size, design=design, distorters=where(design, distorters))


def where(design, distorters):
    return str(distorters) if DESIGNS[design].needs_distorters else None


@pytest.mark.parametrize("kind", [TWO_AFC, JND])
def test_the_record_repeats_what_was_done(design, distorters, kind):
    made = table(design, distorters, 12, kind)
    networks = load_population(distorters).networks
    first, *others = made.kind.roles
    for row, text in enumerate(made.made):
        ref = pixels(made)[made.role(first)[row]].float() / 255
        for role, steps in zip(others, recorded(text), strict=True):
            again = apply(ref, steps, networks).clamp(0, 1).mul(255).round().byte()
            assert torch.equal(again, pixels(made)[made.role(role)[row]])


def test_patches_of_design_paper_are_independent(distorters):
    records = [recorded(text) for text in table("paper", distorters, 400, size=8).made]
    families = [[[step.family for step in steps] for steps in patches] for patches in records]
    assert {len(steps) for patches in families for steps in patches} == {1, 2}
    assert np.mean([len(steps) for patches in families for steps in patches]) == pytest.approx(1.5, abs=0.1)
    assert all(len(set(steps)) == len(steps) for patches in families for steps in patches)
    assert np.mean([p0 == p1 for p0, p1 in families]) < 0.1
    steps = [step for patches in records for each in patches for step in each]
    assert {step.family for step in steps} == set(FAMILIES) == set(RANGES)
    for family, (low, high) in RANGES.items():
        severities = [step.severity for step in steps if step.family == family]
        assert low <= min(severities) < low + 0.35 * (high - low)
        assert high >= max(severities) > high - 0.35 * (high - low)


def test_networks_differ_within_an_item_of_design_cnn(distorters):
    for text in table("cnn", distorters, 40, size=32).made:
        (p0,), (p1,) = recorded(text)
        assert p0.family != p1.family
        assert p0.family.startswith("cnn/")


def test_design_mix_has_every_kind(distorters):
    patches = [steps for text in table("mix", distorters, 60, size=32).made for steps in recorded(text)]
    kinds = {tuple(step.family.startswith("cnn/") for step in steps) for steps in patches}
    assert kinds == {(False,), (False, False), (True,), (True, False)}


def test_severity_is_one_family_at_two_severities(distorters):
    for text in table("severity", distorters, 20).made:
        p0, p1 = recorded(text)
        assert (p0[0].family, p0[0].seed) == (p1[0].family, p1[0].seed)
        assert p0[0].severity != p1[0].severity


def test_the_rule_judges_design_paper(distorters):
    made = table("paper", distorters, 150)
    images = pixels(made).numpy()
    seen = np.array([observer.differences(images[list(row)]) for row in made.items.T])
    prefers_p1 = seen[:, 1] < seen[:, 0]
    clear = np.abs(np.log(seen[:, 0] / seen[:, 1])) > 0.7
    assert clear.sum() > 30
    assert np.abs(made.answer - prefers_p1)[clear].mean() < 0.05
    assert np.abs(made.answer - prefers_p1)[~clear].mean() > 0.1


def test_pairs_are_called_the_same_by_the_rule(distorters):
    made = table("paper", distorters, 150, JND)
    images = pixels(made).numpy()
    seen = np.array([observer.differences(images[list(row)])[0] for row in made.items.T])
    assert made.answer[seen < 1].mean() > 0.8
    assert made.answer[seen > 4].mean() < 0.2
    assert (seen < 1).sum() > 10 < (seen > 4).sum()


def test_wrong_designs_and_distorters(distorters, tmp_path):
    with pytest.raises(ValueError, match="design must be one of paper, severity, cnn, mix, got 'best'"):
        make_items(TWO_AFC, packaged(), 3, 0, design="best")
    with pytest.raises(ValueError, match="design paper takes no distorters"):
        make_items(TWO_AFC, packaged(), 3, 0, distorters=str(distorters))
    with pytest.raises(ValueError, match=r"is no folder of distorters: it has no distorters.json"):
        make_items(JND, packaged(), 3, 0, design="cnn", distorters=str(tmp_path))


def test_what_is_no_record():
    assert recorded(record(recorded('[[["jpeg",0.5,7]]]'))) == [[("jpeg", 0.5, 7)]]
    for text in ("jpeg", '[[["jpeg",0.5]]]', json.dumps(3)):
        with pytest.raises(ValueError, match="is no record of distortions"):
            recorded(text)
    with pytest.raises(ValueError, match="no distorter '000'; there are none"):
        apply(torch.zeros(3, 8, 8), recorded('[[["cnn/000",1,0]]]')[0], {})
