"""From an encoded picture to 8-bit RGB or grey, whatever its mode, or a refusal by name."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from moeash.data.normalise import MOST_PIXELS
from moeash.errors import DataError

PLAIN = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
)
"""Modes that Pillow converts to RGB and grey with full scale at 255.

Transparency is dropped, as the published evaluations of networks do. Colour of 16 bits a channel
comes from Pillow as its upper 8.
"""

GREY16 = frozenset(("I;16", "I;16L", "I;16B", "I;16N"))
"""Modes of 16-bit grey, which Pillow would convert by cutting off at 255."""

SIXTEEN_IN_32 = frozenset(("PNG", "PPM"))
"""Formats whose grey mode ``I`` always has its full scale at 65,535."""

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF."""


def decode(what: str, data: bytes, mode: str) -> Image.Image:
    """Return a picture in 8 bits a channel.

    Args:
        what: what messages call it.
        data: the encoded picture.
        mode: ``"RGB"`` or ``"L"``, grey.

    Raises:
        DataError: it is damaged, has more than :data:`MOST_PIXELS` pixels, or no known full scale,
            as pictures of floats or 32-bit integers.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{what} has {image.width} x {image.height} pixels, at most {MOST_PIXELS:,} "
                    "are decoded; make it smaller"
                )
            return convert(what, image, mode)
    except DataError:
        raise
    except UnidentifiedImageError as exc:
        raise DataError(
            f"{what} is not a readable picture: nothing that is known begins like it"
        ) from exc
    except Exception as exc:
        # A damaged picture surfaces as almost any type: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{what} is not a readable picture: {exc}") from exc


def convert(what: str, image: Image.Image, mode: str) -> Image.Image:
    """Return an opened picture in another mode, with its full scale at 255.

    Raises:
        DataError: its full scale is not known.
    """
    full = _full_scale(what, image)
    if full is not None:
        values = np.asarray(image)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= full:
            raise DataError(
                f"{what} is grey from {values.min()} to {values.max()}, needed 0 to {full}"
            )
        scaled = (values.astype(np.uint32) * 255 + full // 2) // full
        return Image.fromarray(scaled.astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _full_scale(what: str, image: Image.Image) -> int | None:
    """Return the stored value of white of wide grey; ``None`` if Pillow scales the mode itself."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if set(np.atleast_1d(tags.get(SAMPLE_FORMAT, 1))) <= {1, 4}:
        if image.mode in PLAIN:
            return None
        if image.mode in GREY16 and tags.get(PHOTOMETRIC, 1) == 1:
            return int((1 << int(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 16))[0])) - 1)
        if image.mode == "I" and image.format in SIXTEEN_IN_32:
            return 0xFFFF
    raise DataError(
        f"{what} has mode {image.mode!r} ({image.format or 'no format'}), whose full scale is not "
        f"known; convert it to 8-bit RGB or grey, or to 16-bit grey PNG"
    )
