"""Prepared TFDS directories: a true one is read, every other kind is one clear sentence."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from metasg_jax.data import prepared
from metasg_jax.errors import DataError

FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {
                "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
            },
            "label": {
                "pythonClassName": (
                    "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
                ),
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}


def info(name="mnist", version="3.0.1", file_format="array_record", counts=(0, 0)) -> str:
    splits = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(count)],
        }
        for split, count in zip(("train", "test"), counts, strict=True)
    ]
    return json.dumps(
        {"name": name, "version": version, "fileFormat": file_format, "splits": splits}
    )


def describe(root, name="mnist", version="3.0.1", **kwargs):
    where = root / name / version
    where.mkdir(parents=True)
    (where / "dataset_info.json").write_text(info(name, version, **kwargs))
    return where


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def prepare_tiny(root):
    """Writes what TFDS would, without TensorFlow; returns the images and labels by split."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

    where = describe(root, counts=(30, 20))
    (where / "features.json").write_text(json.dumps(FEATURES))
    rng = np.random.default_rng(0)
    written = {}
    for split, count in (("train", 30), ("test", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count)
        writer = ArrayRecordWriter(
            str(where / f"mnist-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(images, labels, strict=True):
            example = Example()
            example.features.feature["image"].bytes_list.value.append(png(image))
            example.features.feature["label"].int64_list.value.append(int(label))
            writer.write(example.SerializeToString())
        writer.close()
        written[split] = (images[..., None], labels)
    return written


@pytest.mark.parametrize("below", ["", "mnist", "mnist/3.0.1"])
def test_reads_a_prepared_directory_without_tensorflow(tmp_path, below, monkeypatch):
    monkeypatch.setattr(prepared, "CHUNK", 7)
    written = prepare_tiny(tmp_path)
    dataset = prepared.read("mnist", tmp_path / below, progress=False)
    np.testing.assert_array_equal(dataset.train_x, written["train"][0])
    np.testing.assert_array_equal(dataset.train_y, written["train"][1])
    np.testing.assert_array_equal(dataset.test_x, written["test"][0])
    np.testing.assert_array_equal(dataset.test_y, written["test"][1])
    assert dataset.train_x.dtype == np.uint8
    assert dataset.train_y.dtype == np.int32
    assert dataset.num_classes == 10
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_record_file_is_one_sentence(tmp_path, damage):
    prepare_tiny(tmp_path)
    file = tmp_path / "mnist/3.0.1/mnist-train.array_record-00000-of-00001"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        file.unlink()
    with pytest.raises(DataError, match="holds mnist, but it can't be read"):
        prepared.read("mnist", tmp_path, progress=False)


def test_missing_directory(tmp_path):
    with pytest.raises(DataError, match=r"^data_dir .*nowhere does not exist"):
        prepared.locate("mnist", tmp_path / "nowhere")


def test_empty_directory(tmp_path):
    with pytest.raises(DataError, match=r"^data_dir .* is empty"):
        prepared.locate("mnist", tmp_path)


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^data_dir .*file can't be read: Not a directory"):
        prepared.locate("mnist", tmp_path / "file")


@pytest.mark.parametrize("forbidden", ["", "mnist"])
def test_forbidden_directory(tmp_path, monkeypatch, forbidden):
    (tmp_path / "mnist").mkdir()
    real = prepared.os.listdir

    def listdir(path):
        if path == tmp_path / forbidden:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(prepared.os, "listdir", listdir)
    with pytest.raises(DataError, match=r"^data_dir .* can't be read: Permission denied"):
        prepared.locate("mnist", tmp_path)


def test_another_data_set_is_named(tmp_path):
    describe(tmp_path, "mnist")
    describe(tmp_path, "svhn")
    with pytest.raises(DataError, match=r"^TFDS_DATA_DIR .* holds mnist, svhn, not cifar10"):
        prepared.locate("cifar10", tmp_path, "TFDS_DATA_DIR")


def test_a_directory_of_something_else(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(DataError, match="holds no data set prepared by TFDS"):
        prepared.locate("mnist", tmp_path)


def test_a_file_format_that_needs_tensorflow(tmp_path):
    describe(tmp_path, file_format="tfrecord")
    with pytest.raises(DataError, match=r"holds mnist as tfrecord.*file_format='array_record'"):
        prepared.locate("mnist", tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "mnist"}'])
def test_damaged_description(tmp_path, content):
    (describe(tmp_path) / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset_info\.json is damaged"):
        prepared.locate("mnist", tmp_path)


def test_newest_version_in_a_readable_format(tmp_path):
    describe(tmp_path, version="3.0.9")
    newest = describe(tmp_path, version="3.0.10")
    describe(tmp_path, version="4.0.0", file_format="tfrecord")
    assert prepared.locate("mnist", tmp_path) == newest
