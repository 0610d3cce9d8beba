"""Poses over HTTP: `make_app` builds the application, `serve` runs it until it is stopped."""

from ppose.deploy.service.app import make_app
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.server import serve

__all__ = ["Limits", "make_app", "serve"]
