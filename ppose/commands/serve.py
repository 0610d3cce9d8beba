"""Serves poses over HTTP: POST /pose takes an image, / is a page to try it with."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from ppose.commands import arguments
from ppose.deploy.service.limits import Limits

EXAMPLES = """\
  ppose serve --model_dir=output/inference/imhn_quickstart
  ppose serve --model_dir=output/inference/tinypose_256x192 \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian --backend=openvino --port 8000
  curl -F image=@photo.jpg http://127.0.0.1:8000/pose
  curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg \\
      'http://127.0.0.1:8000/pose?min_score=0.3'

Then open http://127.0.0.1:8000/ in a browser. Only this machine reaches the service unless --host
says otherwise; it has no passwords and no TLS: put a proxy that has them in front of it. Browsers
give a page the camera only over HTTPS or from the machine itself.
/healthz says whether it is ready, /metrics is for Prometheus, /openapi.json describes it all.
SIGTERM or Ctrl-C: requests under way are finished, then it exits with 0."""

LIMITS = {
    "max_bytes": "bytes of an image file; more is 413",
    "max_pixels": "pixels of an image, read from its header; more is 413",
    "max_queue": "requests at once whose image has arrived; more are 429. About images per second "
    "times the seconds that a client is ready to wait",
    "max_uploads": "uploads at once, of which one address may have half; the slowest one ends for "
    "another, or that is 429",
    "max_batch": "images per run of the network",
    "max_wait_ms": "milliseconds that an image waits for others to share a run",
    "timeout": "seconds for a request; then 503",
    "upload_timeout": "seconds in which an image has to arrive; then 408",
    "decode_timeout": "seconds of processor time for decoding an image; then 413",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose serve`."""
    model = parser.add_argument_group("model")
    model.add_argument("--model_dir", required=True, help="folder of an exported network")
    arguments.add_detector(model)
    arguments.add_machine(model)
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; all: 0.0.0.0")
    address.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0 takes a free one and prints it"
    )
    address.add_argument(
        "--allowed_hosts",
        nargs="+",
        metavar="NAME",
        help="names under which clients reach the service, such as pose.example.com or "
        "*.example.com; others are 400. Default: the names of this machine itself (localhost) if "
        "--host is one, else all",
    )
    limits = parser.add_argument_group("limits")
    for field in fields(Limits):
        limits.add_argument(
            f"--{field.name}",
            type=int if field.type == "int" else float,
            default=field.default,
            help=f"{LIMITS[field.name]}; default: {field.default}",
        )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Serves until it is stopped."""
    chosen = arguments.for_pipeline(arguments.chosen(parser, args))
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    try:
        from ppose.deploy.service.app import make_app
        from ppose.deploy.service.hosts import default_hosts
        from ppose.deploy.service.server import serve
    except ModuleNotFoundError as error:
        parser.error(f"{error}; the service needs: pip install 'ppose[serve]'")

    from ppose.deploy.pipeline import load_pipeline

    allowed_hosts = args.allowed_hosts or default_hosts(args.host)

    pipeline = load_pipeline(args.model_dir, batch_size=max(8, limits.max_batch), **chosen)
    if pipeline.caution:
        print(pipeline.caution, file=sys.stderr)  # the first line on stdout is the address
    app = make_app(pipeline, skeleton=pipeline.skeleton, limits=limits, allowed_hosts=allowed_hosts)
    serve(app, args.host, args.port)
