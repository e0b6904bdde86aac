"""The parameters of the recorder."""

from __future__ import annotations

from streaming_vla.parameters.spec import Parameter

RECORDER = (
    Parameter("bag_folder", "recordings", "Folder that gets the bags."),
    Parameter("bag_name", "", "Name of the bag, a folder; empty takes date and time."),
    Parameter(
        "include",
        (".*",),
        "Regular expressions of whole topic names; of the robot's namespace and the shared topics (/diagnostics, "
        "/rosout, /tf, /tf_static, /clock) those that match one are recorded.",
    ),
    Parameter("exclude", ("",), "Regular expressions of topics that are not recorded; an empty one excludes nothing."),
    Parameter(
        "compression",
        "none",
        "Of the chunks in the bag; JPEG pictures gain nothing from it.",
        choices=("none", "zstd", "lz4"),
    ),
    Parameter(
        "jpeg_quality",
        0,
        "Raw 8 bit pictures are stored as JPEG of this quality, on a topic with /compressed at its end; 0 stores them "
        "as they are.",
        low=0,
        high=100,
    ),
    Parameter("flush_s", 0.5, "A killed process loses at most the messages of this time.", "s", low=0.05, high=60.0),
    Parameter("sync_s", 5.0, "A power cut loses at most the messages of this time.", "s", low=0.1, high=600.0),
    Parameter("split_mb", 1000.0, "Size at which a new file begins, 0 for never.", "MB", low=0.0, high=1.0e6),
    Parameter("split_s", 0.0, "Length at which a new file begins, 0 for never.", "s", low=0.0, high=86400.0),
    Parameter(
        "queue_mb",
        256.0,
        "Messages that may wait for the disk; more are dropped and counted.",
        "MB",
        low=1.0,
        high=1.0e5,
    ),
)
