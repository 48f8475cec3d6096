import lpips
import pytest
import torch
from networks import trunk, write_weights

from perceptual import LPIPS, Backbone
from perceptual.distance.baselines import BASELINES
from perceptual.metrics import PerceptualDiversity


def images(count, seed=0, size=32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small():
    torch.manual_seed(0)
    return PerceptualDiversity(LPIPS(Backbone("test_resnet", None), lin=None))


@torch.no_grad()
def test_it_is_a_double_loop_over_the_lpips_package(tmp_path, monkeypatch):
    write_weights(tmp_path, "alexnet")
    monkeypatch.setenv("PERCEPTUAL_WEIGHTS", str(tmp_path))
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    theirs.net = trunk("alexnet")
    samples, group = images(9, size=64), torch.tensor([5, 5, 2, 2, 2, 5, 7, 2, 5])
    means = []
    for name in (2, 5):
        rows = torch.nonzero(group == name).flatten().tolist()
        pairs = [(i, j) for i in rows for j in rows if i < j]
        values = [theirs(samples[i : i + 1], samples[j : j + 1], normalize=True) for i, j in pairs]
        means.append(torch.cat(values).mean())
    metric = PerceptualDiversity(LPIPS("alex"))
    metric.update(samples, group)
    assert metric.compute().item() == pytest.approx(torch.stack(means).mean().item(), rel=1e-5)


def test_samples_come_in_any_order_and_in_any_number_of_updates():
    samples, group = images(12), torch.arange(12) % 3
    whole, parts = small(), small()
    whole.update(samples, group)
    for i in torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist():
        parts.update(samples[i : i + 1], int(group[i]))
    torch.testing.assert_close(whole.compute(), parts.compute(), atol=1e-12, rtol=1e-12)
    assert [len(state) for state in (parts.groups, parts.counts, parts.sums)] == [1, 1, 1]
    assert len(parts.counts[0]) == 3, "three groups are kept, not twelve samples"


def test_near_duplicates_have_their_distance():
    metric, base = small(), images(1)
    samples = torch.cat([base, (base + 1e-4).clamp(0, 1)])
    with torch.no_grad():
        expected = metric.distance.double()(samples[:1].double(), samples[1:].double()).item()
    metric.update(samples, 0)
    assert 0 < expected < 1e-3
    assert metric.compute().item() == pytest.approx(expected, rel=1e-3)
    metric.reset()
    metric.update(base.expand(5, -1, -1, -1), 0)
    assert metric.compute().item() == pytest.approx(0, abs=1e-13)


def test_a_group_of_one_is_left_out():
    metric = small()
    metric.update(images(2), 0)
    alone = metric.compute()
    metric.update(images(1, seed=3), 1)
    assert metric.compute() == alone
    empty = small()
    empty.update(images(1), 0)
    with pytest.raises(ValueError, match="no group has two samples"):
        empty.compute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((images(2), torch.zeros(3, dtype=torch.long)), r"group must be one integer or \(2,\) of them"),
        ((images(2), torch.zeros(2)), "of them, got .* torch.float32"),
        ((images(2, size=48), 0), "images of 48×48 have another size than those before"),
        ((2 * images(2), 0), "outside value_range"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    metric = small()
    metric.update(images(2), 0)
    before = metric.compute()
    with pytest.raises(ValueError, match=message):
        metric.update(*arguments)
    metric._computed = None
    assert metric.compute() == before


def test_a_distance_without_vectors_is_refused():
    with pytest.raises(TypeError, match="distance must be an LPIPS, got"):
        PerceptualDiversity(BASELINES["ssim"]())
