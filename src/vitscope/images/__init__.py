"""A path, PIL image, array or tensor becomes a batch that remembers its geometry."""

from vitscope.images.ahead import ReadAhead, Unread
from vitscope.images.batch import Batch, prepare
from vitscope.images.geometry import Geometry
from vitscope.images.load import load_image
from vitscope.images.placement import Placement
from vitscope.images.preprocess import Preprocessing

__all__ = ["Batch", "Geometry", "Placement", "Preprocessing", "ReadAhead", "Unread", "load_image", "prepare"]
