"""Features computed on a Ray cluster: the tokenizer of a fit in this process, and only the frames kept travel."""

import warnings

import pytest
import torch

import audiotok
from audiotok.errors import InputError
from audiotok.fit.sample import FrameSample, rows_to_offer


def test_the_tokenizer_of_a_fit_in_this_process(cluster, clips):
    options = {"k": 16, "num_codebooks": 2, "max_frames": 400, "engine": "torch", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = audiotok.fit_kmeans(clips, executor="ray", **options)
        here = audiotok.fit_kmeans(clips, **options)
    assert there.fingerprint == here.fingerprint
    assert there.provenance["fit"]["frames_seen"] == here.provenance["fit"]["frames_seen"]
    assert there.provenance["fit"]["distortion"] == here.provenance["fit"]["distortion"]


def test_a_sample_of_offered_rows_is_that_of_all_rows():
    torch.manual_seed(0)
    files = [torch.randn(300, 3) for _ in range(40)]
    whole, offered = FrameSample(500, 3, seed=7), FrameSample(500, 3, seed=7)
    sent = 0
    for number, frames in enumerate(files):
        whole.add(frames, file=number)
        rows = rows_to_offer(7, number, 0, 300, offered.limit)
        sent += len(rows)
        offered.add(frames[rows], file=number, rows=rows, count=300)
    assert torch.equal(whole.frames(), offered.frames())
    assert whole.seen == offered.seen == 12000
    assert sent < 9000


def test_mini_batches_need_every_frame_here(clips):
    with pytest.raises(InputError, match="without minibatch"):
        audiotok.fit_kmeans(clips, k=8, minibatch=True, executor="ray", progress=False)
    with pytest.raises(InputError, match='executor must be "local"'):
        audiotok.fit_kmeans(clips, k=8, executor="spark", progress=False)
