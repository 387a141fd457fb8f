"""One file per runtime, one function that opens them: uint8 images in, raw heads out."""
