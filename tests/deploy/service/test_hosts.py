"""Names under which the service answers."""

import pytest
from service_server import FakeNetwork, check_error, image_file, post, served

from ppose.deploy.service.hosts import HostPatterns, default_hosts
from ppose.utils.errors import PposeError


@pytest.mark.parametrize(
    ("patterns", "host", "fits"),
    [
        (["localhost"], "localhost", True),
        (["localhost"], "LOCALHOST:8000", True),
        (["localhost"], "localhost.", True),
        (["localhost"], "localhost.evil.example", False),
        (["localhost"], "evil.example#localhost", False),
        (["localhost"], "localhost@evil.example", False),
        (["localhost"], "", False),
        (["::1"], "[::1]:8000", True),
        (["[::1]"], "[::1]", True),
        (["::1"], "[::1", False),
        (["*.example.com"], "pose.example.com", True),
        (["*.example.com"], "example.com", False),
        (["*.example.com"], "badexample.com", False),
        (["*"], "anything", True),
    ],
)
def test_patterns(patterns, host, fits):
    assert (host in HostPatterns(patterns)) is fits


@pytest.mark.parametrize("pattern", ["", "http://x", "a.*", "*.", "x/y", "**"])
def test_invalid_patterns(pattern):
    with pytest.raises(PposeError, match="allowed_hosts: .* is not a host"):
        HostPatterns([pattern])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_this_machine_has_its_own_names(address):
    assert "evil.example" not in HostPatterns(default_hosts(address))
    assert "localhost:80" in HostPatterns(default_hosts(address))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5", "pose.example.com"])
def test_networks_have_names_that_only_their_operator_knows(address):
    assert "pose.example.com" in HostPatterns(default_hosts(address))


def test_other_hosts_are_refused():
    with served(FakeNetwork(), allowed_hosts=("127.0.0.1",)) as client:
        assert post(client, image_file()).status_code == 200
        for path in ("/", "/app.js", "/app.js/", "/healthz"):
            response = client.get(path, headers={"Host": "evil.example"})
            assert "--allowed_hosts" in check_error(response, 400, "host")
            assert response.headers["x-content-type-options"] == "nosniff"


def test_no_redirects():
    with served(FakeNetwork()) as client:
        for path in ("/app.js/", "/pose/"):
            response = client.get(path, headers={"Host": "evil.example"})
            assert response.status_code == 404 and "location" not in response.headers
