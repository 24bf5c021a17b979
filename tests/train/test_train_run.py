"""What trainings share: checkpoints that are whole or not there, whatever stopped the one who wrote them."""

import resource

import pytest
import torch
from torch import nn

from audiotok.checkpoint import CheckpointWriteError
from audiotok.train.run import Run, checkpoints

FACTS = {"training": {"rate": 1}}


def run_of(out):
    """A run of a network of 200 kB, whose optimizer's state has 400 kB."""
    run = Run(out, FACTS, device="cpu", precision="no", resume=True)
    network = run.prepare(nn.Linear(250, 200, bias=False))
    optimizer = run.prepare(torch.optim.AdamW(network.parameters(), 0.1))
    return run, network, optimizer, run.restore()


def one_step(run, network, optimizer):
    network(torch.ones(1, 250)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    run.step += 1
    run.add_line({"step": run.step})


def test_a_run_goes_on_with_networks_optimizers_random_states_log_and_its_own_tensors(tmp_path):
    run, network, optimizer, state = run_of(tmp_path)
    assert (run.step, run.lines, state) == (0, [], {})
    one_step(run, network, optimizer)
    run.save({"own": torch.arange(3)})
    drawn = torch.rand(3)
    one_step(run, network, optimizer)  # after the checkpoint, and lost
    again, other, other_optimizer, state = run_of(tmp_path)
    assert (again.step, again.resumed_from, again.lines) == (1, 1, [{"step": 1}])
    assert state["own"].tolist() == [0, 1, 2]
    assert torch.equal(torch.rand(3), drawn)
    assert not torch.equal(other.weight, network.weight)
    one_step(again, other, other_optimizer)
    assert torch.equal(other.weight, network.weight)


@pytest.mark.parametrize(("limit", "wanted"), [(100_000, "safetensors"), (300_000, "optimizer"), (500_000, "own")])
def test_a_disk_that_is_full_at_any_file_leaves_the_checkpoint_before_and_nothing_of_the_new_one(
    tmp_path, limit, wanted
):
    run, network, optimizer, _ = run_of(tmp_path)
    one_step(run, network, optimizer)
    own = {"own": torch.zeros(150_000)}
    run.save(own)
    one_step(run, network, optimizer)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        with pytest.raises(CheckpointWriteError, match="cannot be written|not written") as caught:
            run.save(own)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "step-000000002.tmp" in f"{caught.value}{caught.value.filename}", wanted
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
    assert run_of(tmp_path)[0].step == 1


def test_what_a_killed_run_has_left_is_removed_and_a_copy_of_the_users_is_not(tmp_path):
    run, network, optimizer, _ = run_of(tmp_path)
    one_step(run, network, optimizer)
    run.save()
    kept = ["step-000000001", "step-000000001-good", "step-best.tmp"]
    for name in (*kept[1:], "step-000000000", "step-000000002.tmp"):  # killed as it deleted one, and wrote another
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "model.safetensors").touch()
    (tmp_path / "samples").mkdir()
    halves = [tmp_path / f".{name}.0123456789abcdef.tmp" for name in ("config.json", "x")]
    halves.append(tmp_path / "samples" / ".x.flac.0123456789abcdef.tmp")
    for half in halves:
        half.touch()
    assert run_of(tmp_path)[0].step == 1
    assert not any(half.exists() for half in halves)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert [path.name for path in checkpoints(tmp_path)] == kept[:1]
