"""What leaves the house: the record of a trained distance, and ONNX."""
