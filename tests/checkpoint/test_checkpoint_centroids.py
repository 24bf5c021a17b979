import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from audiotok.checkpoint import read_centroids, write_safetensors
from audiotok.errors import CheckpointError

CENTRES = np.arange(12, dtype=np.float64).reshape(4, 3) / 8


def write(kind: str, path: Path) -> None:
    tensor = torch.from_numpy(CENTRES)
    model = MiniBatchKMeans(n_clusters=4)
    model.cluster_centers_ = CENTRES.astype(np.float32)
    writers: dict[str, Any] = {
        "npy": lambda: path.write_bytes(npy(CENTRES)),
        "npy big-endian": lambda: path.write_bytes(npy(CENTRES.astype(">f8"))),
        "npy fortran": lambda: path.write_bytes(npy(np.asfortranarray(CENTRES))),
        "npy integers": lambda: path.write_bytes(npy((CENTRES * 8).astype(np.int16))),
        "npz": lambda: path.write_bytes(npz(codes=np.zeros(3), anything=CENTRES)),
        "npz named": lambda: path.write_bytes(npz(other=np.zeros((2, 2)), centroids=CENTRES)),
        "safetensors": lambda: write_safetensors(path, {"a": tensor, "b": torch.zeros(3)}),
        "safetensors named": lambda: write_safetensors(path, {"a": tensor * 2, "cluster_centers": tensor}),
        "torch": lambda: torch.save(tensor, path),
        "torch legacy": lambda: torch.save(tensor, path, _use_new_zipfile_serialization=False),
        "torch dict": lambda: torch.save({"centroids": tensor.half(), "n": 3}, path),
        "joblib": lambda: joblib.dump(model, path),
        "joblib compressed": lambda: joblib.dump(model, path, compress=3),
        "joblib array": lambda: joblib.dump(CENTRES, path),
        "pickle": lambda: path.write_bytes(pickle.dumps(model)),
        "pickle dict": lambda: path.write_bytes(pickle.dumps({"cluster_centers_": CENTRES})),
    }
    writers[kind]()


def npy(array: np.ndarray[Any, Any], allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


KINDS = ["npy", "npy big-endian", "npy fortran", "npz", "npz named", "safetensors", "safetensors named", "torch"]
KINDS += ["torch legacy", "torch dict", "joblib", "joblib compressed", "joblib array", "pickle", "pickle dict"]


@pytest.mark.parametrize("kind", KINDS)
def test_centres_are_the_same_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "any.name")
    centres = read_centroids(tmp_path / "any.name")
    assert centres.dtype == torch.float32
    assert centres.is_contiguous()
    assert torch.equal(centres, torch.from_numpy(CENTRES).float())


def test_integer_centres_are_turned_to_float32(tmp_path: Path) -> None:
    write("npy integers", tmp_path / "file")
    assert torch.equal(read_centroids(tmp_path / "file"), torch.arange(12.0).reshape(4, 3))


def test_centres_of_a_fitted_k_means_give_its_own_labels(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((300, 8))
    model = KMeans(n_clusters=7, n_init=1, random_state=0).fit(features)
    joblib.dump(model, tmp_path / "km.bin")
    centres = read_centroids(tmp_path / "km.bin")
    nearest = torch.cdist(torch.from_numpy(features).float(), centres).argmin(dim=1)
    np.testing.assert_array_equal(nearest.numpy(), model.predict(features))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3), r"a tensor of shape \[3\]"),
        (np.zeros((2, 2, 2)), r"a tensor of shape \[2, 2, 2\]"),
        (np.zeros((0, 3)), r"a tensor of shape \[0, 3\]"),
        (np.array([[1.0, np.nan]]), "NaN or infinite"),
        (np.array([[np.inf, 1.0]]), "NaN or infinite"),
        (np.array([[1e300, 1.0]]), "NaN or infinite"),
        (np.array([[1j]]), "a complex128 object"),
        (np.array([["a"]]), "a <U1 object"),
    ],
)
def test_what_is_not_a_table_of_finite_numbers_is_refused(tmp_path: Path, array: Any, words: str) -> None:
    (tmp_path / "file").write_bytes(npy(array))
    with pytest.raises(CheckpointError, match=words):
        read_centroids(tmp_path / "file")
    joblib.dump(array, tmp_path / "file")
    with pytest.raises(CheckpointError, match=words):
        read_centroids(tmp_path / "file")


def test_a_k_means_that_was_not_fitted_is_refused(tmp_path: Path) -> None:
    joblib.dump(KMeans(n_clusters=3), tmp_path / "km.bin")
    with pytest.raises(
        CheckpointError, match=r"wanted a k-means with cluster_centers_, found an object with .*n_clusters"
    ):
        read_centroids(tmp_path / "km.bin")


def test_two_tables_without_a_known_name_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "file", {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"2 tensors of two dimensions among a, b\. Keep one, or name it"):
        read_centroids(tmp_path / "file")


def test_pickles_inside_numpy_files_are_refused_and_do_not_run(tmp_path: Path, trap: Any, mark: Path) -> None:
    data = npy(np.array([[trap]], dtype=object), allow_pickle=True)
    np.load(io.BytesIO(data), allow_pickle=True)[0, 0].close()
    assert mark.exists()  # the trap works where nobody takes care
    mark.unlink()
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CheckpointError, match="without pickled objects"):
        read_centroids(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("centroids.npy", data)
    with pytest.raises(CheckpointError, match="without pickled objects"):
        read_centroids(tmp_path / "file")
    for writer in (lambda: torch.save(trap, tmp_path / "file"), lambda: joblib.dump(trap, tmp_path / "file")):
        writer()
        with pytest.raises(CheckpointError, match="not followed"):
            read_centroids(tmp_path / "file")


def test_a_numpy_file_may_not_claim_more_than_it_holds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(npy(CENTRES).replace(b"(4, 3)", b"(4000000000000, 3)"))
    with pytest.raises(CheckpointError, match="a broken numpy file"):
        read_centroids(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("a.npy", npy(CENTRES))
    data = (tmp_path / "file").read_bytes()
    size = len(npy(CENTRES)).to_bytes(4, "little")
    (tmp_path / "file").write_bytes(data.replace(size, b"\xf0\xff\xff\xff"))
    with pytest.raises(CheckpointError, match=r"an archive of more than|a broken"):
        read_centroids(tmp_path / "file")


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "torch", "joblib"])
def test_damaged_files_give_centres_or_checkpoint_error(tmp_path: Path, fuzz: Any, kind: str) -> None:
    write(kind, tmp_path / "good")
    fuzz(read_centroids, (tmp_path / "good").read_bytes(), count=100)
