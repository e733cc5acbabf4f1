"""Pictures in, labelled classes out: what is read, how it becomes an input, what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hubtool import vision
from hubtool.errors import InputError, ReadError
from hubtool.graph import Graph

IMAGENET = vision.PRESETS["imagenet"]
DIGITS = {
    "channels": "L",
    "resize": 8,
    "interpolation": "box",
    "crop": 8,
    "range": [0, 1],
    "mean": [0.5],
    "std": [0.25],
    "layout": "NCHW",
}
PLAIN = {**IMAGENET, "resize": 4, "crop": 4, "mean": [0, 0, 0], "std": [1, 1, 1]}


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def saved(tmp_path, image: Image.Image, suffix: str = ".png", **options):
    path = tmp_path / f"picture{suffix}"
    image.save(path, **options)
    return path


# Reading


def test_a_colour_picture_comes_out_as_it_went_in(tmp_path):
    pixels = noise(5, 7)
    image = vision.load_image(saved(tmp_path, Image.fromarray(pixels)))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pixels)


def test_grey_stays_grey(tmp_path):
    pixels = noise(5, 7, 1)
    image = vision.load_image(saved(tmp_path, Image.fromarray(pixels)))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), pixels)


def test_black_and_white_becomes_grey(tmp_path):
    image = vision.load_image(saved(tmp_path, Image.new("1", (3, 2), 1)))
    assert (image.mode, image.getpixel((0, 0))) == ("L", 255)


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("RGB", (4, 4), (200, 30, 10)).quantize(4)
    assert image.mode == "P"
    assert vision.load_image(saved(tmp_path, image)).getpixel((1, 1)) == (200, 30, 10)


def test_what_is_transparent_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    loaded = vision.load_image(saved(tmp_path, image))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]
    half = vision.load_image(saved(tmp_path, Image.new("LA", (1, 1), (0, 128))))
    assert (half.mode, half.getpixel((0, 0))) == ("L", 127)


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = vision.load_image(saved(tmp_path, Image.fromarray(values)))
    assert np.asarray(image).tolist() == [[0, 0, 1, 128, 255]]


def test_print_colours_become_screen_colours(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), ".jpg")
    red, green, blue = vision.load_image(path).getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15


def test_a_turned_photograph_is_set_upright(tmp_path):
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    loaded = vision.load_image(saved(tmp_path, image, exif=exif))
    assert loaded.size == (2, 3)
    assert loaded.getpixel((1, 0)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert vision.load_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_cut_off_is_refused(tmp_path):
    for suffix in (".png", ".jpg"):
        path = saved(tmp_path, Image.fromarray(noise(64, 64)), suffix)
        path.write_bytes(path.read_bytes()[:-900])
        with pytest.raises(ReadError, match=r"(?s)cannot read the picture.*cut off"):
            vision.load_image(path)


def test_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "words.png"
    path.write_text("these are words")
    with pytest.raises(ReadError, match="no picture"):
        vision.load_image(path)
    with pytest.raises(ReadError, match="no such file"):
        vision.load_image(tmp_path / "missing.png")
    with pytest.raises(ReadError, match="directory"):
        vision.load_image(tmp_path)


@pytest.mark.parametrize("limit", [10, 60])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    path = saved(tmp_path, Image.new("L", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ReadError, match=f"more than {limit} pixels"):
        vision.load_image(path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_known_white_are_refused(tmp_path, mode):
    path = saved(tmp_path, Image.new(mode, (2, 2), 70_000), ".tiff")
    with pytest.raises(ReadError, match="black and white"):
        vision.load_image(path)


# Preprocessing


def test_imagenet_preprocessing_is_what_the_zoo_says():
    image = Image.new("RGB", (500, 300), (255, 0, 51))
    x = vision.preprocess(image, "imagenet")
    assert (x.shape, x.dtype, x.flags.c_contiguous) == ((1, 3, 224, 224), np.float32, True)
    wanted = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert np.allclose(x, np.reshape(wanted, (1, 3, 1, 1)), atol=1e-6)


def test_a_picture_of_the_right_size_is_not_resampled():
    pixels = noise(4, 4)
    x = vision.preprocess(Image.fromarray(pixels), PLAIN)
    assert np.allclose(x[0], pixels.transpose(2, 0, 1) / 255, atol=1e-7)


def test_the_shorter_side_is_resized_and_the_centre_cut_out():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255  # the middle third
    wide = vision.preprocess(Image.fromarray(pixels), {**PLAIN, "interpolation": "box"})
    assert np.array_equal(wide, np.ones((1, 3, 4, 4), np.float32))
    tall = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(vision.preprocess(tall, {**PLAIN, "interpolation": "box"}), wide)


def test_bgr_range_and_nhwc():
    image = Image.new("RGB", (4, 4), (255, 0, 51))
    spec = {**PLAIN, "channels": "BGR", "range": [-1, 1], "layout": "NHWC"}
    x = vision.preprocess(image, spec)
    assert x.shape == (1, 4, 4, 3)
    assert np.allclose(x[0, 0, 0], [-0.6, -1, 1], atol=1e-6)


def test_a_small_grey_model_is_expressible():
    small = noise(8, 8, 1)
    large = Image.fromarray(small).resize((64, 64), Image.Resampling.NEAREST)
    x = vision.preprocess(large, DIGITS)
    assert x.shape == (1, 1, 8, 8)
    assert np.allclose(x[0, 0], (small / 255 - 0.5) / 0.25, atol=1e-6)


def test_a_mere_line_does_not_eat_the_memory():
    with pytest.raises(InputError, match="Cut out"):
        vision.preprocess(Image.new("L", (100_000, 1)), "imagenet")


def test_a_preset_is_a_copy_and_a_whole_dict_passes_unchanged():
    given = vision.preprocessing("imagenet")
    given["mean"].append(0)
    assert vision.preprocessing("imagenet") == IMAGENET != given
    assert vision.preprocessing(DIGITS) == DIGITS
    assert json.loads(json.dumps(DIGITS)) == DIGITS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"resizing": 256}, "unknown key 'resizing'"),
        ({"channels": "RGBA"}, "'channels' is 'RGBA', not one of RGB, BGR, L"),
        ({"channels": ["RGB"]}, "'channels' is"),
        ({"interpolation": "cubic"}, "'interpolation' is 'cubic'"),
        ({"layout": "CHW"}, "'layout' is 'CHW'"),
        ({"resize": 256.0}, "'resize' is 256.0, not a number of pixels"),
        ({"resize": True}, "'resize' is True"),
        ({"resize": 10**9}, "'resize' is 1000000000"),
        ({"crop": 0}, "'crop' is 0"),
        ({"crop": 300}, r"'crop' \(300\) is larger than 'resize' \(256\)"),
        ({"range": [0]}, "'range' is .*, not a list of 2"),
        ({"mean": [0.5]}, "'mean' is .*, not a list of 3"),
        ({"mean": [0.5, 0.5, float("nan")]}, "'mean' is"),
        ({"std": [0.2, 0.2, 0]}, "'std' is .*1e-06 is the least"),
        ({"std": "0.2"}, "'std' is"),
    ],
)
def test_a_wrong_preprocessing_is_refused(change, problem):
    with pytest.raises(InputError, match=problem):
        vision.preprocessing({**IMAGENET, **change})


def test_everything_wrong_is_said_at_once():
    with pytest.raises(InputError) as caught:
        vision.preprocessing({"size": 224, "crop": -1})
    assert len(caught.value.problems) == 9
    with pytest.raises(InputError, match="no preprocessing named 'imagnet'"):
        vision.preprocessing("imagnet")
    with pytest.raises(InputError, match="no dict"):
        vision.preprocessing([1])


# Classes


def test_logits_go_through_softmax_and_probabilities_do_not():
    logits = np.log([0.2, 0.7, 0.1]) + 5
    assert vision.top_k(logits, None, 2) == [
        ("class 1", pytest.approx(0.7)),
        ("class 0", pytest.approx(0.2)),
    ]
    assert vision.top_k([[0.2, 0.7, 0.1]], ["a", "b", "c"], 1) == [("b", 0.7)]
    nearly = vision.top_k([0.9, 0.9], None, 1)
    assert nearly == [("class 0", pytest.approx(0.5))]


def test_softmax_is_stable_and_ties_keep_their_order():
    top = vision.top_k(np.float32([1e30, -1e30, 1e30]), None, 3)
    assert [label for label, _ in top] == ["class 0", "class 2", "class 1"]
    assert [probability for _, probability in top] == [0.5, 0.5, 0.0]


def test_fewer_classes_than_wanted_are_all_given():
    assert len(vision.top_k([1.0, 2.0], None, 5)) == 2


@pytest.mark.parametrize(
    ("logits", "labels", "k", "problem"),
    [
        ([1.0, 2.0], ["a"], 1, "2 classes and 1 labels"),
        ([1.0, 2.0], "ab", 1, "no list of strings"),
        ([1.0, np.nan], None, 1, "NaN"),
        ([1.0, 2.0], None, 0, "at least 1"),
        (np.zeros((2, 3)), None, 1, r"shape \[2, 3\]"),
        (np.zeros((1, 0)), None, 1, r"shape \[1, 0\]"),
    ],
)
def test_what_cannot_be_read_as_classes_is_refused(logits, labels, k, problem):
    with pytest.raises(InputError, match=problem):
        vision.top_k(logits, labels, k)


class Recorder:
    """Stands in for a Model: keeps what it is fed, and says 7."""

    def __init__(self, **meta):
        self.graph = Graph(meta=meta)
        self.fed = []

    def __call__(self, x):
        self.fed.append(x)
        return np.eye(10, dtype=np.float32)[[7]]


def test_a_file_a_picture_and_an_array_reach_the_model_alike(tmp_path):
    model = Recorder(preprocessing=DIGITS, labels=[f"the {n}" for n in range(10)])
    image = Image.fromarray(noise(16, 16, 1))
    array = vision.preprocess(image, DIGITS)
    path = saved(tmp_path, image)
    for given in (path, str(path), image, array):
        assert vision.classify(model, given, top=1) == [("the 7", 1.0)]
    assert all(np.array_equal(x, array) for x in model.fed)


def test_an_array_needs_no_preprocessing_and_a_picture_does():
    model = Recorder(name="digits")
    assert vision.classify(model, np.zeros((1, 1, 8, 8), np.float32), top=1)[0][0] == "class 7"
    with pytest.raises(InputError, match=r"(?s)'digits' does not say.*--preprocess imagenet"):
        vision.classify(model, Image.new("L", (8, 8)))


# Labels


def test_imagenet_has_a_thousand_names_in_ilsvrc_order():
    labels = vision.imagenet_labels()
    assert len(labels) == 1000
    assert vision.read_labels("imagenet") == labels
    known = {0: "tench", 134: "crane", 207: "golden retriever", 281: "tabby", 517: "crane"}
    assert all(labels[index].startswith(name) for index, name in known.items())
    assert labels[999].startswith("toilet tissue")
    assert all(label == label.strip() and label for label in labels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "cat\ndog, hound\n"),
        ("windows.txt", "\ufeffcat\r\ndog, hound\r\n\r\n"),
        ("synset.txt", "n02121620 cat\nn02084071 dog, hound\n"),
        ("list.json", '["cat", "dog, hound"]'),
        ("dict.json", '{"1": "dog, hound", "0": "cat"}'),
    ],
)
def test_labels_are_read_from_lines_and_json(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert vision.read_labels(path) == ["cat", "dog, hound"]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("empty.txt", b"\n", "it is empty"),
        ("hole.txt", b"cat\n\ndog\n", "line 2 is empty"),
        ("latin.txt", b"caf\xe9\n", "utf-8"),
        ("broken.json", b"[", "Expecting"),
        ("number.json", b"3", "neither a list"),
        ("numbers.json", b"[1, 2]", "not every label"),
        ("gap.json", b'{"0": "cat", "2": "dog"}', "keys"),
        ("deep.json", b"[" * 100_000, "recursion"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(tmp_path, name, data, problem):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ReadError, match=f"(?s)cannot read labels.*{problem}"):
        vision.read_labels(path)


def test_a_label_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ReadError, match=r"none\.txt"):
        vision.read_labels(tmp_path / "none.txt")
