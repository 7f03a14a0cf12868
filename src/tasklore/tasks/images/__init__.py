"""Few-shot tasks from images: embedded, from a folder, or from the official place of a data set."""

from .cifar import CifarFS
from .digits import Digits
from .files import read_picture
from .folder import SUFFIXES, ImageFolder, read_folder
from .mnist import Mnist, MnistParts, load_mnist
from .omniglot import Omniglot

__all__ = [
    "SUFFIXES",
    "CifarFS",
    "Digits",
    "ImageFolder",
    "Mnist",
    "MnistParts",
    "Omniglot",
    "load_mnist",
    "read_folder",
    "read_picture",
]
