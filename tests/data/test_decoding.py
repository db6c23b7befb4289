import io
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, TiffImagePlugin

from moeash.data.decoding import convert, decode
from moeash.errors import DataError

RAMP = np.array([[0, 1, 128, 129], [255, 256, 257, 385], [386, 1000, 32767, 65535]], np.uint16)
SCALED = np.round(RAMP / 257).astype(np.uint8)
GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values, colour, *, bits=16, size=None):
    """Return a PNG by hand: Pillow does not write 16-bit colour."""
    width, height = size or values.shape[1::-1]
    rows = values.astype(f">u{bits // 8}").reshape(len(values), -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def tiff(values, **tags):
    numbers = {"bits": 258, "photometric": 262, "sample_format": 339}
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[numbers[name]] = value
    return saved(Image.fromarray(values), "TIFF", tiffinfo=info)


WIDE_GREY = {
    "png": png(RAMP, 0),
    "tiff": saved(Image.fromarray(RAMP), "TIFF"),
    "big-endian tiff": saved(
        Image.frombytes("I;16B", (4, 3), RAMP.astype(">u2").tobytes()), "TIFF"
    ),
    "pgm": b"P5 4 3 65535\n" + RAMP.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", WIDE_GREY)
def test_sixteen_bit_grey_is_rounded_to_eight_bits(name):
    grey = np.asarray(decode("x", WIDE_GREY[name], "L"))
    assert_array_equal(grey, SCALED)
    colour = np.asarray(decode("x", WIDE_GREY[name], "RGB"))
    assert_array_equal(colour, np.repeat(SCALED[..., None], 3, axis=-1))


def test_a_pgm_of_ten_bits_is_scaled_by_its_own_white():
    data = b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes()
    assert_array_equal(np.asarray(decode("x", data, "L")), [[0, 128, 255]])


WIDE = np.stack([RAMP, RAMP[::-1], 65535 - RAMP], axis=-1)
WIDE_COLOUR = {
    "RGB": (png(WIDE, 2), WIDE >> 8),
    "RGBA": (png(np.dstack([WIDE, RAMP]), 6), WIDE >> 8),
    "LA": (png(np.dstack([RAMP, RAMP[::-1]]), 4), np.repeat(RAMP[..., None] >> 8, 3, axis=-1)),
}


@pytest.mark.parametrize("name", WIDE_COLOUR)
def test_sixteen_bit_colour_keeps_its_upper_eight_bits(name):
    data, expected = WIDE_COLOUR[name]
    assert_array_equal(np.asarray(decode("x", data, "RGB")), expected)


def image(mode, values):
    height, width = values.shape[:2]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(values).tobytes())


def palette(alpha=False):
    made = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    made.putpalette(COLOUR.reshape(-1).tolist())
    if alpha:
        made.info["transparency"] = 0
    return made


def luma(colour):
    """Return ITU-R 601 grey as Pillow computes it."""
    weights = np.array([19595, 38470, 7471])
    return ((colour.astype(int) @ weights + 0x8000) >> 16).astype(np.uint8)


ALPHA = np.array([[0, 1, 128], [200, 254, 255]], np.uint8)
INK = np.dstack([COLOUR, np.zeros_like(GREY)])
MODES = {  # mode: encoded picture, and what it shows
    "1": (saved(Image.fromarray(GREY > 127), "PNG"), np.where(GREY > 127, 255, 0)),
    "L": (saved(Image.fromarray(GREY), "PNG"), GREY),
    "LA": (saved(image("LA", np.dstack([GREY, ALPHA])), "PNG"), GREY),
    "P": (saved(palette(), "PNG"), COLOUR),
    "P with transparency": (saved(palette(), "PNG", transparency=0), COLOUR),
    "RGB": (saved(Image.fromarray(COLOUR), "PNG"), COLOUR),
    "RGBA": (saved(image("RGBA", np.dstack([COLOUR, ALPHA])), "PNG"), COLOUR),
    "CMYK": (saved(image("CMYK", INK), "TIFF"), 255 - COLOUR),
    "4 bits": (b"P5 3 1 15\n" + bytes([0, 7, 15]), np.array([[0, 119, 255]])),
    "white is zero": (tiff(GREY, photometric=0), GREY),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_of_eight_bits_decodes_to_what_it_shows(name):
    data, shown = MODES[name]
    colour = np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown
    assert_array_equal(np.asarray(decode("x", data, "RGB")), colour)
    assert_array_equal(np.asarray(decode("x", data, "L")), luma(colour))


def test_modes_that_few_files_have_convert_exactly():
    pa = Image.merge("LA", [Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))] * 2)
    pa = image("PA", np.asarray(pa))
    pa.putpalette(COLOUR.reshape(-1).tolist())
    assert_array_equal(np.asarray(convert("x", pa, "RGB")), COLOUR)
    hsv = image("HSV", np.array([[[0, 0, 77], [0, 255, 255], [85, 255, 255]]], np.uint8))
    assert_array_equal(
        np.asarray(convert("x", hsv, "RGB")), [[[77, 77, 77], [255, 0, 0], [0, 255, 0]]]
    )
    ycbcr = image("YCbCr", np.dstack([GREY, GREY * 0 + 128, GREY * 0 + 128]))
    assert_array_equal(np.asarray(convert("x", ycbcr, "RGB")), np.repeat(GREY[..., None], 3, -1))
    assert_array_equal(np.asarray(convert("x", ycbcr, "L")), GREY)
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")):
        wide = Image.frombytes(mode, (4, 3), RAMP.astype(order).tobytes())
        assert_array_equal(np.asarray(convert("x", wide, "L")), SCALED)


REFUSED = {
    "F": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "I": saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "I;16": tiff(RAMP, photometric=0),
    "LAB": saved(image("LAB", COLOUR), "TIFF"),
    "L": tiff(GREY, sample_format=2),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_mode_without_a_known_full_scale_is_refused_by_name(name, mode):
    with pytest.raises(DataError, match=rf"'a/1' has mode '{name}' \(TIFF\), .* convert it"):
        decode("'a/1'", REFUSED[name], mode)


def test_values_outside_a_known_scale_are_refused():
    wrong = Image.fromarray(np.array([[-1, 70_000]], np.int32))
    wrong.format = "PPM"
    with pytest.raises(DataError, match="is grey from -1 to 70000, needed 0 to 65535"):
        convert("x", wrong, "L")


# Pillow warns before it refuses, which a user sees and no more.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "size, message",
    [
        ((9_460, 9_460), "has 9460 x 9460 pixels, at most 89,478,485 are decoded"),
        ((2**27, 1), "has 134217728 x 1 pixels, at most"),
        ((20_000, 10_000), "is not a readable picture"),
        ((2**31 - 1, 2**31 - 1), "is not a readable picture"),
        ((0, 5), "is not a readable picture"),
    ],
)
def test_absurd_dimensions_are_refused_before_memory_is_taken(size, message, monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(DataError, match=f"'a/1' {message}"):
        decode("'a/1'", png(GREY, 0, bits=8, size=size), "L")


@pytest.mark.parametrize("data", [b"", b"text", MODES["RGB"][0][:45], MODES["CMYK"][0][:60]])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(DataError, match="x is not a readable picture") as caught:
        decode("x", data, "RGB")
    assert "BytesIO" not in str(caught.value)
