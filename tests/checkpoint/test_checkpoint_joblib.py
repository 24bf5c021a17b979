import bz2
import contextlib
import functools
import gzip
import io
import lzma
import pickle
import random
import subprocess
import sys
import time
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans

from audiotok.checkpoint import Record, read_joblib
from audiotok.errors import CheckpointError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@functools.cache
def fitted(kind: type[Any], dtype: str) -> Any:
    features = np.random.default_rng(0).standard_normal((200, 6)).astype(dtype)
    model = kind(n_clusters=5, n_init=1, random_state=np.random.RandomState(3)).fit(features)
    # MiniBatchKMeans then keeps its random state, which is pickled as code of numpy's own
    return model.partial_fit(features) if kind is MiniBatchKMeans else model


def read(tmp_path: Path, data: bytes) -> Any:
    (tmp_path / "file").write_bytes(data)
    return read_joblib(tmp_path / "file")


def assert_equal(left: Any, right: Any) -> None:
    """The same values of the same types, arrays included."""
    if isinstance(right, np.ndarray):
        assert isinstance(left, np.ndarray)
        assert (left.dtype, left.shape) == (right.dtype.newbyteorder("="), right.shape)
        np.testing.assert_array_equal(left, right)
    elif isinstance(right, dict):
        assert list(left) == list(right)
        for key in right:
            assert_equal(left[key], right[key])
    elif isinstance(right, list | tuple):
        assert (type(left), len(left)) == (type(right), len(right))
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


# What is read


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [MiniBatchKMeans, KMeans])
def test_scikit_learn_s_k_means_are_read_from_every_protocol(
    tmp_path: Path, kind: type[Any], dtype: str, protocol: int
) -> None:
    model = fitted(kind, dtype)
    joblib.dump(model, tmp_path / "joblib", protocol=protocol)
    (tmp_path / "pickle").write_bytes(pickle.dumps(model, protocol=protocol))
    for name in ("joblib", "pickle"):
        record = read_joblib(tmp_path / name)
        assert isinstance(record, Record)
        assert record.class_name == f"sklearn.cluster._kmeans.{kind.__name__}"
        assert record.attributes["n_clusters"] == 5
        assert record.attributes["_sklearn_version"]
        assert_equal(record.attributes["cluster_centers_"], model.cluster_centers_)
        assert_equal(record.attributes["labels_"], model.labels_)
        assert record.attributes["inertia_"] == float(model.inertia_)


@pytest.mark.parametrize("compress", [3, *[(name, 3) for name in ("zlib", "gzip", "bz2", "lzma", "xz")]])
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_compression_of_joblib_is_read(tmp_path: Path, compress: Any, protocol: int) -> None:
    model = fitted(MiniBatchKMeans, "float32")
    joblib.dump(model, tmp_path / "km.bin", compress=compress, protocol=protocol)
    record = read_joblib(tmp_path / "km.bin")
    assert_equal(record.attributes["cluster_centers_"], model.cluster_centers_)


VALUES = {
    "plain": [
        1,
        -2,
        2**70,
        -(2**2100),
        0.5,
        float("inf"),
        True,
        None,
        "text",
        "ü\n\\u",
        b"bytes\xff",
        bytearray(b"abc"),
        2j,
    ],
    "containers": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 5: {"b": {}}, None: [[[]]], 1.5: {}},
    "sets": [set(), {1, "a"}, frozenset([b"x", 2])],
    "ordered": OrderedDict([("b", 1), ("a", [2])]),
    "large": list(range(3000)),
    "long text": "x" * 70_000,
    "empty text": "",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back_the_same(tmp_path: Path, name: str, protocol: int) -> None:
    assert_equal(read(tmp_path, pickle.dumps(VALUES[name], protocol=protocol)), VALUES[name])
    joblib.dump(VALUES[name], tmp_path / "dump", protocol=protocol)
    assert_equal(read_joblib(tmp_path / "dump"), VALUES[name])


