"""Serves poses over HTTP: POST /pose takes a picture, / is a page to try it with."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import run

EXAMPLES = """\
examples:
  python deploy/serve.py --model_dir=output/inference/imhn_quickstart
  python deploy/serve.py --model_dir=output/inference/tinypose_256x192 \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian --backend=openvino --port 8000
  curl -F image=@photo.jpg http://127.0.0.1:8000/pose
  curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg \\
      'http://127.0.0.1:8000/pose?min_score=0.3'

Then open http://127.0.0.1:8000/ in a browser. Only this machine reaches the service unless --host
says otherwise; it knows no passwords and no TLS: put a proxy that does before it. Browsers give a
page the camera only over HTTPS or from the machine itself.
/healthz says whether it is ready, /metrics is for Prometheus, /openapi.json describes it all.
SIGTERM or Ctrl-C: requests under way are finished, then it exits with 0."""

LIMITS = {
    "max_bytes": "bytes of a picture's file; more is 413",
    "max_pixels": "pixels of a picture, read from its header; more is 413",
    "max_queue": "requests at once; more are 429. About the pictures for each second, times the "
    "seconds that a client is ready to wait",
    "max_batch": "pictures for each run of the network",
    "max_wait_ms": "milliseconds that a picture waits for others on their way to share a run",
    "timeout": "seconds for a request; then 503",
    "upload_timeout": "seconds in which a picture has to arrive; then 408",
}


def main() -> None:
    from ppose.deploy import options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model_dir", required=True, help="folder of an exported network")
    options.add_detector(model)
    options.add_machine(model)
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; all: 0.0.0.0")
    address.add_argument(
        "--port", type=int, default=8000, help="default: 8000; 0 takes a free one and prints it"
    )
    limits = parser.add_argument_group("limits")
    try:
        from ppose.deploy.service import Limits, make_app, serve
    except ModuleNotFoundError as error:
        parser.error(f"{error}; the service needs: pip install -r requirements-serve.txt")
    for field in fields(Limits):
        limits.add_argument(
            f"--{field.name}",
            type=int if field.type == "int" else float,
            default=field.default,
            help=f"{LIMITS[field.name]}; default: {field.default}",
        )
    args = parser.parse_args()
    chosen = options.for_finder(options.chosen(parser, args))
    bounds = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})

    from ppose.deploy.finder import load_finder

    finder = load_finder(args.model_dir, batch_size=max(8, bounds.max_batch), **chosen)
    serve(make_app(finder, skeleton=finder.skeleton, limits=bounds), args.host, args.port)


if __name__ == "__main__":
    run(main)
