"""What calibration inputs know about a network: a quadratic model of its loss."""
