"""Host only: torch to ONNX to RKNN, and the vendor's simulator."""
