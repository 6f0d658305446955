"""The packages. In a wheel, conf and models lie below sweep, where they replace no package of a user's."""

from setuptools import find_namespace_packages, setup

below = ["conf", "models"]
setup(
    packages=[
        *find_namespace_packages(include=["sweep", "sweep.*"]),
        *(f"sweep.{name}" for name in find_namespace_packages(include=[*below, *(f"{name}.*" for name in below)])),
    ],
    package_dir={f"sweep.{name}": name for name in below},
)
