import lpips
import numpy as np
import pytest
import torch

from perceptual.ranking import (
    RANKINGS,
    AntisymmetricRanking,
    BoundedRanking,
    PaperRanking,
    RatioRanking,
    ranking_loss,
)


@pytest.fixture
def distances():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(50, generator=generator) for _ in range(2)]


def theirs(ranking):
    """The package's network with the weights of ours."""
    loss = lpips.BCERankingLoss()
    weights = (value for _, value in ranking.layers.state_dict().items())
    for parameter in loss.net.parameters():
        parameter.data = next(weights).view_as(parameter)
    return loss


def column(values):
    return values.view(-1, 1, 1, 1)


def test_the_papers_network_has_1281_parameters():
    assert sum(p.numel() for p in PaperRanking().parameters()) == 1281


def test_the_papers_network_equals_the_lpips_packages(distances):
    ranking = PaperRanking()
    d0, d1 = distances
    expected = theirs(ranking).net(column(d0), column(d1)).flatten()
    torch.testing.assert_close(ranking(d0, d1).sigmoid(), expected)


def test_the_loss_and_its_gradients_equal_the_lpips_packages(distances):
    ranking, (d0, d1) = PaperRanking(), distances
    judgment = torch.rand(50, generator=torch.Generator().manual_seed(1))
    reference = theirs(ranking)
    expected = reference(column(d0), column(d1), column(2 * judgment - 1))
    loss = ranking_loss(ranking(d0, d1), judgment)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for ours, other in zip(ranking.parameters(), reference.net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad.view_as(ours), atol=1e-7, rtol=1e-4)


def test_the_loss_is_weighted_cross_entropy_from_the_definition():
    logit, judgment = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, 0.3, 1.0])
    p, j = 1 / (1 + np.exp(-logit.numpy().astype(float))), judgment.numpy()
    each = -(j * np.log(p) + (1 - j) * np.log(1 - p))
    np.testing.assert_allclose(ranking_loss(logit, judgment), each.mean(), rtol=1e-6)
    weight = torch.tensor([2.0, 0.0, 1.0])
    np.testing.assert_allclose(
        ranking_loss(logit, judgment, weight), np.mean(each * weight.numpy()), rtol=1e-6
    )


def test_the_loss_is_finite_where_a_sigmoid_would_be_0_or_1():
    logit = torch.tensor([1000.0, -1000.0], requires_grad=True)
    loss = ranking_loss(logit, torch.tensor([0.0, 1.0]))
    loss.backward()
    assert loss == 1000
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize("kind", [AntisymmetricRanking, BoundedRanking, RatioRanking])
def test_an_antisymmetric_ranking_changes_sign_with_the_order(kind, distances):
    ranking, (d0, d1) = kind(), distances
    assert sum(p.numel() for p in ranking.parameters()) == 1
    for slope in (-3.0, 0.0, 3.0):
        ranking.log_slope.data.fill_(slope)
        assert torch.equal(ranking(d0, d1), -ranking(d1, d0))
        assert (ranking(d0, d1)[d1 < d0] > 0).all()  # p1 is nearer, p1 is preferred
    assert (ranking(d0, d0) == 0).all()


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        (BoundedRanking, lambda d0, d1: np.tanh(np.log(d0 / d1) / 2)),
        (RatioRanking, lambda d0, d1: np.log(d0 / d1)),
    ],
)
def test_a_ranking_without_scale_is_finite_for_equal_images_and_negative_lin(kind, formula, distances):
    ranking, (d0, d1) = kind(), distances
    expected = torch.from_numpy(formula(d0.numpy(), d1.numpy()))
    torch.testing.assert_close(ranking(d0, d1), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ranking(d0, d1), ranking(100 * d0, 100 * d1), atol=1e-3, rtol=0)
    for value in (0.0, -0.1):
        d = torch.full((3,), value, requires_grad=True)
        assert (ranking(d, d) == 0).all()
        ranking(d, d0[:3]).sum().backward()
        assert d.grad.isfinite().all()


def test_the_papers_network_is_not_antisymmetric(distances):
    ranking, (d0, d1) = PaperRanking(), distances
    assert not torch.allclose(ranking(d0, d1), -ranking(d1, d0), atol=1e-3)


@pytest.mark.parametrize("name", RANKINGS)
def test_rankings_give_a_logit_per_triplet_and_learn(name, distances):
    torch.manual_seed(0)
    ranking, (d0, d1) = RANKINGS[name](), distances
    assert ranking(d0, d1).shape == (50,)
    assert ranking(d0[:1], d1[:1]).shape == (1,)
    optimizer = torch.optim.Adam(ranking.parameters(), 0.01)
    judgment = (d1 < d0).float()
    first = ranking_loss(ranking(d0, d1), judgment).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = ranking_loss(ranking(d0, d1), judgment)
        loss.backward()
        optimizer.step()
    assert loss < 0.8 * first
