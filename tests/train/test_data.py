import gzip

import numpy as np
import pytest
import torch

from smart_train import data as datasets


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_digits(digits):
    images, labels = digits.train
    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 8, 8)
    assert digits.classes == tuple("0123456789") and labels.unique().tolist() == list(range(10))
    assert len(labels) + len(digits.test[1]) == 1797


def test_batches_are_normalised(digits):
    images, labels = digits.batch(0, 512, seed=0)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    assert abs(images.mean()) < 0.1 and abs(images.std() - 1) < 0.1


def test_a_batch_depends_on_step_size_and_seed_alone(digits):
    first = digits.batch(37, 16, seed=3)
    for step in (0, 90, 5):
        digits.batch(step, 16, seed=3)
    again = digits.batch(37, 16, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], digits.batch(37, 16, seed=4)[0])


def test_an_epoch_shows_every_image_once_in_its_own_order(digits):
    count = len(digits.train[1])
    size = 1 + count // 2 - 1  # two batches an epoch
    epochs = [torch.cat([digits.batch(2 * epoch + half, size, 0)[0] for half in (0, 1)]) for epoch in (0, 1)]
    assert not torch.equal(*epochs)
    totals = [epoch.double().sum() for epoch in epochs]
    assert abs(totals[0] - totals[1]) <= 2 * digits.normalise(digits.train[0]).double().abs().sum((1, 2, 3)).max()


def test_a_batch_larger_than_the_training_set_raises(digits):
    with pytest.raises(ValueError, match="batch must be at most the 898 training images"):
        digits.batch(0, 1000, seed=0)


def test_test_batches_stop_at_the_limit(digits):
    assert [len(labels) for _, labels in digits.test_batches(60, limit=100)] == [60, 40]
    assert sum(len(labels) for _, labels in digits.test_batches(250)) == len(digits.test[1])


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_from_idx_files(tmp_path, packed):
    pixels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    for prefix in ("train", "t10k"):
        _write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", pixels, packed)
        _write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.array([4, 0, 9], np.uint8), packed)
    data = datasets.load("fashion", str(tmp_path))
    assert np.array_equal(data.train[0][:, 0].numpy(), pixels) and data.test[1].tolist() == [4, 0, 9]


def _write_idx(path, values, packed):
    raw = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    path = path.with_suffix(".gz") if packed else path
    path.write_bytes(gzip.compress(raw) if packed else raw)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03\0\0\0\x09 cut short"])
def test_fashion_that_is_damaged(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must be a whole IDX file of bytes"):
        datasets.load("fashion", str(tmp_path))


def test_fashion_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"apt-get install dataset-fashion-mnist.*--data-dir"):
        datasets.load("fashion", str(tmp_path))


def _pictures(folder, count):
    image = pytest.importorskip("PIL.Image")
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image.new("RGB", (20 + index, 30), (100 * label, index, 7)).save(folder / name / f"{index}.png")


def test_a_folder_of_pictures(tmp_path):
    _pictures(tmp_path, 12)
    data = datasets.load(f"folder:{tmp_path}", size=16)
    assert data.classes == ("cat", "dog") and data.train[0].shape[1:] == (3, 16, 16)
    assert data.train[0][0, 0].unique().tolist() == [100 * data.train[1][0].item()]


def test_a_new_picture_moves_no_other_between_training_and_test(tmp_path):
    _pictures(tmp_path, 12)
    before = datasets.load(f"folder:{tmp_path}", size=16)
    _pictures(tmp_path, 20)
    after = datasets.load(f"folder:{tmp_path}", size=16)
    seen = {tuple(image[:, 0, 0].tolist()) for image in after.test[0]}
    assert {tuple(image[:, 0, 0].tolist()) for image in before.test[0]} <= seen
    assert not {tuple(image[:, 0, 0].tolist()) for image in before.train[0]} & seen


def test_a_folder_that_is_parted_is_tested_on_its_part(tmp_path):
    _pictures(tmp_path / "train", 5)
    _pictures(tmp_path / "val", 2)
    _pictures(tmp_path / "holdout", 3)
    assert len(datasets.load(str(tmp_path), size=8).test[1]) == 4
    data = datasets.load(str(tmp_path), size=8, split="holdout", workers=3)
    assert (len(data.train[1]), len(data.test[1]), data.classes) == (10, 6, ("cat", "dog"))
    alone = datasets.load(str(tmp_path), size=8, split="holdout", workers=1)
    assert all(a.equal(b) for a, b in zip((*data.train, *data.test), (*alone.train, *alone.test), strict=True))


def test_a_fifth_of_the_training_images_can_be_the_test():
    whole, part = datasets.load("digits", split="test"), datasets.load("digits", split="validation")
    assert (
        len(part.test[1]) == 180 and len(part.train[1]) == len(whole.train[1]) - 180 and part.classes == whole.classes
    )
    rows = [{image.numpy().tobytes() for image in each} for each in (whole.train[0], part.train[0], part.test[0])]
    assert rows[0] == rows[1] | rows[2] and not rows[1] & rows[2]


def test_splits_that_are_not_there(tmp_path):
    _pictures(tmp_path / "train", 5)
    with pytest.raises(
        ValueError, match=r"split must name a subfolder of .* beside train, got 'val'; there is \['train'\]"
    ):
        datasets.load(str(tmp_path), split="val")
    (tmp_path / "val" / "cow").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"must have the same classes, got \['cat', 'dog'\] and \['cow'\]"):
        datasets.load(str(tmp_path))
    with pytest.raises(ValueError, match=r"split of digits must be test or validation, got 'val'"):
        datasets.load("digits", split="val")
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        datasets.load("digits", workers=0)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="must be a directory"):
        datasets.load(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="at least 2 class subfolders"):
        datasets.load(f"folder:{tmp_path}")
    _pictures(tmp_path, 12)
    (tmp_path / "cat" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"readable pictures, got .*broken\.png"):
        datasets.load(f"folder:{tmp_path}")


def test_unknown_data():
    with pytest.raises(ValueError, match=r"digits, fashion, folder:PATH, PATH or package.module:function, got 'cifar'"):
        datasets.load("cifar")
