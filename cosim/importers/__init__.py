"""Foreign models as torch.fx graphs in plain form: torch modules (`tracing`) and ONNX files (`onnx_file`)."""
