"""Installed packages work together, and configs are read without importing Paddle."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_dependencies_import_and_work_in_one_process():
    """The metadata of PaddleSlim requires an OpenCV that breaks with NumPy 2; see requirements."""
    out = run(
        "import cv2, numpy, paddle, visualdl, yaml, safetensors.numpy, pycocotools.mask as m\n"
        "from paddleslim.dygraph.dist import Distill\n"
        "from paddleslim.dygraph.quant import QAT\n"
        "image = cv2.resize(numpy.ones((4, 4, 3), 'uint8'), (8, 8))\n"
        "mask = numpy.asfortranarray(image[..., 0])\n"
        "net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 2, 3))\n"
        "QAT(config={'quantizable_layer_type': ['Conv2D']}).quantize(net)\n"
        "x = paddle.to_tensor(image).astype('float32').transpose([2, 0, 1])[None]\n"
        "print(int(m.area(m.encode(mask))), list(net(x).shape), int(numpy.__version__[0]))\n"
    )
    assert out.splitlines()[-1] == "64 [1, 2, 6, 6] 2"


def test_reading_a_config_does_not_import_paddle():
    out = run("import sys, ppose.config, ppose.structures; print('paddle' in sys.modules)")
    assert out.strip() == "False"
