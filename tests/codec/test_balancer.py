"""Balanced gradients have the norms that the weights ask for, whatever the losses' own scales."""

import math

import pytest
import torch
import torch.multiprocessing as mp

from audiotok.codec.balancer import Balancer
from audiotok.errors import InputError


def losses_of(output, scale=1000.0):
    """Two losses with gradients at right angles: ones over the first half of a row, and over the second."""
    half = output.shape[-1] // 2
    return {"one": scale * output[..., :half].sum(), "two": 0.001 * output[..., half:].sum()}


def gradient(balancer, losses_from, shape=(3, 1, 8)):
    output = torch.zeros(shape, requires_grad=True)
    balancer(losses_from(output), output).backward()
    return output.grad


def test_shares_of_the_norm_are_those_of_the_weights():
    found = gradient(Balancer({"one": 3.0, "two": 1.0}, total_norm=2.0), losses_of)
    for row in found:
        assert row[..., :4].norm().item() == pytest.approx(2 * 0.75)
        assert row[..., 4:].norm().item() == pytest.approx(2 * 0.25)


def test_a_loss_alone_has_the_whole_norm_and_its_own_direction():
    torch.manual_seed(0)
    target = torch.randn(2, 1, 50)
    output = torch.randn(2, 1, 50).requires_grad_()
    loss = (output - target).square().sum()
    (plain,) = torch.autograd.grad(loss, output, retain_graph=True)
    Balancer({"l2": 5.0, "absent": 1.0})({"l2": loss}, output).backward()
    assert output.grad.flatten(1).norm(dim=1).mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(output.grad, plain * (output.grad.norm() / plain.norm()))


def test_norms_are_averaged_over_steps_without_a_bias_to_the_start():
    balancer = Balancer({"one": 1.0}, decay=0.9)
    norms = []
    for step, scale in enumerate([1.0, 10.0, 0.1]):
        found = gradient(balancer, lambda output, scale=scale: {"one": scale * output.sum()}, (2, 4))
        norms.append(scale * 2)  # of four ones
        weights = [0.9 ** (step - i) for i in range(step + 1)]
        average = sum(w * n for w, n in zip(weights, norms, strict=True)) / sum(weights)
        assert balancer.norms == {"one": pytest.approx(average)}
        assert found.norm(dim=1).tolist() == pytest.approx([norms[-1] / average] * 2)


def test_a_loss_that_begins_later_has_an_average_of_its_own():
    balancer = Balancer({"mel": 1.0, "adversarial": 1.0}, decay=0.5)
    for _ in range(3):
        assert gradient(balancer, lambda x: {"mel": 2 * x.sum()}, (1, 1)).item() == pytest.approx(1.0)
    both = gradient(balancer, lambda x: {"mel": 2 * x.sum(), "adversarial": 7 * x.sum()}, (1, 1))
    assert both.item() == pytest.approx(1.0)
    assert balancer.norms == {"adversarial": pytest.approx(7.0), "mel": pytest.approx(2.0)}


def test_other_losses_join_the_same_backward():
    weight = torch.tensor([2.0], requires_grad=True)
    latents = weight * torch.ones(1, 4)
    output = 3 * latents
    balanced = Balancer({"l1": 1.0})({"l1": 50 * output.sum()}, output)
    (balanced + 10 * latents.sum()).backward()
    # The output gets a gradient of norm 1, half for each of its four samples; the latents another 10 each.
    assert weight.grad.item() == pytest.approx(4 * (3 * 0.5 + 10))


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    def step(balancer, number):
        torch.manual_seed(number)
        noise = torch.randn(3, 1, 8)
        return gradient(balancer, lambda x: losses_of(x * noise, scale=number + 1.0))

    whole = Balancer({"two": 2.0, "one": 1.0})
    expected = [step(whole, number) for number in range(6)]
    first = Balancer({"one": 1.0, "two": 2.0})
    for number in range(3):
        assert torch.equal(step(first, number), expected[number])
    torch.save(first.state_dict(), tmp_path / "balancer.pt")
    second = Balancer({"one": 1.0, "two": 2.0})
    second.load_state_dict(torch.load(tmp_path / "balancer.pt", weights_only=True))
    for number in range(3, 6):
        assert torch.equal(step(second, number), expected[number])


def test_a_step_that_overflows_spoils_no_later_one():
    balancer = Balancer({"one": 1.0, "two": 1.0})
    gradient(balancer, losses_of)
    before = balancer.norms
    bad = gradient(balancer, lambda x: losses_of(x, scale=math.inf))
    assert not bad.isfinite().all()  # a gradient scaler must see it
    assert balancer.norms["one"] == before["one"]
    assert gradient(balancer, losses_of).isfinite().all()


def test_a_loss_without_a_gradient_takes_no_share():
    found = gradient(Balancer({"one": 1.0, "two": 1.0}), lambda x: losses_of(x, scale=0.0), (1, 8))
    assert found[:, :4].norm().item() == 0
    assert found[:, 4:].norm().item() == pytest.approx(0.5)


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    balancer = Balancer({"one": 1.0})
    # Rank 0 has one row of norm 1, rank 1 three rows of norm 5: 4 on average.
    output = torch.zeros(1 + 2 * rank, 4, requires_grad=True)
    balancer({"one": (0.5 + 2 * rank) * output.sum()}, output).backward()
    torch.save((balancer.state_dict(), output.grad), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_their_norms(tmp_path):
    mp.spawn(worker, (tmp_path,), nprocs=2)
    (one, low), (other, high) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (one["sums"] / one["counts"]).item() == pytest.approx(4.0)
    assert low.norm(dim=1).tolist() == pytest.approx([1 / 4])
    assert high.norm(dim=1).tolist() == pytest.approx([5 / 4] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Balancer({}), "every loss needs a weight above zero"),
        (lambda: Balancer({"one": 0.0}), r"every loss needs a weight above zero \(leave out the others\), not"),
        (lambda: Balancer({"one": 1.0}, decay=1.0), "decay must lie in 0..1, total_norm be above 0, not 1.0 and 1.0"),
        (lambda: gradient(Balancer({"one": 1.0}), losses_of), r"wanted losses among \['one'\], not \['two'\]"),
        (lambda: gradient(Balancer({"one": 1.0}), lambda _: {}), "not none at all"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
