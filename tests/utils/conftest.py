import pytest
from http_server import serving
from one_file_server import CONTENT


@pytest.fixture
def server():
    """A server of `/a.bin`."""
    with serving({"/a.bin": CONTENT}) as running:
        yield running
