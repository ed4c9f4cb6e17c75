"""The verbs for whole networks; imported only where one is meant, because they need the onnx extra."""