ARRAYS: dict[str, Any] = {
    "zeros": np.zeros((40, 3), np.float32),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(12)[::3],
    "big-endian": np.arange(4, dtype=">f4"),
    "half": np.array([1.5], np.float16),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "scalar array": np.array(3, np.int8),
    "empty": np.zeros((0, 7)),
    "texts": np.array(["ab", "ü"]),
    "byte texts": np.array([b"ab", b"c"]),
    "objects": np.array(["a", 2, None, [3]], dtype=object),
    "object table": np.array([["a", 2], [None, 3.5]], dtype=object),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_the_same_and_writable(tmp_path: Path, name: str, protocol: int) -> None:
    value = {"first": ARRAYS[name], "again": [ARRAYS[name]], "after": 1}
    joblib.dump(value, tmp_path / "joblib", protocol=protocol)
    (tmp_path / "pickle").write_bytes(pickle.dumps(value, protocol=protocol))
    for file in ("joblib", "pickle"):
        loaded = read_joblib(tmp_path / file)
        assert_equal(loaded, value)
        assert loaded["first"].flags.writeable
        assert loaded["first"].flags.aligned


def test_numpy_numbers_come_back_as_numbers(tmp_path: Path) -> None:
    value = [np.float32(1.5), np.int64(-3), np.bool_(True), np.float64(0.1)]
    for protocol in PROTOCOLS:
        loaded = read(tmp_path, pickle.dumps(value, protocol=protocol))
        assert loaded == [1.5, -3, True, 0.1]
        assert [type(item) for item in loaded] == [float, int, bool, float]


def test_both_spellings_of_numpy_s_own_modules_are_read(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(3.0), protocol=2)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in data or old in data
    for spelling in (new, old):
        assert read(tmp_path, data.replace(new, spelling).replace(old, spelling)).tolist() == [0.0, 1.0, 2.0]


def test_files_of_the_joblib_inside_old_scikit_learn_are_read(tmp_path: Path) -> None:
    # scikit-learn 0.20 and before: its own copy of joblib, no alignment, k-means in a module of another name
    buffer = io.BytesIO()
    buffer.write(b"\x80\x02csklearn.cluster.k_means_\nMiniBatchKMeans\n)\x81}X\x10\0\0\0cluster_centers_")
    buffer.write(b"csklearn.externals.joblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(")
    buffer.write(b"X\x08\0\0\0subclasscnumpy\nndarray\nX\x05\0\0\0shapeK\x02K\x03\x86X\x05\0\0\0orderX\x01\0\0\0C")
    buffer.write(
        b"X\x05\0\0\0dtypecnumpy\ndtype\nX\x02\0\0\0f4K\0K\x01\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    buffer.write(b"X\x0a\0\0\0allow_mmap\x88ub")
    buffer.write(np.arange(6, dtype="<f4").tobytes())
    buffer.write(b"sb.")
    record = read(tmp_path, buffer.getvalue())
    assert record.class_name == "sklearn.cluster.k_means_.MiniBatchKMeans"
    assert record.attributes["cluster_centers_"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_reading_needs_neither_scikit_learn_nor_joblib(tmp_path: Path) -> None:
    joblib.dump(fitted(MiniBatchKMeans, "float32"), tmp_path / "km.bin")
    code = (
        "import sys; sys.modules['joblib'] = sys.modules['sklearn'] = None\n"
        "from audiotok.checkpoint import read_centroids\n"
        "print(tuple(read_centroids(sys.argv[1]).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "km.bin"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5, 6)"


# What is refused, before anything is called


def test_the_trap_works_where_nobody_takes_care(trap: Any, mark: Path) -> None:
    pickle.loads(pickle.dumps(trap)).close()
    assert mark.exists()
    mark.unlink()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_payload_anywhere_is_refused_and_does_not_run(tmp_path: Path, trap: Any, protocol: int) -> None:
    model = KMeans(n_clusters=2)
    model.cluster_centers_ = np.array([[trap]], dtype=object)
    spiked = KMeans(n_clusters=2)
    spiked.__dict__[""] = trap
    for value in (trap, [1, trap], {"a": trap}, (np.zeros(3), trap), np.array([trap, 1], dtype=object), model, spiked):
        (tmp_path / "pickle").write_bytes(pickle.dumps(value, protocol=protocol))
        joblib.dump(value, tmp_path / "joblib", protocol=protocol)
        joblib.dump(value, tmp_path / "zlib", protocol=protocol, compress=3)
        for name in ("pickle", "joblib", "zlib"):
            with pytest.raises(CheckpointError, match=r"a request for \S+\.open, which was not followed"):
                read_joblib(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch MARK'\ntR.",
        b"cposix\nsystem\n(S'touch MARK'\ntR.",
        b"(S'touch MARK'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch MARK'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
        b'cbuiltins\neval\n(S\'open("MARK", "w")\'\ntR.',
        b'c__builtin__\neval\n(S\'open("MARK", "w")\'\ntR.',
        b'cbuiltins\nexec\n(S\'open("MARK", "w")\'\ntR.',
        b"cbuiltins\ngetattr\n(cbuiltins\nobject\nS'__subclasses__'\ntR.",
        b"cbuiltins\n__import__\n(S'os'\ntR.",
        b"cimportlib\nimport_module\n(S'os'\ntR.",
        b"csubprocess\nPopen\n(S'touch MARK'\ntR.",
        b"cfunctools\npartial\n(cbuiltins\nopen\nS'MARK'\ntR.",
        b"coperator\nattrgetter\n(S'system'\ntR.",
        b"coperator\nmethodcaller\n(S'system'\ntR.",
        b"ccopyreg\nadd_extension\n(S'os'\nS'system'\nI1\ntR.",
        b"ccopyreg\n_reconstructor\n(cpathlib\nPath\ncbuiltins\nobject\nNtR.",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
        b"ctorch\nload\n(S'MARK'\ntR.",
        b"cnumpy\nload\n(S'MARK'\ntR.",
        b"cnumpy\nndarray\n(I3\ntR.",
        b"cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.",
        b"cnumpy.core.multiarray\nos\n.",
        b"cjoblib.numpy_pickle\nload\n(S'MARK'\ntR.",
        b"csklearn.externals.joblib.numpy_pickle\nload\n(S'MARK'\ntR.",
        b"csklearnx\nThing\n(tR.",
        b"cbuiltins\nobject\n.",
        b"c_codecs\nencode\n(V1+1\nVunicode_escape\ntR.",
        b"c_codecs\nencode\n(V1+1\nVidna\ntR.",
        b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.",
        b"cbuiltins\nset\n(VMARK\ntR.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x01.",
        b"\x80\x02\x84\x01\x01\x01\x01.",
        b"Pabc\n.",
        b"\x80\x02NQ.",
        b"\x80\x05\x97.",
        b"\x80\x05C\x01a\x98.",
        b"\x80\x04\x8c\x02osK\x01\x93.",
        b"\x80\x04]]\x93.",
        b"(I1\nR.",
        b"I1\nI2\nR.",
        b"}}b.",
        b"]I1\nb.",
        b"I1\n)\x81.",
        b"cnumpy\nfloat32\n(I1\ntR.",
        b"\x80\x04csklearn.a\nB\n)}X\x01\0\0\0aK\x01s\x92.",
    ],
)
def test_hand_written_pickles_are_refused(tmp_path: Path, mark: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"file: wanted a pickle of numbers.* was not run"):
        read(tmp_path, data.replace(b"MARK", str(mark).encode()))


def test_a_name_inside_scikit_learn_is_never_followed(tmp_path: Path, mark: Path) -> None:
    # sklearn.utils.os.system exists for an unpickler that follows dots; here it is a name like any other
    data = b"\x80\x04\x8c\x0dsklearn.utils\x8c\x09os.system\x93\x8c" + bytes([6 + len(str(mark))])
    record = read(tmp_path, data + b"touch " + str(mark).encode() + b"\x85R.")
    assert record == Record("sklearn.utils.os.system")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "a broken stream"),
        (b".", "an empty stack"),
        (b"(.", "an empty stack"),
        (b"I1\nI2\n.", "never completed"),
        (b"(I1\n.", "never completed"),
        (b"t.", "an end without a start"),
        (b"g1\n.", "a reference to nothing"),
        (b"\x80\x02h\x01.", "a reference to nothing"),
        (b"I1\n.garbage", "more data behind its end"),
        (b"N\xff.", "a broken stream"),
        (b"(I1\nd.", "a key without a value"),
        (b"(]I1\nd.", "a list as a key"),
        (b"}]I1\ns.", "a list as a key"),
        (b")I1\nI2\ns.", "a tuple used as a dict"),
        (b")I1\na.", "a tuple used as a list"),
        (b"I" + b"1" * 5000 + b"\n.", "a broken stream"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0fabc.", "a broken stream"),
        (b"\x80\x04\x8d\0\0\0\0\0\0\0\x01abc.", "a broken stream"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN", "a broken stream"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.", "never completed"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "an unknown kind of number"),
        (b"cnumpy\ndtype\n(S'U999999999999'\ntR.", "an unknown kind of number"),
        (b"cjoblib.numpy_pickle\nNDArrayWrapper\n(tR.", "before 0.10"),
        (b"ZF0x123", "before 0.10"),
        (b"\x04\x22\x4d\x18abc", "lz4"),
        (b"PK\x03\x04", "read_torch"),
        (b"\x93NUMPY", "read_centroids"),
        (b"hello", "a broken stream|an empty stack|a reference"),
    ],
)
def test_broken_streams_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read(tmp_path, data)


# Bounded memory and time


def array_claiming(shape: bytes, raw: bytes, dtype: bytes = b"f4") -> bytes:
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    kind = b"cnumpy\ndtype\n(S'" + dtype + b"'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    return start + shape + kind + b"I00\n" + raw + b"tb."


@pytest.mark.parametrize(
    "shape",
    [
        *(b"(I1000000000000\nt", b"(I10\nI10\nI10\nt", b"(I0\nL99999999999999999999L\nt", b"(I-2\nt"),
        *(b"(Nt", b"]", b"(" + b"I2\n" * 40 + b"t", b"(F2.0\nt"),
    ],
)
def test_an_array_may_not_claim_more_than_the_file_holds(tmp_path: Path, shape: bytes) -> None:
    with pytest.raises(CheckpointError, match="wanted a pickle"):
        read(tmp_path, array_claiming(shape, b"S'abcdabcd'\n"))
    assert read(tmp_path, array_claiming(b"(I2\nt", b"S'abcdabcd'\n")).shape == (2,)


def test_a_joblib_array_may_not_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    joblib.dump(np.zeros(200, np.float32), tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    for claim in (201, 60_000):
        with pytest.raises(CheckpointError, match=r"announced|impossible shape|broken stream"):
            read(tmp_path, data.replace(b"\x4b\xc8", b"M" + claim.to_bytes(2, "little")))


def test_an_array_stored_once_cannot_be_asked_for_a_million_times(tmp_path: Path) -> None:
    data = b"(V" + b"x" * 100_000 + b"\np1\n0" + b"c_codecs\nencode\n(g1\nVlatin1\ntR" * 20_000 + b"l."
    with pytest.raises(CheckpointError, match="larger than the file"):
        read(tmp_path, data)
    shared = pickle.dumps([np.zeros(10_000)] * 1000)  # one array in a thousand places is one array
    loaded = read(tmp_path, shared)
    assert all(item is loaded[0] for item in loaded)


def test_attributes_stored_once_cannot_be_copied_a_million_times(tmp_path: Path) -> None:
    state = b"(" + b"".join(b"Va%d\nN" % index for index in range(1000)) + b"dp1\n0"
    data = b"(" + state + b"(tp2\n0csklearn.a\nB\np3\n0" + b"g3\ng2\nRg1\nb" * 5000 + b"l."
    with pytest.raises(CheckpointError, match="larger than the file"):
        read(tmp_path, data)


def test_keys_whose_hash_would_take_for_ever_are_refused_at_once(tmp_path: Path) -> None:
    bomb = b"(t" + b"p1\ng1\n\x86" * 60
    start = time.perf_counter()
    for data in (b"}" + bomb + b"Ns.", b"\x80\x04\x8f(" + bomb + b"\x90.", b"\x80\x04(" + bomb + b"\x91."):
        with pytest.raises(CheckpointError, match="a tuple as a key"):
            read(tmp_path, data)
    assert time.perf_counter() - start < 1


def test_a_huge_memo_index_costs_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, b"Nr\xff\xff\xff\xff.") is None


def test_deep_nesting_is_no_problem(tmp_path: Path) -> None:
    value = read(tmp_path, b"]" * 100_000 + b"a" * 99_999 + b".")
    for _ in range(99_999):
        (value,) = value
    assert value == []


def test_pickles_in_pickles_end(tmp_path: Path) -> None:
    joblib.dump(np.array([1, None], dtype=object), tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    end = data.index(b"\x80\x05")  # the wrapper is complete; a pickle of the array follows
    with pytest.raises(CheckpointError, match="pickles in pickles"):
        read(tmp_path, data[:end] * 20)
    with pytest.raises(CheckpointError, match="a joblib array that is no array"):
        read(tmp_path, data[:end] + b"N..")


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_bombs_are_refused(tmp_path: Path, pack: Any) -> None:
    data = pickle.dumps(b"\0" * 20_000_000)
    (tmp_path / "bomb").write_bytes(pack(data))
    assert (tmp_path / "bomb").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="decompresses to more than 1000000 bytes"):
        read_joblib(tmp_path / "bomb", max_bytes=1_000_000)
    assert len(read_joblib(tmp_path / "bomb", max_bytes=len(data))) == 20_000_000
    with pytest.raises(CheckpointError, match="more than 10 bytes"):
        read_joblib(tmp_path / "bomb", max_bytes=10)


@pytest.mark.parametrize("how", ["joblib", "pickle 0", "pickle 2", "pickle 5", "zlib", "gzip", "bz2", "lzma", "xz"])
def test_damaged_files_give_data_or_checkpoint_error(tmp_path: Path, fuzz: Any, how: str) -> None:
    value = [fitted(MiniBatchKMeans, "float32"), ARRAYS["objects"], ARRAYS["texts"], VALUES["plain"]]
    if how.startswith("pickle"):
        data = pickle.dumps(value, protocol=int(how[-1]))
    else:
        joblib.dump(value, tmp_path / "good", compress=0 if how == "joblib" else (how, 3))
        data = (tmp_path / "good").read_bytes()
    # lzma's old format has neither checksum nor end: cut within its last bytes it may still be whole
    fuzz(read_joblib, data, strict=how != "lzma", count=60)


SNIPPETS = [
    *(
        b"N",
        b"\x88",
        b"I1\n",
        b"K\x02",
        b"J\xff\xff\xff\xff",
        b"F0.5\n",
        b"L2L\n",
        b"S'b'\n",
        b"Vlatin1\n",
        b"C\x04abcd",
    ),
    *(b"]", b")", b"}", b"\x8f", b"(", b"0", b"1", b"2", b"l", b"t", b"d", b"\x85", b"\x86", b"\x87", b"\x90", b"\x91"),
    *(
        b"a",
        b"e",
        b"s",
        b"u",
        b"b",
        b"R",
        b"o",
        b"\x81",
        b"\x92",
        b"\x93",
        b"\x94",
        b"h\x00",
        b"h\x01",
        b"q\x00",
        b"q\x01",
    ),
    *(b"V<\n", b"Vf4\n", b"VO\n", b"(K\x03V<\nNNNI-1\nI-1\nI0\nt", b"K\x02\x85", b"(I1\nK\x02\x85h\x00I00\nC\x04abcdt"),
    *(
        b"cnumpy\ndtype\n(Vf4\nI0\nI1\ntR",
        b"cnumpy\ndtype\n",
        b"cnumpy\nndarray\n",
        b"cbuiltins\nset\n",
        b"csklearn.a\nB\n",
    ),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n", b"cbuiltins\nobject\n"),
    *(
        b"cnumpy.core.numeric\n_frombuffer\n",
        b"c_codecs\nencode\n",
        b"ccopyreg\n_reconstructor\n",
        b"cbuiltins\nbytes\n",
    ),
    *(b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n", b"ccollections\nOrderedDict\n", b"cbuiltins\ncomplex\n"),
    *(
        b"cbuiltins\nbytearray\n",
        b"isklearn.a\nC\n",
        b"Vdtype\n",
        b"Vshape\n",
        b"Vorder\n",
        b"Vsubclass\n",
        b"VC\n",
        b".\x80\x02",
    ),
]


def test_random_programs_give_data_or_checkpoint_error(tmp_path: Path) -> None:
    source = random.Random(0)
    read_some = 0
    for _ in range(3000):
        # a value under the whole program, so that most programs get further than an empty stack
        data = b"]N)}" + b"".join(source.choices(SNIPPETS, k=source.randrange(1, 12))) + b"."
        with contextlib.suppress(CheckpointError):
            read(tmp_path, data[source.randrange(5) :])
            read_some += 1
    assert read_some > 10
