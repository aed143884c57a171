"""Turns models of other tools into plain torch.fx graphs: torch modules (`tracing`) and ONNX files (`onnx_file`)."""
