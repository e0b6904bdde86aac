"""sensor_msgs/PointCloud2 as a picture of distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # PointField.msg
AROUND = (64, 512)  # rows and columns of an unordered cloud
ELEVATION_RAD = np.deg2rad(30.0)  # it is shown from this far below the horizon to this far above


def range_picture(cloud: Any) -> npt.NDArray[np.float32]:
    """Return distances in metres [H, W], NaN where there is none.

    A cloud in rows and columns (a depth camera) keeps them, and its distance is z, along the optical axis. An
    unordered one (a laser scanner) is seen from its origin: columns are azimuth from behind the right to behind the
    left (x ahead, z up), rows are elevation.

    Raises:
        ValueError: no x, y, z, or sizes that do not belong together.
    """
    fields = {field.name: field for field in cloud.fields}
    missing = [name for name in "xyz" if name not in fields]
    if missing:
        raise ValueError(
            f"the point cloud has no {', '.join(missing)}; its fields are {', '.join(map(repr, fields)) or 'none'}"
        )
    data = np.frombuffer(cloud.data, np.uint8)
    rows, columns = cloud.height, cloud.width
    if cloud.row_step < columns * cloud.point_step or len(data) < rows * cloud.row_step or not rows * columns:
        raise ValueError(
            f"the point cloud is {columns}x{rows} points in {len(data)} bytes, which does not fit together"
        )
    points = data[: rows * cloud.row_step].reshape(rows, cloud.row_step)[:, : columns * cloud.point_step]
    points = np.ascontiguousarray(points).reshape(rows, columns, cloud.point_step)
    x, y, z = (_values(points, fields[name], cloud.is_bigendian) for name in "xyz")
    return z if rows > 1 else _around(x[0], y[0], z[0])


def _values(points: npt.NDArray[np.uint8], field: Any, big: bool) -> npt.NDArray[np.float32]:
    if field.datatype not in KINDS:
        raise ValueError(f"field {field.name!r} of the point cloud has the unknown type {field.datatype}")
    kind = np.dtype(f"{'>' if big else '<'}{KINDS[field.datatype]}")
    if field.offset + kind.itemsize > points.shape[2]:
        raise ValueError(f"field {field.name!r} of the point cloud lies outside of its points")
    piece = np.ascontiguousarray(points[..., field.offset : field.offset + kind.itemsize])
    return piece.view(kind)[..., 0].astype(np.float32)


def _around(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    distance = np.sqrt(x * x + y * y + z * z)
    kept = np.isfinite(distance) & (distance > 0)
    x, y, z, distance = x[kept], y[kept], z[kept], distance[kept]
    column = ((np.pi - np.arctan2(y, x)) / (2 * np.pi) * AROUND[1]).astype(int) % AROUND[1]
    row = ((ELEVATION_RAD - np.arcsin(z / distance)) / (2 * ELEVATION_RAD) * AROUND[0]).astype(int)
    inside = (row >= 0) & (row < AROUND[0])
    picture = np.full(AROUND, np.inf, np.float32)
    np.minimum.at(picture, (row[inside], column[inside]), distance[inside])
    picture[np.isinf(picture)] = np.nan
    return picture
