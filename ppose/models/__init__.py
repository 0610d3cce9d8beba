"""Pose networks. Importing this package registers them for configs."""

from ppose.models.hrnet import HRNet
from ppose.models.imhn import IMHN
from ppose.models.layers import Backbone
from ppose.models.lite_hrnet import LiteHRNet
from ppose.models.network import Network
from ppose.models.pose import PoseNet

__all__ = ["IMHN", "Backbone", "HRNet", "LiteHRNet", "Network", "PoseNet"]
