"""What a network is made of: ONNX graphs, and the channels that layers share."""
