"""The file formats that are told apart."""

from typing import Final

FORMATS: Final = ("candle-csv", "quote-csv", "candle-json", "candle-parquet", "quote-parquet", "bi5")

PLACE: Final = {"csv": "line", "json": "candle", "parquet": "row"}
"""What a position in a file is called."""
