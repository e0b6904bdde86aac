"""Raw pictures as JPEG, for recordings: a tenth of the bytes, named as image_transport names them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from streaming_vla.bags.definitions import definition, standard
from streaming_vla.bags.topics import Topic
from streaming_vla.images.decode import COMPRESSED, IMAGE, check_picture, pixels_of
from streaming_vla.images.encode import encode_pixels
from streaming_vla.images.encodings import DEPTHS

ENDING = "compressed"  # of the topic
KEPT = {*DEPTHS, "mono16"}  # more than 8 bits: a JPEG would lose what is measured


def compress(topic: Topic, data: bytes, quality: int) -> tuple[Topic, bytes]:
    """Return topic and bytes of a message as they are stored: a raw picture as JPEG, everything else as it is.

    A picture that cannot be decoded is stored as it is too: whoever reads it tells what is wrong with it.

    Args:
        topic: of the message.
        data: CDR.
        quality: of the JPEG, 1 to 100.
    """
    if topic.type != IMAGE:
        return topic, data
    types = standard()
    try:
        image = types.deserialize_cdr(data, IMAGE)
        if image.encoding in KEPT:
            return topic, data
        pixels = pixels_of(check_picture(image))
    except Exception:  # generated code meets arbitrary bytes
        return topic, data
    if image.encoding in ("mono8", "8UC1"):
        text, pixels = "mono8; jpeg compressed ", pixels[..., 0]
    else:
        text = "bgr8; jpeg compressed bgr8"
    jpeg = np.frombuffer(encode_pixels(pixels, quality), np.uint8)
    message = types.types[COMPRESSED](header=image.header, format=text, data=jpeg)
    return _compressed(topic), bytes(types.serialize_cdr(message, COMPRESSED))


@cache
def _compressed(topic: Topic) -> Topic:
    bare = replace(topic, name=f"{topic.name}/{ENDING}", type=COMPRESSED, definition="")
    text, form = definition(bare)
    return replace(bare, definition=text, definition_format=form, type_hash=standard().hash_rihs01(COMPRESSED))
