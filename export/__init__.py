"""Exporters from a kcaps checkpoint folder to ONNX and SavedModel."""
