"""What runs on the board: images in, scored boxes out. NumPy and OpenCV; torch only inside deploy/convert."""
