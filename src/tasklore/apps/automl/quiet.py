"""Silence for attempts of which most are bound to be poor: their scores say what warnings would."""

import warnings

from ...shared import WhileWanted

__all__ = ["QUIET"]

QUIET = WhileWanted(lambda: warnings.catch_warnings(action="ignore"))
