import pytest
from golden.weights_by_name import fill

from ppose.models import HRNet, LiteHRNet
from ppose.models.lite_hrnet import VARIANTS, Variant


@pytest.fixture(params=["HRNet", "Lite-HRNet", "naive Lite-HRNet"])
def small_backbone(request, monkeypatch):
    """A small, fast backbone of each kind, with weights from `weights_by_name`."""
    if request.param == "HRNet":
        backbone = HRNet(
            width=4, modules=(1, 1, 1), blocks=1, stem_width=8, stage1_width=4, stage1_blocks=1
        )
    else:
        weighting = request.param == "Lite-HRNet"
        monkeypatch.setitem(VARIANTS, "small", Variant((1, 1, 1), 8, weighting))
        backbone = LiteHRNet("small")
    fill(backbone)
    return backbone
