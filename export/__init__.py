"""Exporters to ONNX, SavedModel and LiteRT, and prediction by what was trained or exported."""
