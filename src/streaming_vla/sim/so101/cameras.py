"""Takes the SO-101's pictures in a thread of its own, so that control goes on while they are drawn.

MuJoCo and OpenGL let go of Python's lock while they draw: a physics step beside it is not delayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_vla.sim.rendering import make_renderer
from streaming_vla.sim.so101.robot import PICTURE_SIZE, Instant
from streaming_vla.sim.so101.scene import CAMERAS, scene_model

Pictures = Mapping[str, npt.NDArray[np.uint8]]  # by camera, [H, W, 3] RGB
_START_TIMEOUT_S = 60.0


class CameraThread:
    """Cameras that all look at the same instants, one instant at a time.

    Args:
        deliver: called in the thread with an instant, its tag and the picture of every camera at it.
        picture_size: width and height in pixels.

    Raises:
        RenderError: no OpenGL for the cameras.
    """

    def __init__(
        self,
        deliver: Callable[[Instant, Any, Pictures], None],
        picture_size: tuple[int, int] = PICTURE_SIZE,
        cameras: tuple[str, ...] = CAMERAS,
    ) -> None:
        self._deliver = deliver
        self._size = picture_size
        self._cameras = cameras
        self._wanted: Queue[tuple[Instant, Any] | None] = Queue(1)
        self._ready = threading.Event()
        self._idle = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise TimeoutError(f"the cameras did not start within {_START_TIMEOUT_S:g} s")
        self._check()

    @property
    def idle(self) -> bool:
        """Whether the next instant would be looked at at once."""
        return self._idle.is_set()

    def take(self, instant: Instant, tag: Any = None) -> bool:
        """Take pictures of `instant`; False, and none, while those before are not delivered.

        Args:
            tag: handed on to who gets the pictures.

        Raises:
            Exception: whatever ended the thread.
        """
        self._check()
        if not self._idle.is_set():
            return False
        self._idle.clear()
        self._wanted.put((instant, tag))
        return True

    def wait(self) -> None:
        """Wait until everything that was taken is delivered.

        Raises:
            Exception: whatever ended the thread.
        """
        self._idle.wait()
        self._check()

    def close(self) -> None:
        """Finish the pictures that are being taken and free the renderer."""
        if self._thread.is_alive():
            self._wanted.put(None)
            self._thread.join()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            import mujoco

            model = scene_model()
            data = mujoco.MjData(model)
            renderer = make_renderer(model, *self._size)  # it belongs to this thread
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        self._idle.set()
        self._ready.set()
        try:
            while (wanted := self._wanted.get()) is not None:
                instant, tag = wanted
                data.qpos[:], data.mocap_pos[:] = instant.positions, instant.square
                mujoco.mj_kinematics(model, data)
                mujoco.mj_camlight(model, data)
                pictures = {}
                for camera in self._cameras:
                    renderer.update_scene(data, camera)
                    pictures[camera] = renderer.render()
                self._deliver(instant, tag, pictures)
                self._idle.set()
        except BaseException as error:
            self._failure = error
        finally:
            renderer.close()
            self._idle.set()  # nobody may wait for ever
