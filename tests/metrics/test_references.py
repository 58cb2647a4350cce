"""References: every published format is read, nothing in them runs, and what is wrong is said."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from dimo_cli import __version__
from dimo_cli.data.arrays import Batch
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.files.writing import file_sha256
from dimo_cli.metrics.frechet import RunningGaussian, frechet_distance
from dimo_cli.metrics.networks import load_network
from dimo_cli.metrics.protocol import FeatureNetwork, Features
from dimo_cli.metrics.references import (
    build_reference,
    builtin_features,
    builtin_reference,
    read_reference,
    spread,
    write_reference,
)
from dimo_cli.metrics.statistics_pickle import read_statistics_pickle

D = 6


class Projection(FeatureNetwork):
    """A seeded random projection: no metric, only something to build references with."""

    resize, dimensions = "none", D

    def __init__(self, name="inception-2015-12-05", resize="none", sha256="a" * 64):
        super().__init__()
        self.name, self.resize, self.sha256 = name, resize, sha256
        matrix = torch.randn(48, D, generator=torch.Generator().manual_seed(len(name)))
        self.register_buffer("matrix", matrix)

    def forward(self, images):
        return Features(images.float().flatten(1) / 255 @ self.matrix)


@pytest.fixture
def network():
    return Projection()


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def batches(images, size=7):
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return [Batch(part, size * i) for i, part in enumerate(tensor.split(size))]


def statistics(seed=0, dimensions=D):
    features = np.random.default_rng(seed).normal(size=(50, dimensions))
    return features.mean(0), np.cov(features, rowvar=False)


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "ref.npz", **arrays)
        return tmp_path / "ref.npz"

    return save


# What is read


def test_mu_and_sigma_are_read_as_clean_fid_writes_them(save, network):
    mu, sigma = statistics()
    path = save(mu=mu, sigma=sigma)
    found = read_reference(path, network)
    assert np.allclose(found.gaussian.mean, mu, rtol=0)
    assert np.allclose(found.gaussian.covariance, sigma, rtol=0, atol=1e-15)
    assert found.gaussian.mean.dtype == torch.float64
    assert found.gaussian.count == 0, "the file does not say how many images there were"
    assert found.sha256 == file_sha256(path)
    assert found.name == "ref"
    assert found.warnings == ()


def test_statistics_in_float32_are_read_too(save, network):
    mu, sigma = (part.astype(np.float32) for part in statistics())
    assert (
        read_reference(save(mu=mu, sigma=sigma), network).gaussian.covariance.dtype == torch.float64
    )


def test_adms_file_gives_its_own_statistics_and_its_images_by_and_by(save, network):
    """Its statistics are of the whole training set, its images for neighbors only."""
    mu, sigma = statistics()
    images = pictures(20)
    path = save(mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma, arr_0=images)
    found = read_reference(path, network)
    assert np.allclose(found.gaussian.mean, mu)
    assert found.facts["format"] == "adm"
    seen = torch.cat([batch.images for batch in found.images.batches(6)])
    assert torch.equal(seen, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert [batch.first for batch in found.images.batches(6)] == [0, 6, 12, 18]
    middle = list(found.images.batches(6, start=5, stop=9))
    assert middle[0].first == 5
    assert torch.equal(middle[0].images, seen[5:9])


@pytest.mark.parametrize("packed", [False, True])
def test_adms_samples_without_statistics_are_measured(tmp_path, network, packed):
    images = pictures(30)
    writer = np.savez_compressed if packed else np.savez
    writer(tmp_path / "samples.npz", images, np.arange(30))
    found = read_reference(tmp_path / "samples.npz", network)
    (expected,) = build_reference(batches(images), [network], {})
    assert found.gaussian.count == 30
    assert torch.allclose(found.gaussian.covariance, expected.gaussian.covariance)


def test_a_large_array_is_never_read_whole(save, network, monkeypatch):
    path = save(arr_0=pictures(500))
    reads = []
    plain = zipfile.ZipExtFile.read

    def read(self, n=-1):
        reads.append(n)
        return plain(self, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    read_reference(path, network)
    assert reads
    assert max(reads) <= 64 * 48, "more than a batch was read at once"
    assert min(reads) > 0


def test_clean_fids_features_are_read(save, network):
    features = np.random.default_rng(0).normal(size=(40, D)).astype(np.float32)
    found = read_reference(save(feats=features), network)
    assert torch.equal(found.features, torch.from_numpy(features))
    assert np.allclose(found.gaussian.covariance, np.cov(features, rowvar=False), atol=1e-6)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_edm2s_pickle_is_read_by_network(tmp_path, network, protocol):
    mu, sigma = statistics()
    other_mu, other_sigma = statistics(1)
    content = {
        "num_images": 50_000,
        "fid": {"mu": mu, "sigma": sigma},
        "fd_dinov2": {"mu": other_mu, "sigma": other_sigma},
    }
    path = tmp_path / "img512.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    assert np.array_equal(read_reference(path, network).gaussian.mean, mu)
    found = read_reference(path, Projection("dinov2-large"))
    assert np.array_equal(found.gaussian.mean, other_mu)
    assert found.gaussian.count == 50_000


def test_pickles_of_old_numpy_are_read(tmp_path, network):
    mu, sigma = statistics()
    new = pickle.dumps({"fid": {"mu": mu, "sigma": sigma}}, 2)
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core." in old
    (tmp_path / "old.pkl").write_bytes(old)
    assert np.array_equal(read_reference(tmp_path / "old.pkl", network).gaussian.mean, mu)


# What is built


def test_a_reference_is_built_in_one_pass_and_read_again(tmp_path, network):
    images = pictures(100)
    other = Projection("dinov2-large", "pil_bicubic_224")
    source = iter(batches(images))
    seen, kept = [], spread(100, 30)
    built = build_reference(source, [network, other], {"crop": "none"}, kept, seen.append)
    path = tmp_path / "deep" / "ref.npz"
    sha256 = write_reference(path, built)
    assert sum(seen) == 100
    for each, mine in zip((network, other), built, strict=True):
        found = read_reference(path, each)
        assert torch.equal(found.gaussian.covariance, mine.gaussian.covariance)
        assert torch.equal(found.gaussian.mean, mine.gaussian.mean)
        assert found.gaussian.count == 100
        assert found.sha256 == sha256 == file_sha256(path)
        assert found.facts["crop"] == "none"
        assert found.facts["features"] == "30 of 100 images, spread over all"
        assert found.facts["dimo"] == __version__
        assert found.facts["network"]["sha256"] == each.sha256
        assert found.facts["network"]["resize"] == each.resize
        expected = each(torch.from_numpy(images[kept]).permute(0, 3, 1, 2)).vectors
        assert torch.allclose(found.features, expected, atol=1e-5)
        assert found.warnings == ()


@pytest.mark.parametrize("classes", ["sorted", "in turn"])
def test_kept_features_are_of_all_classes_however_a_folder_is_sorted(classes):
    labels = [n // 500 if classes == "sorted" else n % 10 for n in range(5000)]
    kept = spread(5000, 1000)
    counts = np.bincount([labels[n] for n in kept], minlength=10)
    assert kept == sorted(set(kept))
    assert len(kept) == 1000
    assert counts.min() > 60
    assert spread(40, 50) == list(range(40))
    assert spread(40, 0) == []


def test_statistics_are_those_of_all_images_at_once(network):
    images = pictures(90)
    (found,) = build_reference(batches(images), [network], {})
    features = network(torch.from_numpy(images).permute(0, 3, 1, 2)).vectors.double().numpy()
    assert np.allclose(found.gaussian.mean, features.mean(0), rtol=1e-6)
    assert np.allclose(found.gaussian.covariance, np.cov(features, rowvar=False), atol=1e-5)
    assert found.features is None


def test_a_file_of_one_network_can_be_read_by_other_tools(tmp_path, network):
    built = build_reference(batches(pictures(20)), [network], {})
    write_reference(tmp_path / "ref.npz", built)
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["mu"], built[0].gaussian.mean)
        assert np.array_equal(arrays["sigma"], built[0].gaussian.covariance)
        assert json.loads(str(arrays["facts"]))["networks"][0]["name"] == network.name


def test_the_same_images_give_the_same_file(tmp_path, network):
    hashes = {
        write_reference(
            tmp_path / name, build_reference(batches(pictures(20)), [network], {"a": 1})
        )
        for name in ("a.npz", "b.npz")
    }
    assert len(hashes) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, network, monkeypatch):
    built = build_reference(batches(pictures(20)), [network], {})
    path = tmp_path / "ref.npz"
    before = write_reference(path, built)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MissingError, match="No space left"):
        write_reference(path, built)
    assert file_sha256(path) == before
    assert os.listdir(tmp_path) == ["ref.npz"]


def test_the_built_in_reference_of_digits_is_the_one_that_is_known():
    found = builtin_reference("digits")
    assert found.name == "digits-train-1797"
    assert len(found.sha256) == 64


def test_the_features_behind_a_built_in_reference_have_its_statistics():
    running = RunningGaussian(64)
    running.add(builtin_features("digits", load_network("digits")))
    expected = builtin_reference("digits").gaussian
    assert running.gaussian().count == expected.count
    assert frechet_distance(running.gaussian(), expected) == pytest.approx(0, abs=1e-6)


def test_the_drawings_of_emoji_do_not_ship_but_what_its_network_saw_of_them():
    found = builtin_reference("emoji")
    assert found.name == "emoji-train-5000"
    kept = builtin_features("emoji", load_network("emoji"))
    assert kept.shape == (2500, len(found.gaussian.mean))
    assert kept.mean(0) == pytest.approx(found.gaussian.mean, abs=0.15)


def test_a_built_in_reference_that_does_not_exist_is_refused():
    with pytest.raises(MissingError, match="no built-in reference for `cats`"):
        builtin_reference("cats")


# What is said


def test_fewer_images_than_features_are_a_warning(tmp_path, network):
    built = build_reference(batches(pictures(D)), [network], {})
    assert f"{D} images" in built[0].warnings[0]
    write_reference(tmp_path / "ref.npz", built)
    assert f"{D} images" in read_reference(tmp_path / "ref.npz", network).warnings[0]
    (enough,) = build_reference(batches(pictures(D + 1)), [network], {})
    assert enough.warnings == ()


def test_a_singular_covariance_of_unknown_count_is_a_warning(save, network):
    features = np.zeros((50, D))
    features[:, 0] = np.random.default_rng(0).normal(size=50)
    found = read_reference(save(mu=features.mean(0), sigma=np.cov(features, rowvar=False)), network)
    assert "singular" in found.warnings[0]


def test_another_file_of_the_same_network_is_a_warning(tmp_path, network):
    write_reference(tmp_path / "ref.npz", build_reference(batches(pictures(20)), [network], {}))
    found = read_reference(tmp_path / "ref.npz", Projection(sha256="b" * 64))
    assert "another file of inception" in found.warnings[0]


@pytest.mark.parametrize("other", [Projection("dinov2-large"), Projection(resize="clean")])
def test_a_reference_of_another_network_or_resize_is_refused(tmp_path, network, other):
    write_reference(tmp_path / "ref.npz", build_reference(batches(pictures(20)), [network], {}))
    with pytest.raises(SpecError, match="was not built for") as error:
        read_reference(tmp_path / "ref.npz", other)
    assert f"{network.name} (none)" in error.value.message


def bad_statistics():
    mu, sigma = statistics()
    wide_mu, wide_sigma = statistics(0, 2 * D)
    skewed, negative, nan, infinite = (sigma.copy() for _ in range(4))
    skewed[0, 1] += 1
    negative -= 2 * sigma.trace() * np.eye(D)
    nan[2, 2] = np.nan
    infinite[1, 1] = np.inf
    slightly = sigma - 1.001 * np.linalg.eigvalsh(sigma)[0] * np.eye(D) - 1e-3 * np.eye(D)
    return {
        "wrong dimension": ({"mu": wide_mu, "sigma": wide_sigma}, "this network has 6"),
        "mean and covariance differ": ({"mu": mu, "sigma": wide_sigma}, "this network has 6"),
        "flat covariance": ({"mu": mu, "sigma": mu}, "this network has 6"),
        "NaN in the mean": ({"mu": mu * np.nan, "sigma": sigma}, "mean of .* NaN"),
        "NaN in the covariance": ({"mu": mu, "sigma": nan}, "covariance of .* NaN"),
        "infinite": ({"mu": mu, "sigma": infinite}, "infinite"),
        "not symmetric": ({"mu": mu, "sigma": skewed}, "not symmetric"),
        "negative variances": ({"mu": mu, "sigma": negative}, "negative variances"),
        "one negative variance": ({"mu": mu, "sigma": slightly}, "negative variances"),
        "all zeros": ({"mu": mu, "sigma": sigma * 0}, "negative variances|no covariance"),
        "integers": ({"mu": mu.astype(int), "sigma": sigma}, "not of real numbers"),
        "complex": ({"mu": mu, "sigma": sigma + 0j}, "not of real numbers"),
        "objects": ({"mu": np.array([{}], dtype=object), "sigma": sigma}, "Python objects"),
        "no known names": ({"means": mu}, "it holds means"),
        "only mu": ({"mu": mu}, "it holds mu"),
        "features of one image": ({"feats": np.zeros((1, D))}, "real numbers"),
        "NaN features": ({"feats": np.full((9, D), np.nan)}, "row 0 of 9"),
        "features of another width": ({"feats": np.ones((9, 4)) * mu[:4]}, "this network has 6"),
        "float images": ({"arr_0": pictures(4).astype(float)}, "where images should be"),
        "gray images": ({"arr_0": pictures(4)[..., 0]}, "where images should be"),
        "images in columns": ({"arr_0": np.asfortranarray(pictures(4))}, "where images should be"),
        "no images": ({"arr_0": pictures(0)}, "no images"),
        "one image": ({"arr_0": pictures(1)}, "reference of 1 images"),
        "damaged facts": ({"mu": mu, "sigma": sigma, "facts": np.array("{")}, "damaged"),
        "empty": ({}, "holds nothing"),
    }


@pytest.mark.parametrize("name", bad_statistics())
def test_impossible_references_are_refused(save, network, name):
    arrays, said = bad_statistics()[name]
    with pytest.raises(SpecError, match=said) as error:
        read_reference(save(**arrays), network)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"PK\x03\x04 and no more", b"\x80\x04K\x01."],
    ids=["empty", "html", "truncated", "pickle"],
)
def test_a_file_that_is_no_npz_is_refused(tmp_path, network, content):
    (tmp_path / "ref.npz").write_bytes(content)
    with pytest.raises(SpecError, match="no readable npz"):
        read_reference(tmp_path / "ref.npz", network)


def test_a_truncated_npz_is_refused(save, network):
    path = save(mu=statistics()[0], sigma=statistics()[1])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(SpecError, match="no readable npz"):
        read_reference(path, network)


def test_a_flipped_byte_is_noticed(save, network):
    path = save(mu=statistics()[0], sigma=statistics()[1])
    content = bytearray(path.read_bytes())
    content[content.find(b"\x93NUMPY") + 140] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SpecError, match="cannot be read"):
        read_reference(path, network)


def test_a_flipped_byte_of_an_image_is_noticed(save, network):
    path = save(arr_0=pictures(200))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SpecError, match="truncated or damaged"):
        read_reference(path, network)


def test_a_single_array_is_refused(tmp_path, network):
    with (tmp_path / "ref.npz").open("wb") as file:
        np.save(file, statistics()[0])
    with pytest.raises(SpecError, match="single array"):
        read_reference(tmp_path / "ref.npz", network)


def test_a_file_that_is_not_there_is_refused_with_what_to_do(tmp_path, network):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(MissingError, match="no reference file") as error:
            read_reference(path, network)
        assert "dimo eval ref build" in error.value.hint


class Runs:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        {"fid": Runs((print, ("this ran",)))},
        {"fid": Runs((os.getcwd, ()))},
        {"fid": Runs((np.load, ("x.npy",)))},
        {"fid": {"mu": np.array([Runs((print, ("this ran",)))], dtype=object)}},
        torch.zeros(3),
        io.BytesIO(),
    ],
    ids=["print", "os", "numpy.load", "inside an array", "tensor", "bytes"],
)
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused(tmp_path, network, content, capsys):
    path = tmp_path / "ref.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(SpecError, match="asks for") as error:
        read_reference(path, network)
    assert "numpy arrays" in error.value.hint
    assert "this ran" not in capsys.readouterr().out


class Told:
    """Pickled as an array of which somebody says what he likes."""

    def __init__(self, shape, kind, content):
        self.shape, self.kind, self.content = shape, kind, content

    def __reduce__(self):
        make, arguments, _ = np.zeros(1).__reduce__()
        return make, arguments, (1, self.shape, np.dtype(self.kind), False, self.content)


@pytest.mark.parametrize(
    "told",
    [
        Told((1,), "O", b"A" * 8),  # numpy takes these bytes for the address of an object
        Told((10**12,), "f8", b"A" * 8),
        Told((2, -1), "f8", b"A" * 16),
        Told((2,), "f8", [1.0, 2.0]),
        Told((1,), "U4", b"A" * 16),
        Told((1,), [("mu", "f8")], b"A" * 8),
        Told("ab", "f8", b"A" * 16),
    ],
    ids=["addresses", "too few bytes", "negative", "a list", "text", "fields", "no shape"],
)
def test_what_a_pickle_says_of_an_array_is_held_against_its_bytes(tmp_path, network, told):
    path = tmp_path / "ref.pkl"
    path.write_bytes(pickle.dumps({"fid": {"mu": told, "sigma": np.eye(D)}}, protocol=2))
    code = (
        "import sys; from pathlib import Path\n"
        "from dimo_cli.errors import SpecError\n"
        "from dimo_cli.metrics.statistics_pickle import read_statistics_pickle\n"
        "try: read_statistics_pickle(Path(sys.argv[1]))\n"
        "except SpecError as error: sys.exit(str(error))"
    )
    # In a process of its own: what this guards against ends the one that it happens in.
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    assert "no pickle of feature statistics" in ended.stderr


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_protocol_gives_the_arrays_that_were_written(tmp_path, protocol, order):
    arrays = {
        "mu": np.arange(6, dtype=">f4"),
        "sigma": np.array(np.random.default_rng(0).normal(size=(3, 4)), order=order),
        "count": np.int64(7),
        "masks": [np.eye(2, dtype="i2")],
    }
    (tmp_path / "ref.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = read_statistics_pickle(tmp_path / "ref.pkl")
    assert found["count"] == 7
    assert np.array_equal(found["mu"], arrays["mu"])
    assert np.array_equal(found["sigma"], arrays["sigma"])
    assert np.array_equal(found["masks"][0], np.eye(2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no pickle"),
        (b"not a pickle", "no pickle"),
        (pickle.dumps({"fid": 1})[:-3], "no pickle"),
        (pickle.dumps([1]), "holds list"),
        (pickle.dumps({}), "holds nothing"),
        (pickle.dumps({"fid": {"mu": np.zeros(D)}}), "no statistics"),
        (pickle.dumps({"fid": {"mu": 1, "sigma": 2}}), "no statistics"),
        (pickle.dumps({"fd_dinov2": {}}), "it holds fd_dinov2"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, network, content, said):
    (tmp_path / "ref.pkl").write_bytes(content)
    with pytest.raises(SpecError, match=said):
        read_reference(tmp_path / "ref.pkl", network)


@pytest.mark.parametrize("count", [0, 1])
def test_no_reference_is_built_of_less_than_two_images(network, count):
    with pytest.raises(SpecError, match=f"{count} images"):
        build_reference(batches(pictures(count)), [network], {})


def test_features_that_are_no_numbers_are_refused(network):
    network.matrix[0, 0] = torch.nan
    with pytest.raises(SpecError, match="NaN"):
        build_reference(batches(pictures(9)), [network], {})


def test_a_reference_is_an_npz(tmp_path, network):
    with pytest.raises(SpecError, match=r"\.npz"):
        write_reference(tmp_path / "ref.pkl", build_reference(batches(pictures(9)), [network], {}))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, network):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="Cannot write"):
        write_reference(
            tmp_path / "file" / "ref.npz", build_reference(batches(pictures(9)), [network], {})
        )


def test_running_sums_need_no_second_look(network):
    """A reference may also be made of sums that an evaluation took anyway."""
    running = RunningGaussian(D)
    for batch in batches(pictures(40)):
        running.add(network(batch.images).vectors)
    (found,) = build_reference(batches(pictures(40)), [network], {})
    assert torch.equal(running.gaussian().covariance, found.gaussian.covariance)
