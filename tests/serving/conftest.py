"""An exported file, and servers of it in processes of their own."""

import contextlib
import io
import sys

import numpy as np
import pytest
from kit.exported import exported_file
from kit.servers import RUN, Live, started
from PIL import Image

from fmtl.model import exported


@pytest.fixture(scope="session")
def contents():
    """Two models that say different things."""
    return [exported_file(0, "1"), exported_file(1, "2")]


@pytest.fixture(scope="session")
def photos():
    """PNGs of many sizes."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(24):
        height, width = rng.integers(20, 160, 2)
        buffer = io.BytesIO()
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((int(width), int(height))).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


@pytest.fixture(scope="session")
def expected(contents, photos):
    """Rows of each model for each photo, without a server."""
    return [exported.ExportedModel(content, "x").predict(photos, top_k=1) for content in contents]


@pytest.fixture
def serve(tmp_path, contents):
    """Start servers of the first model."""
    with contextlib.ExitStack() as stack:

        def start(*options, environment=None):
            file = tmp_path / "shop.onnx"
            if not file.exists():
                file.write_bytes(contents[0])
            command = [sys.executable, "-c", RUN, str(file), "--port", "0", *options]
            return Live(*stack.enter_context(started(command, environment)), file)

        yield start


@pytest.fixture(scope="module")
def live(tmp_path_factory, contents):
    """One server for a module's questions."""
    file = tmp_path_factory.mktemp("served") / "shop.onnx"
    file.write_bytes(contents[0])
    with started([sys.executable, "-c", RUN, str(file), "--port", "0"]) as (process, port):
        yield Live(process, port, file)
